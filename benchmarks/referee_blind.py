"""Verdicts of the blind baseline where members and non-members differ by themselves, or do not.

    python benchmarks/referee_blind.py 200

Random splits of one table call for none. Before: the interval of the baseline's AUC, over records, lies above ½. After:
by permuting membership and fitting anew. Power: the same where one column of the members is shifted.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np

from palisade.evaluation.measuring.baselines import blind_test
from palisade.evaluation.result import DIFFERENCE_ALPHA
from palisade.evaluation.statistics.metrics import auc_estimate


class BlindCase(NamedTuple):
    """Number of records, half of them members, and the shift of one column of theirs, in standard deviations."""

    records: int
    shift: float = 0.0

    def __str__(self) -> str:
        return f"{self.records:,} records, members shifted by {self.shift:g}"


BLIND_CASES = (BlindCase(300), BlindCase(300, 0.5), BlindCase(300, 1.0))


def verdicts(case: BlindCase, seed: int) -> tuple[bool, bool, float]:
    """Difference seen before and after, and the AUC of the baseline, on one random split."""
    rng = np.random.default_rng(seed)
    labels, features = rng.integers(2, size=case.records), rng.normal(size=(case.records, 4))
    features[:, 1] += labels
    members = rng.permutation(case.records) < case.records // 2
    features[members, 0] += case.shift
    tested = blind_test(features, labels, members)
    value, low, _ = auc_estimate(tested.scores, members)
    return low > 0.5, tested.p <= DIFFERENCE_ALPHA, value


def main(trials: int) -> None:
    """Prints shares of verdicts of each case; a difference takes all permutations, hence a fifth of the trials."""
    with ProcessPoolExecutor() as pool:
        for case, trials in ((case, trials // 5 if case.shift else trials) for case in BLIND_CASES):
            outcomes = np.array(list(pool.map(partial(verdicts, case), range(trials))))
            before, after = 100 * outcomes[:, 0].mean(), 100 * outcomes[:, 1].mean()
            print(
                f"{case}: differs in {before:.1f} % of {trials} splits before, in {after:.1f} % after; deviation of the"
                f" AUC {outcomes[:, 2].std(ddof=1):.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
