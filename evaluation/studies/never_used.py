"""False positive rates on records outside the fleet that resemble members, or come from another source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped

from attacks import Attack, View
from attacks.perturbed_copies import perturbations
from datamodules.array_files import read_arrays
from evaluation.method import Method
from evaluation.runs import Run
from evaluation.signals.signals import view
from evaluation.statistics.intervals import Estimate, clopper_pearson_interval

OUTSIDER_ROLES = ("test", "population", "reference", "validation")
THRESHOLD_FPR = 0.01
MAX_PER_KIND = 500
"""Records of a kind; more cost time and change little."""
NEAR_DUPLICATES, CORRUPTED = "near-duplicates of members", "corrupted"
STRENGTHS = {NEAR_DUPLICATES: 0.02, CORRUPTED: 0.1}
"""How much of a record is perturbed, as by `PerturbedCopies`."""
SHARE_AT_ONCE = 0.005
"""Outsiders among the records of one view: so few move no variance pooled over records, and no tuned setting."""
NEEDS_THE_RECORD = (
    "need models trained on the very record, which there are none of, and the near-duplicate's original is another"
    " record; offline attacks can score it"
)
IS_POPULATION = "hold these very records as their population; choose study.out=test"
TOLD_MEMBERS = "are told who was used"
TOO_FEW = f"have fewer than {round(1 / THRESHOLD_FPR)} non-members to set a threshold by; audit more records"


@dataclass(frozen=True, kw_only=True)
class Outsiders:
    """Records on which no model was trained, with the answers of all models.

    Args:
        features: as the models take them.
        labels: the true classes.
        answers: at the level of what is released.
        counted: for which model which of them counts; all if None.
    """

    features: Real[np.ndarray, "n *shape"]
    labels: Int[np.ndarray, "n"]
    answers: Shaped[np.ndarray, "models n *classes"]
    counted: Bool[np.ndarray, "models n"] | None = None

    @classmethod
    def asked(
        cls,
        seen: View,
        features: Real[np.ndarray, "n *shape"],
        labels: Int[np.ndarray, "n"],
        counted: Bool[np.ndarray, "models n"] | None = None,
    ) -> Outsiders:
        """Outsiders about which every model of the view is asked once."""
        query = seen.query
        assert query is not None
        answers = np.stack([query(model, features) for model in range(seen.models)])
        return cls(features=features, labels=labels, answers=answers, counted=counted)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int) -> Iterator[Outsiders]:
        """Consecutive parts of at most so many records."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield Outsiders(features=self.features[part], labels=self.labels[part], answers=self.answers[:, part])


def accusations(run: Run, method: Method, out: str) -> Iterator[tuple[str, str, Estimate | None, str]]:
    """Kind of record, attack, its false positive rate on that kind, and the reason if it has none.

    Args:
        run: whose models are attacked.
        method: how; only one plain query is asked, and no weights are granted.
        out: a role of the split, or an .npz file with features and labels of other records.

    Raises:
        ValueError: if there are no such records.
    """
    seen = view(run, replace(method.grant, weights=False))
    for kind, outsiders in outsiders_of(run, seen, out).items():
        for attack in method.attacks_on(run):
            reason = _no_score(attack, seen, kind)
            rate = None if reason else false_positive_rate(attack, seen, outsiders)
            yield kind, attack.name, rate, reason or (TOO_FEW if rate is None else "")


def outsiders_of(run: Run, seen: View, out: str) -> dict[str, Outsiders]:
    """The records of `out`, corrupted copies of them, and near-duplicates of members, by kind."""
    x, y = _records(run, out)
    audited, rng = seen.features, np.random.default_rng(1)
    assert audited is not None
    chosen = np.sort(np.random.default_rng(0).permutation(seen.records)[:MAX_PER_KIND])
    weak, strong = perturbations(audited, [STRENGTHS[NEAR_DUPLICATES], STRENGTHS[CORRUPTED]], moves=())
    return {
        out: Outsiders.asked(seen, x, y),
        CORRUPTED: Outsiders.asked(seen, strong(x, rng), y),
        NEAR_DUPLICATES: Outsiders.asked(
            seen, weak(audited[chosen], rng), seen.labels[chosen], seen.membership[:, chosen]
        ),
    }


def false_positive_rate(attack: Attack, seen: View, outsiders: Outsiders) -> Estimate | None:
    """The share of outsiders above the threshold that accuses 1 % of each model's own non-members.

    The mean over models. The interval is Clopper and Pearson's, for as many trials as there are records: what several
    models say of one record is no further evidence.

    Args:
        attack: that needs no model trained on the record.
        seen: the fleet's own records.
        outsiders: that are accused.

    Returns:
        None if no model has 100 scored non-members, the least that a threshold at 1 % takes.
    """
    own, foreign = scores(attack, seen, outsiders)
    shares = []
    for model in range(seen.models):
        nonmembers = own[model, ~seen.membership[model]]
        nonmembers = np.sort(nonmembers[~np.isnan(nonmembers)])[::-1]
        accusable = foreign[model] if outsiders.counted is None else foreign[model, outsiders.counted[model]]
        accusable = accusable[~np.isnan(accusable)]
        above = int(THRESHOLD_FPR * len(nonmembers))
        if len(accusable) and above > 0:
            shares.append(float((accusable > nonmembers[above]).mean()))
    if not shares:
        return None
    value = float(np.mean(shares))
    return Estimate(value, *clopper_pearson_interval(value * len(outsiders), len(outsiders)))


def scores(
    attack: Attack, seen: View, outsiders: Outsiders
) -> tuple[Float[np.ndarray, "models records"], Float[np.ndarray, "models n"]]:
    """Scores of the fleet's own records, and of outsiders.

    Attacks with shadows pool variances and tune settings over all records of a view. So own records are scored without
    any outsider, and outsiders a few at a time behind the own ones: what is pooled then comes from the run's records.
    """
    if attack.threat.shadows == "none":
        both = attack.score(with_outsiders(seen, outsiders))
        return both[:, : seen.records], both[:, seen.records :]
    size = max(1, int(SHARE_AT_ONCE * seen.records))
    parts = [attack.score(with_outsiders(seen, batch))[:, seen.records :] for batch in outsiders.batches(size)]
    return attack.score(seen), np.hstack(parts)


def with_outsiders(seen: View, outsiders: Outsiders) -> View:
    """The view with outsiders behind its own records."""
    assert seen.features is not None
    level = {"label": "predictions", "logits": "logits"}.get(seen.outputs, "probabilities")
    more: dict[str, Any] = {level: np.concatenate([getattr(seen, level), outsiders.answers], axis=1)}
    if seen.persons is not None:
        more["persons"] = np.concatenate([seen.persons, seen.persons.max() + 1 + np.arange(len(outsiders))])
    return replace(
        seen,
        labels=np.concatenate([seen.labels, outsiders.labels]),
        membership=np.hstack([seen.membership, np.zeros((seen.models, len(outsiders)), dtype=bool)]),
        features=np.concatenate([seen.features, outsiders.features]),
        unguarded_logits=None,
        **more,
    )


def _no_score(attack: Attack, seen: View, kind: str) -> str | None:
    """The reason why an attack has no score of these records, None if it has one."""
    if attack.threat.shadows == "online":
        return NEEDS_THE_RECORD
    if attack.threat.known_members:
        return TOLD_MEMBERS
    if attack.threat.population and kind == "population":
        return IS_POPULATION
    without_shadows_of_a_guard = replace(seen, unguarded_logits=None)
    return attack.missing(without_shadows_of_a_guard)


def _records(run: Run, out: str) -> tuple[Float[np.ndarray, "n ..."], Int[np.ndarray, "n"]]:
    data = run.dataset
    if out in OUTSIDER_ROLES:
        records: Sequence[int] = getattr(data.split, out)
        if not len(records):
            raise ValueError(f"study.out={out} is a role without records; choose another, such as test")
        drawn = np.random.default_rng(0).permutation(records)[:MAX_PER_KIND]
        return data.x[drawn], data.y[drawn]
    if not (file := Path(out).expanduser()).is_file():
        roles = ", ".join(OUTSIDER_ROLES)
        raise ValueError(f"study.out={out} is neither a file nor a role; choose {roles} or an .npz file")
    try:
        arrays = read_arrays(file, ["features", "labels"])
    except ValueError as error:
        raise ValueError(f"study.out={out}: {error}; give an .npz file with features and labels") from None
    if not {"features", "labels"} <= arrays.keys() or arrays["features"].shape[1:] != data.x.shape[1:]:
        raise ValueError(f"study.out={out} must hold features as the models take them, {data.x.shape[1:]}, and labels")
    x, y = arrays["features"], arrays["labels"]
    if not len(x) or y.shape != (len(x),):
        raise ValueError(
            f"study.out={out} holds {len(x)} records and labels of shape {y.shape}; give one label a record"
        )
    drawn = np.random.default_rng(0).permutation(len(x))[:MAX_PER_KIND]
    return x[drawn].astype(data.x.dtype), y[drawn].astype(np.int64)
