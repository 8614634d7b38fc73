"""Exposure of single records, by models and by halves of a fleet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import beta

from palisade.attacks import Attack, View
from palisade.attacks.parts.outputs import ANSWER_FIELDS
from palisade.attacks.parts.view import WHITE_BOX
from palisade.data.origins import UNKNOWN_ORIGINS, Origins
from palisade.evaluation.format import csv_text
from palisade.evaluation.result import REPORTED_FPRS, Result
from palisade.evaluation.statistics.roc import Ranking

MIN_MODELS_TO_HALVE = 8
"""Models from which on either half has enough shadows to be attacked like the whole."""
ASSUMED_SPREAD = 2.0
"""Over-dispersion of smaller fleets, which cannot be measured: about that of 8 to 16 simulated models."""
BY_MODEL = (
    "membership", "groups", "unguarded_logits", "tokens", "population_tokens", *ANSWER_FIELDS,
    *(f"population_{answer}" for answer in ANSWER_FIELDS), *WHITE_BOX,
)  # fmt: skip
"""Fields of a view with one entry a model."""
FPR = REPORTED_FPRS[0]
RECORDS_AT_ONCE = 2**12
"""Records whose AUCs are worked out together."""
HIGH_EXPOSURE = 0.5
"""Above this exposure a record is found in most of the models that were trained on it."""
EXPOSURE_COLUMNS = ("run", "record", "person", "line", "class", "exposure", "low", "high", "models", "auc")
PREFIX_COLUMN = "prefix"
"""Of texts, the fewest tokens of a prompt after which the next ones come out word by word."""
TEXT_COLUMN = "text"
"""The text itself, as far as models read it."""
Texts = Mapping[str, Mapping[int, str]]
"""By the name of a run its documents, by record."""
EXPOSURE_DIGITS = 6


def over_dispersion(attack: Attack, scores: Float[np.ndarray, "models records"], seen: View) -> float:
    """Variance over fleets of the share of models in which a record is found, over the binomial variance; ≥ 1.

    The targets of a fleet share their shadows, so that what they find is found together. Two halves share none: the
    squared difference of a record's shares in both, over all records, is compared with what independent targets would
    give. Twice the models halve both variances, hence the ratio of halves is also that of the whole.

    Args:
        attack: that gave the scores.
        scores: of the whole fleet.
        seen: what they came from.

    Returns:
        The ratio, at least 1; `ASSUMED_SPREAD` below 8 models, or where the halves find nothing that could differ.
    """
    differences, expected = 0.0, 0.0
    for first, second in _halves(seen):
        counted = []
        for part in (first, second):
            # Without shadows a target's scores are its own, whoever stands beside it.
            own = scores[part] if attack.threat.shadows == "none" else _rescored(attack, part_of(seen, part))
            if own is None:
                return ASSUMED_SPREAD
            counted.append(calls(own, seen.membership[part]))
        (all_a, all_hits_a), (all_b, all_hits_b) = counted
        known = (all_a > 0) & (all_b > 0)
        a, b, hits_a, hits_b = (count[known] for count in (all_a, all_b, all_hits_a, all_hits_b))
        models = a + b
        share = (hits_a + hits_b) / models
        variance = share * (1 - share) * models / (models - 1)  # unbiased where targets are independent
        differences += float(((hits_a / a - hits_b / b) ** 2).sum())
        expected += float((variance * (1 / a + 1 / b)).sum())
    return max(1.0, differences / expected) if expected > 0 else ASSUMED_SPREAD


def part_of(seen: View, models: slice) -> View:
    """The view of some models of a fleet alone.

    Args:
        seen: of the whole fleet.
        models: which of them; a slice, since answers may be memory-mapped.
    """
    start, _, step = models.indices(seen.models)
    parts: dict[str, Any] = {name: getattr(seen, name)[models] for name in BY_MODEL if getattr(seen, name) is not None}
    # Hidden layers are those of the fleet's first models, whichever of them are in this part, and so are its targets.
    parts |= {"shadow_features": None, "further_shadows": None}
    for name in ("query", "query_label"):
        if (ask := getattr(seen, name)) is not None:
            parts[name] = lambda model, x, ask=ask: ask(start + step * model, x)
    return seen.altered(**parts)


def _halves(seen: View) -> Iterator[tuple[slice, slice]]:
    """Pairs of equal halves; twins of complementary membership stay together."""
    if seen.models < MIN_MODELS_TO_HALVE:
        return
    twins = seen.groups is not None and len(np.unique(seen.groups)) < seen.models
    half = seen.models // 4 * 2 if twins else seen.models // 2
    yield slice(0, half), slice(half, 2 * half)
    if not twins:
        yield slice(0, 2 * half, 2), slice(1, 2 * half, 2)


def _rescored(attack: Attack, part: View) -> Float[np.ndarray, "models records"] | None:
    return None if attack.missing(part) is not None else attack.score(part)


@dataclass(frozen=True, kw_only=True, eq=False)
class Exposure:
    """Exposure of each record: in how many of the models trained on it an attack finds it at 1 % FPR.

    Args:
        record: indices in the data set.
        label: classes of the records.
        models: how many models were trained on the record, scored it and can resolve an FPR of 1 %.
        hits: in how many of them its score reaches the model's threshold at 1 % FPR.
        auc: how often a model trained on the record scores it above one that was not, ties half; NaN if one of these is
            missing.
        spread: how many times the binomial variance a record's share of models varies over fleets: the targets of one
            share their shadows, hence are not independent (`half_fleets.over_dispersion`).
    """

    record: Int[np.ndarray, "records"]
    label: Int[np.ndarray, "records"]
    models: Int[np.ndarray, "records"]
    hits: Int[np.ndarray, "records"]
    auc: Float[np.ndarray, "records"]
    spread: float = 1.0

    @classmethod
    def of(
        cls,
        scores: Float[np.ndarray, "models records"],
        membership: Bool[np.ndarray, "models records"],
        labels: Int[np.ndarray, "records"],
        records: Int[np.ndarray, "records"],
        spread: float = 1.0,
    ) -> Exposure:
        """The exposure of each record to one attack on a fleet.

        Args:
            scores: higher = more likely a member; NaN where no score exists.
            membership: which model was trained on which record.
            labels: classes of the records.
            records: their indices in the data set.
            spread: of a record's share of models over fleets, in multiples of the binomial variance.
        """
        models, hits = calls(scores, membership)
        return cls(
            record=np.asarray(records),
            label=np.asarray(labels),
            models=models,
            hits=hits,
            auc=_auc(scores, membership),
            spread=spread,
        )

    @cached_property
    def value(self) -> Float[np.ndarray, "records"]:
        """The share of the models in which a record is found; NaN if no model was trained on it."""
        return np.where(self.models > 0, self.hits / np.maximum(self.models, 1), np.nan)

    @cached_property
    def low(self) -> Float[np.ndarray, "records"]:
        """Lower ends of 95 % Clopper–Pearson intervals of as many independent models as these are worth."""
        hits, misses = self._independent
        ends = beta.ppf(0.025, np.where(hits > 0, hits, 1.0), misses + 1)
        return np.where(self.models > 0, np.where(hits > 0, ends, 0.0), np.nan)

    @cached_property
    def high(self) -> Float[np.ndarray, "records"]:
        """Upper ends of these intervals."""
        hits, misses = self._independent
        ends = beta.ppf(0.975, hits + 1, np.where(misses > 0, misses, 1.0))
        return np.where(self.models > 0, np.where(misses > 0, ends, 1.0), np.nan)

    @property
    def _independent(self) -> tuple[Float[np.ndarray, "records"], Float[np.ndarray, "records"]]:
        """Hits and misses of each record among as many independent models as these are worth."""
        return self.hits / self.spread, (self.models - self.hits) / self.spread

    @cached_property
    def order(self) -> Int[np.ndarray, "records"]:
        """The most exposed first: by lower end, so that 1 of 1 models comes after 8 of 8, then exposure, then AUC."""
        rates = (self.auc, self.value, self.low)
        return np.lexsort((self.record, *(-np.nan_to_num(rate, nan=-1.0) for rate in rates)))

    @property
    def mostly_exposed(self) -> int:
        """Number of records that are found in more than half of their models."""
        return int((self.value > HIGH_EXPOSURE).sum())

    def to_json(self) -> dict[str, Any]:
        """Plain lists by name; an AUC that does not exist is None."""
        names = {"hits": "found"}  # as stored
        lists = {names.get(f.name, f.name): getattr(self, f.name).tolist() for f in fields(self) if f.name != "spread"}
        rates = [None if np.isnan(auc) else round(auc, EXPOSURE_DIGITS) for auc in lists["auc"]]
        return lists | {"auc": rates, "spread": self.spread}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Exposure:
        """The exposure that `to_json` wrote."""
        record, label, models, hits = (
            np.array(content[name], dtype=np.int64) for name in ("record", "label", "models", "found")
        )
        auc, spread = np.array(content["auc"], dtype=np.float64), content.get("spread", 1.0)
        return cls(record=record, label=label, models=models, hits=hits, auc=auc, spread=spread)


def calls(
    scores: Float[np.ndarray, "models records"], membership: Bool[np.ndarray, "models records"]
) -> tuple[Int[np.ndarray, "records"], Int[np.ndarray, "records"]]:
    """Number of models trained on each record that can resolve an FPR of 1 %, and of those in which it is found.

    Args:
        scores: higher = more likely a member; NaN where no score exists.
        membership: which model was trained on which record.
    """
    models, hits = np.zeros((2, scores.shape[1]), dtype=np.int64)
    for row, members in zip(scores, membership, strict=True):
        ranking = Ranking(row, members)
        if not ranking.complete or np.isnan(tpr := (roc := ranking.roc()).tpr_at(FPR)):
            continue
        resolved = members & ~np.isnan(row)
        models += resolved
        if tpr > 0:
            # Several thresholds may reach this TPR; which of them makes no difference to the members found.
            hits += resolved & (row >= roc.thresholds[np.searchsorted(roc.tpr, tpr)])
    return models, hits


def exposures(results: Sequence[Result]) -> list[tuple[Result, Exposure]]:
    """The runs of which it is known how exposed single records are."""
    return [(result, Exposure.from_json(result.exposed)) for result in results if result.exposed]


def exposed_csv(results: Sequence[Result], origins: Origins = UNKNOWN_ORIGINS, texts: Texts | None = None) -> str:
    """Every record of every run by `EXPOSURE_COLUMNS`, the most exposed first. Private: it names records and persons.

    Args:
        results: of runs on the same data.
        origins: persons and lines of the records.
        texts: of each run its documents, by record, where they are to be shown.
    """
    prefixes = any(PREFIX_COLUMN in result.exposed for result in results)
    columns = (*EXPOSURE_COLUMNS, *([PREFIX_COLUMN] if prefixes else []), *([TEXT_COLUMN] if texts else []))
    lines = []
    for result, exposure in exposures(results):
        rows = zip(_lines(result.run, exposure, origins), _prefixes(result, exposure), exposure.order, strict=True)
        for (place, line), prefix, i in rows:
            own = [prefix] if prefixes else []
            if texts:
                own.append(texts.get(result.run, {}).get(int(exposure.record[i]), ""))
            lines.append((place, (*line, *own)))
    ordered = (line for _, line in sorted(lines, key=lambda line: line[0]))
    return csv_text(columns, (dict(zip(columns, line, strict=True)) for line in ordered))


def _prefixes(result: Result, exposure: Exposure) -> Iterator[int | str]:
    """Of each text, the most exposed first, the tokens after which it comes out; empty where it does not."""
    held = result.exposed.get(PREFIX_COLUMN) or [None] * len(exposure.record)
    return ("" if held[place] is None else held[place] for place in exposure.order)


def _lines(run: str, exposure: Exposure, origins: Origins) -> Iterator[tuple[tuple[float, ...], tuple[str | int, ...]]]:
    """The lines of a run in its order, each after what it is sorted by among all runs."""
    rates = (exposure.value, exposure.low, exposure.high, exposure.auc)
    for i in exposure.order:
        value, low, high, auc = ("" if np.isnan(rate[i]) else f"{rate[i]:.{EXPOSURE_DIGITS}g}" for rate in rates)
        place = tuple(-float(rate or -1) for rate in (low, value, auc))
        record = int(exposure.record[i])
        named = run, record, origins.person(record), origins.line(record), int(exposure.label[i])
        yield place, (*named, value, low, high, int(exposure.models[i]), auc)


def _auc(
    scores: Float[np.ndarray, "models records"], membership: Bool[np.ndarray, "models records"]
) -> Float[np.ndarray, "records"]:
    """AUC of each record: the share of pairs in which an IN model scores above an OUT model, without NaN scores."""
    blocks = (slice(start, start + RECORDS_AT_ONCE) for start in range(0, scores.shape[1], RECORDS_AT_ONCE))
    return np.concatenate([np.empty(0), *(_auc_of_block(scores[:, block], membership[:, block]) for block in blocks)])


def _auc_of_block(
    scores: Float[np.ndarray, "models records"], membership: Bool[np.ndarray, "models records"]
) -> Float[np.ndarray, "records"]:
    """`_auc` by the ranks of each record's scores."""
    order = np.argsort(scores, axis=0)  # NaN comes last
    rising, members = (np.take_along_axis(values, order, axis=0) for values in (scores, membership))
    inside, outside = members & ~np.isnan(rising), np.cumsum(~members & ~np.isnan(rising), axis=0)
    # Non-members below the first of those that tie, and up to the last of them.
    differs = rising[1:] != rising[:-1]
    below, up_to = np.zeros_like(outside), outside.copy()
    below[1:] = np.where(differs, outside[:-1], 0)
    up_to[:-1] = np.where(differs, outside[:-1], outside[-1])
    up_to = np.minimum.accumulate(up_to[::-1], axis=0)[::-1]
    wins = (inside * (np.maximum.accumulate(below, axis=0) + up_to)).sum(axis=0) / 2  # ties half
    pairs = inside.sum(axis=0) * outside[-1]
    return np.where(pairs > 0, wins / np.maximum(pairs, 1), np.nan)
