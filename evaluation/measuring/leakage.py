"""Leakage of a fleet by one attack, with what guessing finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from palisade.attacks import Attack, View
from palisade.attacks.parts.thresholds import shadow_thresholds
from palisade.evaluation.result import (
    AUC,
    LEAST_TARGETS,
    REPORTED_FPRS,
    TARGET_COUNT,
    UNSCORED_SHARE,
    Row,
    chance_at,
    null_at,
    tied_at,
    tnr_at,
    tpr_at,
)
from palisade.evaluation.statistics.bootstrap import Bootstrap, FleetMetrics, fleet_mean_of_blocks, fleet_metrics
from palisade.evaluation.statistics.chance import chance_level, null_quantiles, null_tprs, redraws_in_blocks
from palisade.evaluation.statistics.metrics import Estimate, tpr_estimate
from palisade.evaluation.statistics.roc import Metric, Ranking, Roc

Scores = Float[np.ndarray, "models records"]
MEMBER_PRIORS = (0.01, 0.1, 0.5)
"""Shares of members among all whom an attacker may suspect."""
ROC_METRICS: Mapping[str, Callable[[Roc], Metric]] = {
    AUC: Roc.auc,
    **{tpr_at(fpr): partial(Roc.tpr_at, fpr=fpr) for fpr in REPORTED_FPRS},
    **{f"ppv@{100 * prior:g}%prior": partial(Roc.ppv, prior=prior, fpr=REPORTED_FPRS[0]) for prior in MEMBER_PRIORS},
    tnr_at(REPORTED_FPRS[0]): partial(Roc.tnr_at, fnr=REPORTED_FPRS[0]),
    "balanced_accuracy": Roc.balanced_accuracy,
    "advantage": Roc.advantage,
}
HINDSIGHT_METRICS = ("balanced_accuracy", "advantage")
"""Metrics at the best threshold for the very records: resampling adds to the bias of that choice."""
AT_SHADOWS = "balanced_accuracy@shadow_threshold"
"""At the threshold that is best on the other models: what an attacker reaches, not the best in hindsight."""
ROC_POINTS = 121
MIN_RECORDS_PER_SIDE = 10
"""Records of either side from which on a group of them says something."""


def null_rows(scores: Mapping[Attack, Scores], seen: View, seed: int) -> Iterator[Row]:
    """Chance level and null quantile of each attack; the quantile is corrected for choosing the strongest of them.

    Args:
        scores: of the attacks that ran.
        seen: what they came from.
        seed: public.
    """
    everybody = np.ones(seen.records, dtype=bool)
    nulls = null_tprs_of([(own, everybody) for own in scores.values()], seen, seed)
    yield from rows_of_nulls(nulls, list(map(named, scores)))


def null_rows_of_groups(
    attack: Attack, scores: Scores, seen: View, seed: int, groups: Iterable[tuple[str, Bool[np.ndarray, "records"]]]
) -> Iterator[Row]:
    """Chance level and null quantile of one attack in each group of records, corrected for choosing among the groups.

    Args:
        attack: that gave the scores.
        scores: of all records.
        seen: what they came from.
        seed: public.
        groups: such as `class=3`, and which records belong to it.
    """
    parts = list(groups)
    nulls = null_tprs_of([(scores, inside) for _, inside in parts], seen, seed)
    yield from rows_of_nulls(nulls, [{**named(attack), "group": group} for group, _ in parts])


@dataclass(frozen=True, kw_only=True, eq=False)
class NullTprs:
    """Null distribution of an attack's TPRs, on all records or on those of a group.

    Args:
        members: scored pairs of a model and a member.
        nonmembers: likewise.
        levels: by FPR the chance level, NaN where it is not resolved.
        replicated: by FPR that is resolved, what the attack reaches in each redraw.
    """

    members: int
    nonmembers: int
    levels: Mapping[float, float]
    replicated: Mapping[float, Float[np.ndarray, "replicates"]]


def null_tprs_of(
    choices: Sequence[tuple[Scores, Bool[np.ndarray, "records"]]], seen: View, seed: int
) -> list[NullTprs]:
    """Null distribution of each of several attacks or groups, by the same redraws.

    Args:
        choices: of each the scores, and which records count; models that were no target take no part.
        seen: where the scores come from.
        seed: public.
    """
    parts = [_Part.of(scores, seen, inside) for scores, inside in choices]
    levels = [{fpr: chance_level(part.nonmembers, fpr) for fpr in REPORTED_FPRS} for part in parts]
    redrawn: list[dict[float, list[np.ndarray]]] = [
        {fpr: [] for fpr, level in of_part.items() if not np.isnan(level)} for of_part in levels
    ]
    for exchanged in redraws_in_blocks(seen.records, seen.persons, seed=seed):
        for part, own in zip(parts, redrawn, strict=True):
            for fpr, blocks in own.items():
                blocks.append(part.null_tprs(fpr, exchanged))
    return [
        NullTprs(
            members=part.members,
            nonmembers=int(part.nonmembers.sum()),
            levels=of_part,
            replicated={fpr: np.concatenate(blocks) for fpr, blocks in own.items()},
        )
        for part, of_part, own in zip(parts, levels, redrawn, strict=True)
    ]


def rows_of_nulls(nulls: Sequence[NullTprs], named: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """Chance levels and null quantiles of several attacks or groups, of which the one that leaks most is looked at.

    Args:
        nulls: of each its null distribution.
        named: the fields of its rows.
    """
    for fpr in REPORTED_FPRS:
        quantiles = dict.fromkeys(range(len(nulls)), float("nan"))
        resolved = [k for k, null in enumerate(nulls) if fpr in null.replicated]
        if resolved:
            # Ties keep an attack below the level; a verdict of leakage must lie above it all the same.
            corrected = null_quantiles(np.column_stack([nulls[k].replicated[fpr] for k in resolved])).tolist()
            quantiles |= {k: max(value, nulls[k].levels[fpr]) for k, value in zip(resolved, corrected, strict=True)}
        for (k, null), names in zip(enumerate(nulls), named, strict=True):
            counts: dict[str, Any] = {"members": null.members, "nonmembers": null.nonmembers}
            for metric, value in ((chance_at(fpr), null.levels[fpr]), (null_at(fpr), quantiles[k])):
                yield Row(metric=metric, value=None if np.isnan(value) else float(value), **counts, **names)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """The targets' scores of some records.

    Args:
        scores: of these records.
        membership: of all records.
        inside: which records these are.
        members: scored pairs of a model and a member.
        nonmembers: scored non-members of each model.
    """

    scores: Scores
    membership: Bool[np.ndarray, "models pool"]
    inside: Bool[np.ndarray, "pool"]
    members: int
    nonmembers: Int[np.ndarray, "models"]

    @classmethod
    def of(cls, scores: Scores, seen: View, inside: Bool[np.ndarray, "pool"]) -> _Part:
        targets = targets_of(scores)
        own = _chosen(scores, targets, inside)
        scored, members = ~np.isnan(own), _chosen(seen.membership, targets, inside)
        return cls(
            scores=own,
            membership=seen.membership if targets.all() else seen.membership[targets],
            inside=inside,
            members=int((members & scored).sum()),
            nonmembers=(~members & scored).sum(axis=1),
        )

    def null_tprs(self, fpr: float, exchanged: Int[np.ndarray, "replicates pool"]) -> Float[np.ndarray, "replicates"]:
        """`null_tprs` of the part."""
        own = exchanged if self.inside.all() else exchanged[:, self.inside]
        return null_tprs(self.scores, self.membership, fpr, own)


def _chosen(
    values: Shaped[np.ndarray, "models records"], models: Bool[np.ndarray, "models"],
    records: Bool[np.ndarray, "records"] | None = None,
) -> Shaped[np.ndarray, "chosen_models chosen_records"]:  # fmt: skip
    """Values of some models on some records, not copied where these are all."""
    if records is not None and not records.all():
        return values[np.ix_(models, records)]
    return values if models.all() else values[models]


def targets_of(scores: Float[np.ndarray, "models records"]) -> Bool[np.ndarray, "models"]:
    """The models that were targets: an attack on a sample of them leaves all scores of the others NaN."""
    targets: np.ndarray = ~np.isnan(scores).all(axis=1)
    return targets


def leakage(
    attack: Attack, scores: Float[np.ndarray, "models records"], seen: View, bootstrap: Bootstrap
) -> Iterator[Row]:
    """The attack's metrics, of the fleet and of each model that was a target."""
    names = named(attack)
    targets = targets_of(scores)
    of_targets, few = _of_targets(bootstrap, targets), is_few(targets)
    whole = fleet_metrics(
        _chosen(scores, targets), _chosen(seen.membership, targets), ROC_METRICS, of_targets, HINDSIGHT_METRICS
    )
    # Resampling records says nothing on one model's threshold, which is taken from these very non-members.
    if seen.models == 1 and (seen.persons is None or len(np.unique(seen.persons)) == seen.records):
        scored = ~np.isnan(scores[0])
        for fpr in REPORTED_FPRS:
            band = tpr_estimate(scores[0, scored], seen.membership[0, scored], fpr)
            whole.estimates[tpr_at(fpr)] = band
    for row in _fleet_rows(whole, names):
        yield replace(row, low=None, high=None) if few else row
    if not targets.all():
        yield Row(metric=TARGET_COUNT, value=float(targets.sum()), **names)
    yield Row(metric=UNSCORED_SHARE, value=float(whole.dropped.mean() / scores.shape[1]), **names)
    for fpr in REPORTED_FPRS:
        yield Row(metric=tied_at(fpr), value=tied_share(scores, seen.membership, fpr), **names)
    accuracy = accuracy_at_shadow_threshold(scores, seen, bootstrap)
    at_shadows = numbers(accuracy) | ({"low": None, "high": None} if few else {})
    yield Row(metric=AT_SHADOWS, **at_shadows, **names)
    for metric, values in whole.per_model.items():
        for place, model in enumerate(np.flatnonzero(targets)):
            yield Row(
                metric=metric,
                model=int(model),
                value=_number(values[place]),
                members=int(whole.members[place]),
                nonmembers=int(whole.nonmembers[place]),
                **names,
            )


def tied_share(
    scores: Float[np.ndarray, "models records"], membership: Bool[np.ndarray, "models records"], fpr: float
) -> float:
    """Share of non-members that tie with the first score beyond an FPR, in the worst model: a threshold jumps over."""
    targets = targets_of(scores)
    models = zip(_chosen(scores, targets), _chosen(membership, targets), strict=True)
    return max(_tied(row[~members & ~np.isnan(row)], fpr) for row, members in models)


def _tied(nonmembers: Float[np.ndarray, "nonmembers"], fpr: float) -> float:
    """Share of one model's non-members that tie with the first beyond an FPR."""
    count = len(nonmembers)
    within = int((np.arange(1, count + 1) / max(count, 1) <= fpr).sum())
    if within == count:
        return 0.0
    first = np.partition(nonmembers, count - 1 - within)[count - 1 - within]
    return float((nonmembers >= first).sum() / count - (nonmembers > first).sum() / count)


def accuracy_at_shadow_threshold(
    scores: Float[np.ndarray, "models records"], seen: View, bootstrap: Bootstrap
) -> Estimate:
    """Mean over targets of the balanced accuracy at a threshold that was chosen on all others."""
    targets = targets_of(scores)
    thresholds = shadow_thresholds(scores, seen.membership, seen.others, seen.left_out)[targets, None]
    own, membership = _chosen(scores, targets), _chosen(seen.membership, targets)
    scored = ~np.isnan(own) & ~np.isnan(thresholds)
    inside, outside = ((scored & side).sum(axis=1, keepdims=True) for side in (membership, ~membership))

    def contributions(block: slice) -> Float[np.ndarray, "targets block"]:
        members = membership[:, block]
        right = np.where(members, own[:, block] >= thresholds, own[:, block] < thresholds)
        with np.errstate(divide="ignore", invalid="ignore"):
            balance = (inside + outside) / (2 * np.where(members, inside, outside))  # both sides count alike
        return np.where(scored[:, block], right * balance, np.nan)

    return fleet_mean_of_blocks(contributions, len(own), seen.records, _of_targets(bootstrap, targets))


def leakage_of_groups(
    attack: Attack, scores: Float[np.ndarray, "models records"], seen: View, bootstrap: Bootstrap,
    groups: Iterable[tuple[str, Bool[np.ndarray, "records"]]],
) -> Iterator[Row]:  # fmt: skip
    """The attack's metrics on the records of each group: a mean over all hides a group that is exposed.

    A group of fewer than 10 members or non-members a model has rows without a value.

    Args:
        attack: that gave the scores.
        scores: of all records.
        seen: what they came from.
        bootstrap: how all records are resampled.
        groups: such as `class=3`, and which records belong to it.
    """
    targets = targets_of(scores)
    of_targets = _of_targets(bootstrap, targets)
    for group, inside in groups:
        drawn = replace(of_targets, persons=None if bootstrap.persons is None else bootstrap.persons[inside])
        own, members = (_chosen(values, targets, inside) for values in (scores, seen.membership))
        part = fleet_metrics(own, members, ROC_METRICS, drawn, HINDSIGHT_METRICS)
        enough = min(part.members.mean(), part.nonmembers.mean()) >= MIN_RECORDS_PER_SIDE
        for row in _fleet_rows(part, {**named(attack), "group": group}):
            yield row if enough else replace(row, value=None, low=None, high=None)


def mean_roc(
    scores: Float[np.ndarray, "models records"], membership: Bool[np.ndarray, "models records"]
) -> tuple[list[float], list[float]]:
    """The mean over targets of the TPR at each FPR, on a logarithmic grid from one false positive on."""
    targets = targets_of(scores)
    own, inside = _chosen(scores, targets), _chosen(membership, targets)
    fprs = np.geomspace(1 / (~np.isnan(own) & ~inside).sum(axis=1).min(), 1, ROC_POINTS)
    rocs = (Ranking(*row).roc() for row in zip(own, inside, strict=True))
    tprs = np.mean([[roc.tpr_at(min(fpr, 1.0)) for fpr in fprs] for roc in rocs], axis=0)
    return fprs.tolist(), tprs.tolist()


def is_few(targets: Bool[np.ndarray, "models"]) -> bool:
    """Too small a sample of the models for an interval over them."""
    return not targets.all() and int(targets.sum()) < LEAST_TARGETS


def _of_targets(bootstrap: Bootstrap, targets: Bool[np.ndarray, "models"]) -> Bootstrap:
    """Resamples the targets alone."""
    return replace(bootstrap, groups=None if bootstrap.groups is None else bootstrap.groups[targets])


def named(attack: Attack) -> dict[str, Any]:
    """Fields by which the rows of an attack are known."""
    return {"attack": attack.name, "access": attack.threat.access}


def _fleet_rows(part: FleetMetrics, named: Mapping[str, Any]) -> Iterator[Row]:
    members, nonmembers = int(part.members.sum()), int(part.nonmembers.sum())
    for metric, estimate in part.estimates.items():
        # A mean over only the models that can resolve an FPR would be of another fleet.
        resolved = not np.isnan(part.per_model[metric]).any()
        result = numbers(estimate) if resolved else {"value": None}
        yield Row(metric=metric, members=members, nonmembers=nonmembers, **result, **named)


def numbers(estimate: Estimate) -> dict[str, Any]:
    """A value with its interval, as fields of a row."""
    return {name: _number(value) for name, value in estimate._asdict().items()}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
