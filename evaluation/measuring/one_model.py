"""Leakage of one existing model, perhaps beside shadow models: intervals over records or persons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from palisade.attacks import Attack, View
from palisade.data.labels import largest_share
from palisade.evaluation.measuring.baselines import blind_test
from palisade.evaluation.measuring.leakage import AT_SHADOWS, MEMBER_PRIORS, tied_share
from palisade.evaluation.measuring.measure import applicable, score_all
from palisade.evaluation.result import (
    AUC,
    BLIND_BASELINE,
    BY_CHANCE,
    LARGEST_CLASS,
    MEMBER_GROUP,
    MODEL_ACCURACY,
    NONMEMBER_GROUP,
    REPORTED_FPRS,
    UNSCORED_SHARE,
    Result,
    Row,
    tied_at,
    tnr_at,
    tpr_at,
)
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.statistics.bootstrap import Bootstrap, fleet_mean, fleet_metrics
from palisade.evaluation.statistics.metrics import (
    Estimate,
    accuracy_estimate,
    advantage_estimate,
    auc_estimate,
    clopper_pearson_interval,
    ppv_estimate,
    roc_points,
    tnr_estimate,
    tpr_estimate,
)
from palisade.evaluation.statistics.roc import Metric, Roc
from palisade.evaluation.subjects.answers import accuracy_of, margins
from palisade.evaluation.subjects.subject import ModelSubject

LEAST_OF_CLASS = 20
"""Members and non-members of a class that is looked at alone."""
PERSON_REPLICATES = 1000
"""Replicates of the bootstrap over persons."""
Scores = Float[np.ndarray, "records"]


def measure_model(subject: ModelSubject, attacks: Sequence[Attack], grant: Grant) -> Result:
    """Result on one model: every attack that it allows for, the strongest also by class.

    Args:
        subject: the model, with its records.
        attacks: those that were chosen. Their scores know one threshold for all classes; those for each class, which
            only a shadow model can teach, give a balanced accuracy of their own.
        grant: what attackers see.
    """
    seen, shadow = subject.view(grant), subject.shadow_view(grant)
    members, persons = seen.membership[0], seen.persons
    attacked = score_all(subject, applicable(attacks, seen), subject.beside_shadows(seen, grant), models=1)
    rows, roc = [*accuracies(seen, {MEMBER_GROUP: members, NONMEMBER_GROUP: ~members})], {}
    for attack, (scores,) in attacked.scores.items():
        named = {"attack": attack.name, "access": attack.threat.access}
        rows += measures(scores, members, persons, **named)
        rows += _doubts(scores, members, **named)
        roc[attack.name] = _roc(scores, members)
        if shadow is not None and (margin := margins(attack, seen, shadow)) is not None:
            estimate = accuracy_of(margin, members, persons if has_several(persons) else None, PERSON_REPLICATES)
            counted = {"members": int(members.sum()), "nonmembers": int((~members).sum())}
            rows.append(_row(AT_SHADOWS, estimate, **named, **counted))
    blind = blind_test(seen.features, seen.labels, members, persons)
    rows += [blind.widened(row) for row in measures(blind.scores, members, persons, attack=BLIND_BASELINE)]
    rows.append(Row(metric=BY_CHANCE, value=blind.p, attack=BLIND_BASELINE))
    roc[BLIND_BASELINE] = _roc(blind.scores, members)
    result = subject.result(rows=rows, roc=roc, needs=attacked.needs, skipped=attacked.skipped, released=seen.outputs)
    own = {attack.name: scores for attack, (scores,) in attacked.scores.items()}
    return replace(result, rows=[*rows, *_by_class(result, own, seen)])


def _by_class(result: Result, scores: Mapping[str, Scores], seen: View) -> Iterator[Row]:
    """Numbers of the strongest attack in each class that has enough records on both sides."""
    if not result.attacks:
        return
    own, members = scores[result.strongest], seen.membership[0]
    named = {"attack": result.strongest, "access": result.get(AUC, attack=result.strongest).access}
    for label in np.unique(seen.labels):
        inside = (seen.labels == label) & ~np.isnan(own)
        if min(members[inside].sum(), (~members[inside]).sum()) >= LEAST_OF_CLASS:
            persons = None if seen.persons is None else seen.persons[inside]
            yield from measures(own[inside], members[inside], persons, **named, group=f"class={label}")


def _doubts(scores: Scores, members: Bool[np.ndarray, "records"], **named: Any) -> Iterator[Row]:
    """Shares of records without a score, and of non-members that tie at the threshold: why not to believe a TPR."""
    yield Row(metric=UNSCORED_SHARE, value=float(np.isnan(scores).mean()), **named)
    for fpr in REPORTED_FPRS:
        yield Row(metric=tied_at(fpr), value=tied_share(scores[None], members[None], fpr), **named)


def _roc(scores: Scores, members: Bool[np.ndarray, "records"]) -> tuple[list[float], list[float]]:
    """Every point of the ROC, from nobody accused to everybody."""
    scored = ~np.isnan(scores)
    points = roc_points(scores[scored], members[scored])
    return points.fpr.tolist(), points.tpr.tolist()


def measures(
    scores: Scores,
    members: Bool[np.ndarray, "records"],
    persons: Int[np.ndarray, "records"] | None = None,
    **named: Any,
) -> Iterator[Row]:
    """One attack's numbers, each with its interval over records.

    Where persons have several, AUC and TPR have intervals that draw persons whole, and the other numbers none.
    """
    scored = ~np.isnan(scores)
    scores, members = scores[scored], members[scored]
    several = has_several(None if persons is None else persons[scored])
    named |= {"members": int(members.sum()), "nonmembers": int((~members).sum())}
    estimates = {
        AUC: auc_estimate(scores, members),
        **{tpr_at(fpr): tpr_estimate(scores, members, fpr) for fpr in REPORTED_FPRS},
        **{f"ppv@{100 * prior:g}%prior": ppv_estimate(scores, members, prior) for prior in MEMBER_PRIORS},
        tnr_at(REPORTED_FPRS[0]): tnr_estimate(scores, members, REPORTED_FPRS[0]),
        "balanced_accuracy": accuracy_estimate(scores, members),
        "advantage": advantage_estimate(scores, members),
    }
    if several:
        assert persons is not None
        drawn = _over_persons(scores, members, persons[scored])
        unresolved = {name for name, estimate in estimates.items() if np.isnan(estimate.high)}
        for name, estimate in estimates.items():
            own = drawn.get(name) if name not in unresolved else None
            estimates[name] = Estimate(estimate.value, *((own.low, own.high) if own else (np.nan, np.nan)))
    for metric, estimate in estimates.items():
        yield _row(metric, estimate, **named)


def has_several(persons: Int[np.ndarray, "records"] | None) -> bool:
    """True where a person has several records."""
    return persons is not None and len(np.unique(persons)) < len(persons)


def units(persons: Int[np.ndarray, "records"] | None, side: Bool[np.ndarray, "records"]) -> int:
    """Number of persons on a side, or of records where nothing is said about persons."""
    return int(side.sum()) if persons is None else len(np.unique(persons[side]))


def _row(metric: str, estimate: Estimate, **named: Any) -> Row:
    value, low, high = (None if np.isnan(number) else float(number) for number in estimate)
    return Row(metric=metric, value=value, low=low, high=high, **named)


def _over_persons(
    scores: Scores, members: Bool[np.ndarray, "records"], persons: Int[np.ndarray, "records"]
) -> Mapping[str, Estimate]:
    metrics: dict[str, Callable[[Roc], Metric]] = {AUC: Roc.auc}
    metrics |= {tpr_at(fpr): partial(Roc.tpr_at, fpr=fpr) for fpr in REPORTED_FPRS}
    resampled = Bootstrap(replicates=PERSON_REPLICATES, persons=persons)
    return fleet_metrics(scores[None], members[None], metrics, resampled).estimates


def accuracies(view: View, sides: Mapping[str, Bool[np.ndarray, "records"]]) -> Iterator[Row]:
    """Accuracy of one model on several groups of records, such as members and others, and the share of their largest
    class: the gap is what the weakest attack sees.

    Where persons have several records, as many count as would be independent if a person's were all right or all wrong
    together (Kish 1965): fewer are never believed than there are.
    """
    if view.tokens is not None:
        yield from _foretold(view, sides)
        return
    right = view.correct[0, :, 0]
    for group, side in sides.items():
        share, count = float(right[side].mean()), int(side.sum())
        trials = count if view.persons is None else _independent(view.persons[side])
        interval = clopper_pearson_interval(share * trials, trials)
        yield _row(MODEL_ACCURACY, Estimate(share, *interval), group=group)
        yield Row(metric=LARGEST_CLASS, value=largest_share(view.labels[side]), group=group)


def _foretold(view: View, sides: Mapping[str, Bool[np.ndarray, "records"]]) -> Iterator[Row]:
    """Share of the tokens of texts that are the model's most likely ones; no value where that is unknown."""
    tokens, unknown = view.tokens, np.full(view.records, np.nan)
    assert tokens is not None
    right = unknown if tokens.greedy is None else tokens.mean(tokens.greedy.astype(np.float64))[0]
    for group, side in sides.items():
        persons = None if view.persons is None else view.persons[side]
        yield _row(MODEL_ACCURACY, fleet_mean(right[side][None], Bootstrap(persons=persons)), group=group)
        yield Row(metric=LARGEST_CLASS, value=None, group=group)


def _independent(persons: Int[np.ndarray, "records"]) -> float:
    sizes = np.unique(persons, return_counts=True)[1]
    return float(sizes.sum() ** 2 / (sizes**2).sum())
