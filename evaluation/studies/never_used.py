"""False accusations of records that no model was trained on, though they resemble some or come from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from attacks import Attack, View
from attacks.perturbed_copies import perturbations
from datamodules.array_files import read_arrays
from evaluation.method import Method
from evaluation.runs import Run
from evaluation.signals.grant import Grant
from evaluation.signals.signals import view
from evaluation.statistics.intervals import Estimate, clopper_pearson_interval

ROLES = ("test", "population", "reference", "validation")
FPR = 0.01
MOST = 500
"""Records of a kind; more cost time and change little."""
STRENGTHS = {"near-duplicates of members": 0.02, "corrupted": 0.1}
"""How much of a record is disturbed, as by `PerturbedCopies`."""
ONLINE = "needs models trained on the very record, which there are none of; offline attacks can score it"


def accusations(run: Run, method: Method, out: str) -> Iterator[tuple[str, str, Estimate | None, str]]:
    """For each kind of record and each attack the share falsely accused, or why there is none.

    Args:
        run: whose models are attacked.
        method: how; only one plain query is asked, and no weights are granted.
        out: a role of the split, or an .npz file with features and labels of other records.

    Raises:
        ValueError: if there are no such records.
    """
    threat = replace(method.grant, weights=False)
    seen = view(run, threat)
    x, y = _records(run, out)
    chosen = np.sort(np.random.default_rng(0).permutation(seen.records)[:MOST])
    rng = np.random.default_rng(1)
    assert seen.features is not None
    weak, strong = perturbations(seen.features, list(STRENGTHS.values()), moves=())
    near, corrupted = STRENGTHS
    kinds = {
        out: (x, y, None),
        corrupted: (strong(x, rng), y, None),
        near: (weak(seen.features[chosen], rng), seen.labels[chosen], seen.membership[:, chosen]),
    }
    for kind, (features, labels, originals) in kinds.items():
        extended = with_outsiders(seen, features, labels, threat)
        for attack in method.attacks_on(run):
            reason = ONLINE if attack.threat.shadows == "online" else attack.missing(extended)
            if reason is None and attack.threat.known_members:
                reason = "is told who was used"
            found = None if reason else falsely_accused(attack, extended, len(labels), originals)
            yield kind, attack.name, found, reason or ""


def with_outsiders(
    seen: View, features: Real[np.ndarray, "n *shape"], labels: Int[np.ndarray, "n"], grant: Grant
) -> View:
    """The view with further records behind its own, on which no model was trained."""
    assert seen.query is not None and seen.features is not None
    answers = np.stack([seen.query(model, features) for model in range(seen.models)])
    level = {"label": "predictions", "logits": "logits"}.get(seen.outputs, "probabilities")
    more: dict[str, Any] = {level: np.concatenate([getattr(seen, level), answers], axis=1)}
    persons = None
    if seen.persons is not None:
        persons = np.concatenate([seen.persons, seen.persons.max() + 1 + np.arange(len(labels))])
    outside = np.zeros((seen.models, len(labels)), dtype=bool)
    return replace(
        seen,
        labels=np.concatenate([seen.labels, labels]),
        membership=np.hstack([seen.membership, outside]),
        features=np.concatenate([seen.features, features]),
        persons=persons,
        unguarded_logits=None,
        **more,
    )


def falsely_accused(
    attack: Attack, extended: View, outsiders: int, counted: Bool[np.ndarray, "models n"] | None = None
) -> Estimate | None:
    """The share of outsiders above the threshold that accuses 1 % of each model's own non-members.

    The interval is Clopper and Pearson's, for as many trials as there are records: what several models say of one
    record is no further evidence.

    Args:
        attack: that needs no model trained on the record.
        extended: by `with_outsiders`.
        outsiders: how many records are not the fleet's own, the last ones.
        counted: for which model which of them counts; all if None.
    """
    scores, shares = attack.score(extended), []
    for model, row in enumerate(scores):
        own, foreign = row[:-outsiders], row[-outsiders:]
        nonmembers = own[~extended.membership[model, :-outsiders]]
        nonmembers = np.sort(nonmembers[~np.isnan(nonmembers)])[::-1]
        foreign = foreign if counted is None else foreign[counted[model]]
        foreign = foreign[~np.isnan(foreign)]
        if len(foreign) and len(nonmembers):
            shares.append(float((foreign > nonmembers[int(FPR * len(nonmembers))]).mean()))
    if not shares:
        return None
    value = float(np.mean(shares))
    return Estimate(value, *clopper_pearson_interval(value * outsiders, outsiders))


def _records(run: Run, out: str) -> tuple[Float[np.ndarray, "n ..."], Int[np.ndarray, "n"]]:
    data = run.dataset
    if out in ROLES:
        records: Sequence[int] = getattr(data.split, out)
        if not len(records):
            raise ValueError(f"study.out={out} is a role without records; choose another, such as test")
        drawn = np.random.default_rng(0).permutation(records)[:MOST]
        return data.x[drawn], data.y[drawn]
    if not (file := Path(out).expanduser()).is_file():
        raise ValueError(f"study.out={out} is neither a file nor a role; choose {', '.join(ROLES)} or an .npz file")
    arrays = read_arrays(file, ["features", "labels"])
    if not {"features", "labels"} <= arrays.keys() or arrays["features"].shape[1:] != data.x.shape[1:]:
        raise ValueError(f"study.out={out} must hold features as the models take them, {data.x.shape[1:]}, and labels")
    return arrays["features"][:MOST].astype(data.x.dtype), arrays["labels"][:MOST].astype(np.int64)
