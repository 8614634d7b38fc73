"""False alarms on fleets with every record in exactly half of the models, with the count of shadows evened out or not.

python benchmarks/referee_balanced.py
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from palisade.attacks import Calibration, LiRA, View
from palisade.attacks.parts.leave_one_out import LeftOut
from palisade.evaluation.statistics.bootstrap import Bootstrap, fleet_metrics
from palisade.evaluation.statistics.roc import Roc

FLEET_RECORDS = 300


class Counted(View):
    """A view whose shadows are all counted, as before they were evened out."""

    balanced = False  # type: ignore[assignment]
    left_out: LeftOut = None  # type: ignore[assignment]


def errs(scores: Float[np.ndarray, "models records"], membership: Bool[np.ndarray, "models records"]) -> bool:
    """Intervals of the AUC that exclude ½ though nothing leaks."""
    auc = fleet_metrics(scores, membership, {"auc": Roc.auc}, Bootstrap()).estimates["auc"]
    return not auc.low <= 0.5 <= auc.high


def rows(trials: int) -> list[tuple[str, int, int, int]]:
    """Case in words, errors before, errors after, trials."""
    counts = []
    for models in (4, 6, 8):
        for attack in (LiRA(), Calibration()):
            wrong = {Counted: 0, View: 0}
            for trial in range(trials):
                rng = np.random.default_rng((models, trial))
                logits = rng.normal(size=(models, FLEET_RECORDS, 2)) + rng.normal(size=(FLEET_RECORDS, 2))
                member = rng.random((models, FLEET_RECORDS)).argsort(axis=0) < models // 2
                for kind in wrong:
                    view = kind(logits=logits, labels=np.zeros(FLEET_RECORDS, dtype=np.int64), membership=member)
                    wrong[kind] += errs(attack.score(view), member)
            case = f"{models} models, every record in {models // 2}: AUC of {attack.name}"
            counts.append((case, wrong[Counted], wrong[View], trials))
    return counts


if __name__ == "__main__":
    for row in rows(20):
        print(*row, sep="  ")
