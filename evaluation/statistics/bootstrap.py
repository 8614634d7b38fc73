"""A fleet's value is the mean of each model's own; its interval resamples models and records alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from palisade.evaluation.statistics.metrics import Estimate, check_alpha, clopper_pearson_interval
from palisade.evaluation.statistics.roc import Metric, Ranking, Roc

MAX_STORED_DRAWS = 2**26
"""Numbers of draws that are stored for the next measure, 64 MB; more are drawn again."""
AT_ONCE = 2**28
"""Weights that are worked on together, 256 MB."""
RECORDS_AT_ONCE = 2**12
"""Records that are averaged together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Bootstrap:
    """The two-way percentile bootstrap.

    Models share records and records share models, so (model, record) pairs are far from independent. Resampling records
    only covers 72–86 % at nominal 95 %, models only 89–94 %, both 96–97 %.

    Args:
        replicates: number of resamples.
        alpha: one minus the confidence level.
        seed: public; the same seed gives the same interval.
        groups: models that are drawn together, such as two of complementary membership; default: each by itself.
        persons: records that are drawn together, having one fate; default: each by itself.

    Raises:
        ValueError: if `replicates` or `alpha` is out of range.
    """

    replicates: int = 150
    alpha: float = 0.05
    seed: int = 0
    groups: Int[np.ndarray, "models"] | None = None
    persons: Int[np.ndarray, "records"] | None = None

    def __post_init__(self) -> None:
        if self.replicates < 2:
            raise ValueError(f"replicates={self.replicates}: expected an integer >= 2; choose e.g. 150")
        check_alpha(self.alpha)

    def weights(
        self, models: int, records: int
    ) -> Iterator[tuple[UInt8[np.ndarray, "models"], UInt8[np.ndarray, "records"]]]:
        """Number of times that each model and each record is drawn, one pair a replicate.

        Few enough of them are stored for the next measure of the same fleet.
        """
        if self.replicates * (models + records) > MAX_STORED_DRAWS:
            return self._draws(models, records)
        if (models, records) not in self._stored:
            self._stored.clear()
            self._stored[models, records] = list(self._draws(models, records))
        return iter(self._stored[models, records])

    def blocks(
        self, models: int, records: int
    ) -> Iterator[tuple[UInt8[np.ndarray, "models replicates"], UInt8[np.ndarray, "records replicates"]]]:
        """The weights of as many replicates at a time as memory should hold, in a column each."""
        draws, at_once = self.weights(models, records), max(1, AT_ONCE // (records + 1))
        while some := list(islice(draws, at_once)):
            of_models, of_records = (np.stack(side, axis=1) for side in zip(*some, strict=True))
            yield of_models, of_records

    @cached_property
    def _stored(self) -> dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray]]]:
        return {}

    def _draws(
        self, models: int, records: int
    ) -> Iterator[tuple[UInt8[np.ndarray, "models"], UInt8[np.ndarray, "records"]]]:
        rng = np.random.default_rng(self.seed)
        sides = [
            np.arange(size) if units is None else np.unique(units, return_inverse=True)[1]
            for size, units in ((models, self.groups), (records, self.persons))
        ]
        for _ in range(self.replicates):
            of_models, of_records = (_draw(rng, unit) for unit in sides)
            yield of_models, of_records

    def interval(
        self, replicated: Float[np.ndarray, "replicates"], *seen: Bool[np.ndarray, "records"]
    ) -> tuple[float, float]:
        """The percentiles of what the replicates gave; NaN where none gave a value.

        Where they all give 0 or 1, no resample can show what other records would: there the exact binomial interval
        stands, of as many trials as different records, or persons, were seen.

        Args:
            replicated: a value each, of a measure in [0, 1] if any is 0 or 1 throughout.
            seen: which records the value rests on, in any model; of several, such as members and non-members, the
                fewest count.
        """
        defined = replicated[~np.isnan(replicated)]
        if len(defined) == 0:
            return float("nan"), float("nan")
        low, high = np.quantile(defined, [self.alpha / 2, 1 - self.alpha / 2])
        if low == high and low in (0, 1):
            trials = min(self._units(side) for side in seen)
            return clopper_pearson_interval(low * trials, trials, self.alpha)
        return float(low), float(high)

    def _units(self, counted: Bool[np.ndarray, "records"]) -> int:
        """Number of records, or persons, among those that count."""
        return int(counted.sum()) if self.persons is None else len(np.unique(self.persons[counted]))


@dataclass(frozen=True, kw_only=True)
class FleetMetrics:
    """Metrics of an attack against a fleet.

    Args:
        estimates: by metric: the mean over models, with its interval.
        per_model: by metric: each model's own value, NaN where it has none.
        members: how many members were scored, for each model.
        nonmembers: likewise.
        dropped: how many records had no score.
    """

    estimates: dict[str, Estimate]
    per_model: dict[str, Float[np.ndarray, "models"]]
    members: Int[np.ndarray, "models"]
    nonmembers: Int[np.ndarray, "models"]
    dropped: Int[np.ndarray, "models"]


def fleet_metrics(
    scores: Float[np.ndarray, "models records"],
    membership: Bool[np.ndarray, "models records"],
    metrics: Mapping[str, Callable[[Roc], Metric]],
    bootstrap: Bootstrap | None = None,
    unresampled: Collection[str] = (),
) -> FleetMetrics:
    """Several metrics of every model of a fleet, averaged over models, with two-way intervals.

    Scores are sorted once; a replicate only weighs them anew. For a class, pass its columns; for the interval of a
    single model given that model, pass its row.

    Args:
        scores: higher = more likely a member; NaN is dropped and counted. May be memory-mapped.
        membership: which model was trained on which record.
        metrics: by name, such as `{"auc": Roc.auc, "tpr@0.01": lambda roc: roc.tpr_at(0.01)}`.
        bootstrap: how to resample.
        unresampled: names of metrics that have no interval.

    Raises:
        ValueError: if scores and membership differ in shape.
    """
    bootstrap = bootstrap or Bootstrap()
    if scores.ndim != 2 or scores.shape != membership.shape:
        raise ValueError(
            f"scores.shape={scores.shape}, membership.shape={membership.shape}: expected (models, records) of both;"
            " pass a row a model"
        )
    models, records = scores.shape
    resampled = [name for name in metrics if name not in unresampled]
    values = {name: np.full(models, np.nan) for name in metrics}
    counts = np.zeros((2, models), dtype=np.int64)
    seen = np.zeros((2, records), dtype=np.bool_)
    means_of_replicates: list[np.ndarray] = []
    for block, (model_weights, record_weights) in enumerate(bootstrap.blocks(models, records)):
        measured = np.full((models, len(resampled), record_weights.shape[1]), np.nan)
        for model, (row, members) in enumerate(zip(scores, membership, strict=True)):
            ranking = Ranking(row, members)  # sorted again for the next block: to keep all takes more memory than time
            if block == 0:
                counts[:, model] = len(ranking.order) - ranking.nonmembers, ranking.nonmembers
                for side, inside in zip(seen, (ranking.members, ~ranking.members), strict=True):
                    side[ranking.order[inside]] = True
                if ranking.complete:
                    roc = ranking.roc()
                    for name, metric in metrics.items():
                        values[name][model] = metric(roc)
            if ranking.complete and resampled and model_weights[model].any():
                reweighed = ranking.reweighed(record_weights)
                measured[model] = [metrics[name](reweighed) for name in resampled]
        means_of_replicates.append(_mean(measured, model_weights[:, None]))
    replicated = dict(zip(resampled, np.concatenate(means_of_replicates, axis=1), strict=True))
    nothing = np.full(bootstrap.replicates, np.nan)
    return FleetMetrics(
        estimates={
            name: Estimate(
                float(_mean(own, np.ones(models))), *bootstrap.interval(replicated.get(name, nothing), *seen)
            )
            for name, own in values.items()
        },
        per_model=values,
        members=counts[0],
        nonmembers=counts[1],
        dropped=records - counts.sum(axis=0),
    )


def fleet_mean(values: Float[np.ndarray, "models records"], bootstrap: Bootstrap | None = None) -> Estimate:
    """The mean over models of each model's mean over records, such as test accuracy, with a two-way interval.

    Args:
        values: one for each model and record, such as 1 where it is classified correctly; NaN does not count.
        bootstrap: how to resample.
    """
    models, records = values.shape
    return fleet_mean_of_blocks(lambda block: values[:, block], models, records, bootstrap or Bootstrap())


def fleet_mean_of_blocks(
    values: Callable[[slice], Float[np.ndarray, "models block"]], models: int, records: int, bootstrap: Bootstrap
) -> Estimate:
    """`fleet_mean` of values that are made for a block of records at a time.

    Args:
        values: those of all models on a block of records.
        models: how many there are.
        records: likewise.
        bootstrap: how to resample.
    """
    seen = np.zeros(records, dtype=np.bool_)

    def means(weights: UInt8[np.ndarray, "records weighings"]) -> Float[np.ndarray, "models weighings"]:
        sums, counts = np.zeros((2, models, weights.shape[1]))
        for start in range(0, records, RECORDS_AT_ONCE):
            block = slice(start, start + RECORDS_AT_ONCE)
            own, drawn = values(block), weights[block].astype(np.float64)
            counted = ~np.isnan(own)
            seen[block] = counted.any(axis=0)
            sums += np.where(counted, own, 0.0) @ drawn
            counts += counted.astype(np.float64) @ drawn
        with np.errstate(invalid="ignore"):
            return np.asarray(sums / counts)

    replicated = [_mean(means(of_records), of_models) for of_models, of_records in bootstrap.blocks(models, records)]
    mean = _mean(means(np.ones((records, 1), dtype=np.uint8))[:, 0], np.ones(models))
    return Estimate(float(mean), *bootstrap.interval(np.concatenate(replicated), seen))


def _draw(rng: np.random.Generator, unit: Int[np.ndarray, "size"]) -> UInt8[np.ndarray, "size"]:
    """Number of draws of each thing, as many units as there are being drawn with replacement; never near 255."""
    count = int(unit.max()) + 1
    return np.bincount(rng.integers(count, size=count), minlength=count).astype(np.uint8)[unit]


def _mean(values: Float[np.ndarray, "models *rest"], weights: Shaped[np.ndarray, "models *#rest"]) -> np.ndarray:
    """Weighted mean over the models that have a value; NaN where none has."""
    counted = ~np.isnan(values)
    weights = weights.astype(np.float64)
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = (weights * np.where(counted, values, 0.0)).sum(axis=0) / (weights * counted).sum(axis=0)
    return mean
