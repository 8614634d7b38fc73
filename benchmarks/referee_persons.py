"""Coverage of the AUC of one model where persons have several records, by scores whose true AUC is known.

    python benchmarks/referee_persons.py 200

Scores are normal, members' higher by a gap; half of their variance is the person's own, and a person is on one side.
An interval errs where it excludes the AUC of that law. Before: a bootstrap that draws records one by one. After: as in
audits with `persons`, each person is drawn with all records. "Band" is what audits give where nobody says whose records
they are; it is wider than the bootstrap over records, for it holds for a whole curve.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import norm

from palisade.evaluation.measuring.one_model import PERSON_REPLICATES, measures
from palisade.evaluation.result import AUC
from palisade.evaluation.statistics.bootstrap import Bootstrap, fleet_metrics
from palisade.evaluation.statistics.roc import Roc

PERSON_VARIANCE = 0.5
"""Share of the variance of scores that is between persons."""


class PersonCase(NamedTuple):
    """Records of each person, persons on each side, and standard deviations by which members score higher."""

    per_person: int
    persons: int = 60
    gap: float = 1.0
    band: bool = False

    def __str__(self) -> str:
        rule = "band" if self.band else "bootstrap"
        return f"AUC {self.truth:.2f}, {self.per_person} records a person: {rule}"

    @property
    def truth(self) -> float:
        """The true AUC."""
        return float(norm.cdf(self.gap / np.sqrt(2)))


PERSON_CASES = (
    PersonCase(5, gap=0.0),
    PersonCase(5),
    PersonCase(5, band=True),
    PersonCase(10, gap=0.0),
    PersonCase(10),
    PersonCase(10, band=True),
)


def rows(trials: int) -> list[tuple[str, int, int, int]]:
    """For each case its name, the intervals that miss the truth before and after, and the number of audits."""
    counted = [(case, np.array([misses(case, seed) for seed in range(trials)])) for case in PERSON_CASES]
    return [(str(case), int(missed[:, 0].sum()), int(missed[:, 1].sum()), trials) for case, missed in counted]


def misses(case: PersonCase, seed: int) -> tuple[bool, bool]:
    """Misses of the true AUC in one audit, by the intervals before and after."""
    scores, members, persons = answers(case, seed)
    before = interval(scores, members) if case.band else drawn(scores, members)
    after = interval(scores, members, persons)
    return not before[0] <= case.truth <= before[1], not after[0] <= case.truth <= after[1]


def answers(
    case: PersonCase, seed: int
) -> tuple[Float[np.ndarray, "records"], Bool[np.ndarray, "records"], Int[np.ndarray, "records"]]:
    """Scores, membership and persons of one audit."""
    rng = np.random.default_rng(seed)
    persons = np.repeat(np.arange(2 * case.persons), case.per_person)
    members = persons < case.persons
    of_person = np.sqrt(PERSON_VARIANCE) * rng.normal(size=2 * case.persons)
    scores = of_person[persons] + np.sqrt(1 - PERSON_VARIANCE) * rng.normal(size=len(persons)) + case.gap * members
    return scores, members, persons


def interval(
    scores: Float[np.ndarray, "records"],
    members: Bool[np.ndarray, "records"],
    persons: Int[np.ndarray, "records"] | None = None,
) -> tuple[float, float]:
    """The interval that an audit gives for the AUC."""
    (row,) = [row for row in measures(scores, members, persons) if row.metric == AUC]
    assert row.low is not None and row.high is not None
    return row.low, row.high


def drawn(scores: Float[np.ndarray, "records"], members: Bool[np.ndarray, "records"]) -> tuple[float, float]:
    """The interval of a bootstrap that takes records as independent."""
    metrics = fleet_metrics(scores[None], members[None], {AUC: Roc.auc}, Bootstrap(replicates=PERSON_REPLICATES))
    return metrics.estimates[AUC].low, metrics.estimates[AUC].high


if __name__ == "__main__":
    for name, before, after, trials in rows(int(sys.argv[1]) if len(sys.argv) > 1 else 40):
        print(f"{name}: {before} of {trials} before, {after} of {trials} after")
