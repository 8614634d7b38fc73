"""Leakage of one existing model: at most one shadow model, intervals over records or persons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.stats import rankdata

from palisade.attacks import Attack, View
from palisade.attacks.parts.thresholds import Threshold
from palisade.evaluation.measuring.leakage import AT_SHADOWS, PRIORS, tied_share
from palisade.evaluation.result import AUC, FPRS, MOSTLY_UNSCORED, Measured, Row, tnr_at, tpr_at
from palisade.evaluation.statistics.bootstrap import Bootstrap, fleet_metrics
from palisade.evaluation.statistics.intervals import Estimate, clopper_pearson_interval
from palisade.evaluation.statistics.metrics import (
    accuracy_estimate,
    advantage_estimate,
    auc_estimate,
    ppv_estimate,
    tnr_estimate,
    tpr_estimate,
)
from palisade.evaluation.statistics.roc import Metric, Roc
from palisade.evaluation.subjects.endpoint import BudgetSpentError
from palisade.evaluation.subjects.shadow_files import accuracy_of, margins

MOST = 10_000
"""Records that it is fitted on; more cost time and change little."""
COMPONENTS = 64
FOLDS = 5
BLIND = "blind_baseline"
"""Stands where an attack's name does; it never asks the model."""
LEAST_OF_CLASS = 20
"""Members and non-members of a class that is looked at alone."""
REPLICATES = 1000
"""Of the bootstrap over persons."""
SPENT = "the budget of queries is spent, raise it with budget=<queries>: answers so far are kept"
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Audited(Measured):
    """Leakage of one model by every attack.

    Args:
        scores: of each attack, and of the blind baseline.
        members: which records the model was trained on.
        needs: for each attack that ran, what it needs in words.
        features: whether the records themselves were known.
        shared: records that are among members and non-members alike; None where that cannot be told.
        shadow_records: about which a shadow model answered; 0 without one.
        over_persons: whether intervals draw persons whole, since somebody has several records.
    """

    scores: Mapping[str, Scores]
    members: Bool[np.ndarray, "records"]
    needs: Mapping[str, str]
    features: bool
    shared: int | None = None
    shadow_records: int = 0
    over_persons: bool = False

    @property
    def attacks(self) -> list[str]:
        """Names of the attacks, without the baseline that never sees the model."""
        return [attack for attack in self.scores if attack != BLIND]

    def is_sampled(self, attack: str) -> bool:
        """True if the attack scored less than half of the records."""
        return bool(np.isnan(self.scores[attack]).mean() > MOSTLY_UNSCORED)


def audited(view: View, attacks: Sequence[Attack], *, shared: int | None = None, shadow: View | None = None) -> Audited:
    """Runs the attacks that one model allows for.

    Args:
        view: of one model.
        attacks: those that were chosen. Their scores know one threshold for all classes; those for each class, which
            only a shadow model can teach, give a balanced accuracy of their own.
        shared: records on both sides.
        shadow: of one shadow model about records of its own; None: there is none.
    """
    members, several = view.membership[0], has_several(view.persons)
    rows = [*_accuracy(view, several)]
    scores: dict[str, Scores] = {}
    skipped: dict[str, str] = {}
    needs: dict[str, str] = {}
    for attack in map(without_shadows, attacks):
        if (reason := lacking(attack, view)) is not None:
            skipped[attack.name] = reason
            continue
        try:
            result = attack.score(view)[0]
        except BudgetSpentError:
            skipped[attack.name] = f"needs up to {attack.threat.queries} queries a record; {SPENT}"
            continue
        scored = members[~np.isnan(result)]
        if min(scored.sum(), (~scored).sum()) < 2:
            skipped[attack.name] = "gives too few records a score; give more records"
            continue
        scores[attack.name], needs[attack.name] = result, attack.threat.describe()
        rows += measures(result, members, view.persons, attack=attack.name, access=attack.threat.access)
        if shadow is not None and (margin := margins(attack, view, shadow)) is not None:
            estimate = accuracy_of(margin, members, view.persons if several else None, REPLICATES)
            counted = {"members": int(members.sum()), "nonmembers": int((~members).sum())}
            rows.append(_row(AT_SHADOWS, estimate, attack=attack.name, access=attack.threat.access, **counted))
    scores[BLIND] = blind_scores(view.features, view.labels, members, view.persons)
    rows += measures(scores[BLIND], members, view.persons, attack=BLIND)
    told = Audited(
        rows=rows, scores=scores, members=members, skipped=skipped, needs=needs, released=view.outputs,
        features=view.features is not None, shared=shared, shadow_records=0 if shadow is None else shadow.records,
        over_persons=several,
    )  # fmt: skip
    if not told.attacks:
        return told
    strongest = told.strongest
    access = told.get(AUC, attack=strongest).access
    for label in np.unique(view.labels):
        own = (view.labels == label) & ~np.isnan(scores[strongest])
        if min(members[own].sum(), (~members[own]).sum()) >= LEAST_OF_CLASS:
            named = {"attack": strongest, "access": access, "group": f"class={label}"}
            persons = None if view.persons is None else view.persons[own]
            rows += measures(scores[strongest][own], members[own], persons, **named)
    return replace(told, rows=rows)


def without_shadows(attack: Attack) -> Attack:
    """The attack as one model allows for."""
    return replace(attack, per_class=False) if isinstance(attack, Threshold) and attack.per_class else attack


def lacking(attack: Attack, view: View) -> str | None:
    """Needs of an attack beyond one model's answers, None if it can run."""
    threat = attack.threat
    if (reason := attack.missing(view)) is None:
        return None
    if threat.weights:
        return "needs gradients or checkpoints; train the model with train.py, then grant threat=white_box"
    if threat.knows_defense:
        return "needs shadow models, trained by the same recipe on other records; train a fleet of them with train.py"
    if threat.population and view.population is None:
        return "needs non-members of the attacker's own; give further ones as population=<file>"
    return reason


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


def tied_share_of(result: Audited, attack: str) -> float:
    """Share of non-members that have the very score at which 1 % FPR is reached."""
    return tied_share(result.scores[attack][None], result.members[None])


def _accuracy(view: View, several: bool) -> Iterator[Row]:
    """Accuracy of the model on members and on others: the gap is what the weakest attack sees."""
    right, members = view.correct[0, :, 0], view.membership[0]
    for group, side in (("members", members), ("nonmembers", ~members)):
        correct, trials = int(right[side].sum()), int(side.sum())
        low, high = (np.nan, np.nan) if several else clopper_pearson_interval(correct, trials)
        yield _row("accuracy", Estimate(correct / trials, low, high), group=group)
