"""Rate at which the gate passes a defense that leaks more than its limit, where models differ.

The TPR of each model is drawn anew; the limit lies at its mean over all models that training could give. A gate errs
where it lets the fleet pass. Nominal is 2.5 %, one side of a 95 % interval. Of a mixture no interval over K models can
keep that: (1 − p)^K of all fleets hold no model of a kind with share p.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import norm

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.limit import WITHIN_LIMIT, Limit, upper
from palisade.evaluation.result import AUC, REPORTED_FPRS, Result, Row, tpr_at
from palisade.evaluation.statistics.bootstrap import Bootstrap, fleet_metrics
from palisade.evaluation.statistics.roc import Roc
from palisade.targets.statement import Statement

FLEET_RECORDS = 2000
FLEET_SIZES = (2, 3, 4, 8, 12, 16)
GATE_METRIC = tpr_at(REPORTED_FPRS[0])
Draw = Callable[[np.random.Generator, int], Float[np.ndarray, "models"]]


def normal(rng: np.random.Generator, models: int) -> Float[np.ndarray, "models"]:
    """TPRs that differ by a normal law."""
    return np.clip(0.4 + 0.12 * rng.normal(size=models), 0.011, 0.99)


def mixture(rng: np.random.Generator, models: int) -> Float[np.ndarray, "models"]:
    """TPRs of which one in four is high."""
    return np.where(rng.random(models) < 0.25, 0.5, 0.02)


MODEL_DRAWS: Mapping[str, Draw] = {"by a normal law": normal, "one kind in four leaks": mixture}


def scored(
    rng: np.random.Generator, tprs: Float[np.ndarray, "models"]
) -> tuple[Float[np.ndarray, "models records"], Bool[np.ndarray, "models records"]]:
    """Scores and membership of models with such TPRs at 1 % FPR."""
    membership = rng.random((len(tprs), FLEET_RECORDS)) < 0.5
    shift = norm.ppf(tprs) - norm.ppf(REPORTED_FPRS[0])
    return rng.normal(size=membership.shape) + shift[:, None] * membership, membership


def results(rng: np.random.Generator, tprs: Float[np.ndarray, "models"]) -> Result:
    """Result of one attack on such a fleet."""
    measure = {GATE_METRIC: partial(Roc.tpr_at, fpr=REPORTED_FPRS[0])}
    part = fleet_metrics(*scored(rng, tprs), measure, Bootstrap(seed=int(rng.integers(2**31))))
    value, low, high = part.estimates[GATE_METRIC]
    named = {"metric": GATE_METRIC, "attack": "lira"}
    rows = [Row(value=value, low=low, high=high, **named), Row(metric=AUC, attack="lira", value=0.6)]
    rows += [
        Row(value=float(own), model=k, members=int(part.members[k]), nonmembers=int(part.nonmembers[k]), **named)
        for k, own in enumerate(part.per_model[GATE_METRIC])
    ]
    config = {"membership": {"how": "bernoulli", "share": 0.5}}
    return Result(
        run="simulated", folder="", data="", network="", defense="none", guard="none", seed=0, models=len(tprs),
        strength=None, config=config, statement=Statement.none(), rows=rows, roc={"lira": ((), ())}, skipped={},
    )  # fmt: skip


def limit_of(draw: Draw) -> Limit:
    """The limit that the mean over all models just reaches."""
    rng = np.random.default_rng(1)
    mean = fleet_metrics(
        *scored(rng, draw(rng, 2000)), {GATE_METRIC: partial(Roc.tpr_at, fpr=REPORTED_FPRS[0])}, Bootstrap(replicates=2)
    ).estimates[GATE_METRIC]
    return Limit(name="gate", max_tpr=round(mean.value, 4))


def rows(trials: int) -> list[tuple[str, int, int, int]]:
    """Fleets that pass a limit which their training does not keep: the case, before, after, of how many.

    Args:
        trials: fleets of each size and kind.
    """
    return list(_rows(trials))


def _rows(trials: int) -> Iterator[tuple[str, int, int, int]]:
    for name, draw in MODEL_DRAWS.items():
        limit, rng = limit_of(draw), np.random.default_rng(0)
        for models in FLEET_SIZES:
            before = after = 0
            for _ in range(trials):
                result = results(rng, draw(rng, models))
                before += upper(result.get(GATE_METRIC, attack="lira")) <= limit.most
                after += limit.verdict(result, Comparison([result])).word == WITHIN_LIMIT
            yield f"gate, models differ: {name}, {models} models", before, after, trials


if __name__ == "__main__":
    for case, before, after, trials in rows(200):
        print(f"{case}: passes wrongly {before / trials:.3f} before, {after / trials:.3f} after")
