"""Leakage of one existing model: at most one shadow model, intervals over records or persons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.stats import rankdata

from palisade.attacks import Attack, View
from palisade.evaluation.measuring.leakage import AT_SHADOWS, PRIORS, tied_share
from palisade.evaluation.measuring.scores import score_all
from palisade.evaluation.result import AUC, BLIND, FPRS, UNSCORED, Result, Row, tied_at, tnr_at, tpr_at
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.statistics.bootstrap import Bootstrap, fleet_metrics
from palisade.evaluation.statistics.intervals import Estimate, clopper_pearson_interval
from palisade.evaluation.statistics.metrics import (
    accuracy_estimate,
    advantage_estimate,
    auc_estimate,
    ppv_estimate,
    roc_points,
    tnr_estimate,
    tpr_estimate,
)
from palisade.evaluation.statistics.roc import Metric, Roc
from palisade.evaluation.subjects.one_model import ModelSubject
from palisade.evaluation.subjects.shadow_files import accuracy_of, margins

MOST = 10_000
"""Records that it is fitted on; more cost time and change little."""
COMPONENTS = 64
FOLDS = 5
LEAST_OF_CLASS = 20
"""Members and non-members of a class that is looked at alone."""
REPLICATES = 1000
"""Of the bootstrap over persons."""
Scores = Float[np.ndarray, "records"]


def blind_scores(
    features: Shaped[np.ndarray, "records ..."] | None,
    labels: Int[np.ndarray, "records"],
    members: Bool[np.ndarray, "records"],
    persons: Int[np.ndarray, "records"] | None = None,
) -> Float[np.ndarray, "records"]:
    """Scores of a classifier that sees the records and not one answer, each by a fit without that record.

    Where a person has several records, the fit lacks all of them: one's others would give away its side.

    Only records of one distribution can be told apart by nothing but the model. Where this classifier succeeds, members
    and non-members differ by themselves, and every attack may only be seeing that difference (Das, Zhang & Tramèr 2024,
    "Blind Baselines Beat Membership Inference Attacks for Foundation Models").

    Args:
        features: the records; None: only their classes are compared.
        labels: the true classes.
        members: which records the model was trained on.
        persons: whose record each one is, at least 5 persons a side, each on one side; None: each another person's.

    Returns:
        Higher = more likely a member; NaN for what exceeds 10,000 records, drawn at random.
    """
    from sklearn.decomposition import PCA  # slow to import; flags of measured runs need none of it
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold

    drawn = np.random.default_rng(0).permutation(len(labels))[:MOST]
    seen = np.equal.outer(labels[drawn], np.unique(labels)).astype(np.float64)
    if features is not None:
        flat = features[drawn].reshape(len(drawn), -1).astype(np.float64)
        if flat.shape[1] > COMPONENTS:
            flat = PCA(min(COMPONENTS, len(flat)), random_state=0).fit_transform(flat)
        seen = np.hstack([flat, seen])
    leaf = min(20, max(2, len(drawn) // 20))
    trees = HistGradientBoostingClassifier(
        max_iter=50, max_leaf_nodes=15, min_samples_leaf=leaf, early_stopping=False, random_state=0
    )
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    scores = np.full(len(labels), np.nan)
    unit = np.arange(len(drawn)) if persons is None else persons[drawn]
    _, first, person = np.unique(unit, return_index=True, return_inverse=True)
    for _, left_out in folds.split(first, members[drawn][first]):
        apart = np.isin(person, left_out)
        fitted_on, scored = np.flatnonzero(~apart), np.flatnonzero(apart)
        told = trees.fit(seen[fitted_on], members[drawn][fitted_on]).decision_function(seen[scored])
        # Ranks: a fold that holds more members leaves fewer to fit on, and would score below the others as a whole.
        scores[drawn[scored]] = rankdata(told) / len(scored)
    return scores


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
    attacked = score_all(subject, attacks, seen, models=1)
    rows, roc = [*_accuracy(seen)], {}
    for attack, (scores,) in attacked.scores.items():
        named = {"attack": attack.name, "access": attack.threat.access}
        rows += measures(scores, members, persons, **named)
        rows += _doubts(scores, members, **named)
        roc[attack.name] = _roc(scores, members)
        if shadow is not None and (margin := margins(attack, seen, shadow)) is not None:
            estimate = accuracy_of(margin, members, persons if has_several(persons) else None, REPLICATES)
            counted = {"members": int(members.sum()), "nonmembers": int((~members).sum())}
            rows.append(_row(AT_SHADOWS, estimate, **named, **counted))
    blind = blind_scores(seen.features, seen.labels, members, persons)
    rows += measures(blind, members, persons, attack=BLIND)
    roc[BLIND] = _roc(blind, members)
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
    yield Row(metric=UNSCORED, value=float(np.isnan(scores).mean()), **named)
    yield Row(metric=tied_at(FPRS[0]), value=tied_share(scores[None], members[None]), **named)


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
        **{tpr_at(fpr): tpr_estimate(scores, members, fpr) for fpr in FPRS},
        **{f"ppv@{100 * prior:g}%prior": ppv_estimate(scores, members, prior) for prior in PRIORS},
        tnr_at(FPRS[0]): tnr_estimate(scores, members, FPRS[0]),
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
    metrics |= {tpr_at(fpr): partial(Roc.tpr_at, fpr=fpr) for fpr in FPRS}
    resampled = Bootstrap(replicates=REPLICATES, persons=persons)
    return fleet_metrics(scores[None], members[None], metrics, resampled).estimates


def _accuracy(view: View) -> Iterator[Row]:
    """Accuracy of the model on members and on others: the gap is what the weakest attack sees."""
    right, members, several = view.correct[0, :, 0], view.membership[0], has_several(view.persons)
    for group, side in (("members", members), ("nonmembers", ~members)):
        correct, trials = int(right[side].sum()), int(side.sum())
        low, high = (np.nan, np.nan) if several else clopper_pearson_interval(correct, trials)
        yield _row("accuracy", Estimate(correct / trials, low, high), group=group)
