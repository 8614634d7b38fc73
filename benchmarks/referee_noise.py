"""False verdicts of leakage on fleets that leak nothing: by the FPR itself as the bar, and by what luck explains.

    python benchmarks/referee_noise.py 200

Scores are noise, memberships fair coins. Before: the interval of the strongest attack's TPR lies above the FPR. After:
it lies above the 95 % quantile of the null, for the strongest of all attacks.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np

from palisade.evaluation.statistics.bootstrap import Bootstrap, fleet_metrics
from palisade.evaluation.statistics.chance import null_quantiles, null_tprs, redraws


class NoiseCase(NamedTuple):
    """Size of a fleet without leakage, the FPR at which it is read, and the attacks of which the strongest is shown."""

    models: int
    records: int
    fpr: float
    attacks: int = 1

    def __str__(self) -> str:
        strongest = f", strongest of {self.attacks} attacks" if self.attacks > 1 else ""
        return f"noise {self.models} × {self.records:,} at {100 * self.fpr:g} % FPR{strongest}"


NOISE_CASES = (
    NoiseCase(32, 260, 0.01),
    NoiseCase(64, 400, 0.01),
    NoiseCase(32, 4000, 0.001),
    NoiseCase(16, 400, 0.01, attacks=15),
)


def rows(trials: int) -> list[tuple[str, int, int, int]]:
    """For each case its name, the false verdicts before and after, and the number of fleets."""
    counted = [(case, np.array([verdicts(case, seed) for seed in range(trials)])) for case in NOISE_CASES]
    return [(str(case), int(false[:, 0].sum()), int(false[:, 1].sum()), trials) for case, false in counted]


def verdicts(case: NoiseCase, seed: int, leak: float = 0.0) -> tuple[bool, bool]:
    """The verdicts on one fleet before and after.

    Args:
        case: sizes.
        seed: of the fleet.
        leak: standard deviations by which members score higher.
    """
    rng = np.random.default_rng(seed)
    shape = (case.models, case.records)
    membership = rng.random(shape) < 0.5
    scores = rng.normal(size=(case.attacks, *shape)) + leak * membership
    metrics = {"tpr": lambda roc: roc.tpr_at(case.fpr)}
    estimates = [fleet_metrics(own, membership, metrics, Bootstrap(seed=seed)).estimates["tpr"] for own in scores]
    exchanged = redraws(case.records, seed=seed)
    most = null_quantiles(np.column_stack([null_tprs(own, membership, case.fpr, exchanged) for own in scores]))
    strongest = int(np.argmax([estimate.value for estimate in estimates]))
    low = estimates[strongest].low
    return low > case.fpr, low > float(most[strongest])


if __name__ == "__main__":
    for name, before, after, trials in rows(int(sys.argv[1]) if len(sys.argv) > 1 else 60):
        print(f"{name}: {before} of {trials} before, {after} of {trials} after")
