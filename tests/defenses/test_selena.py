"""SELENA's student learns what models that have not seen a record say about it, and nothing else."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from opacus.accountants import PRVAccountant
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from palisade.data.draws import Draws
from palisade.data.loaders import Batch
from palisade.defenses.distillation import Distillation
from palisade.defenses.dropout import Dropout
from palisade.defenses.hamp import HAMP
from palisade.defenses.none import NoDefense
from palisade.defenses.parts.partition import dealt_out, soft_labels
from palisade.defenses.selena import Selena
from palisade.targets.fleet import Defense
from palisade.targets.networks import MLP

LOCATION30_FOLDER = Path(__file__).parents[3] / "shared" / "data" / "location30"
SMALL_SETTINGS = ["data=digits", "defense=selena", "defense.sub_models=3", "defense.left_out=1"]


@dataclass(frozen=True, kw_only=True)
class Watched(NoDefense):
    """Plain training that notes which model saw which records, and the soft labels that came with them."""

    seen: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    taught: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)

    def inputs(self, batch: Batch, draws: Draws) -> Batch:
        assert not draws.stacked
        records = batch.records[batch.mask].tolist()
        if batch.targets is None:
            self.seen[draws.models[0]].update(records)
        else:
            labels = batch.targets[batch.mask].numpy()
            keys = [(draws.models[0], record) for record in records]
            self.taught.update(zip(keys, labels, strict=True))
        return batch


class Informant:
    """A sub-model that says class 1 of all records that it has seen, and class 0 of others."""

    def __init__(self, seen: np.ndarray):
        self.seen = seen

    def predict(self, x: np.ndarray) -> np.ndarray:
        return 50.0 * np.eye(2, dtype=np.float32)[self.seen[x[:, 0].astype(int)].astype(int)][None]


def test_soft_labels_are_the_mean_over_those_that_did_not_see_a_record() -> None:
    rng = np.random.default_rng(0)
    sees, answers = rng.random((4, 30)) < 0.5, rng.normal(size=(4, 40, 3)).astype(np.float32)
    sees[0] = False
    records = rng.permutation(40)[:30]

    class Says:
        def __init__(self, model: int):
            self.model = model

        def predict(self, x: np.ndarray) -> np.ndarray:
            return answers[self.model][x[:, 0].astype(int)][None]

    labels = soft_labels([Says(j) for j in range(4)], sees, np.arange(40.0)[:, None], records)
    for position, record in enumerate(records):
        expected = [softmax(answers[j, record]) for j in range(4) if not sees[j, position]]
        assert labels[position] == pytest.approx(np.mean(expected, axis=0), abs=1e-6)


def test_no_sub_model_that_saw_a_record_has_a_say() -> None:
    sees = np.random.default_rng(1).random((5, 60)).argsort(axis=0) < 3
    labels = soft_labels([Informant(row) for row in sees], sees, np.arange(60.0)[:, None], np.arange(60))
    assert labels[:, 1].max() < 1e-6
    betrayed = soft_labels([Informant(row) for row in sees], ~sees, np.arange(60.0)[:, None], np.arange(60))
    assert betrayed[:, 1].min() > 0.99


def test_what_is_trained_and_taught_from_end_to_end(compose, fitting) -> None:
    watched = Watched()
    selena = Selena(base=watched, sub_models=4, left_out=2)
    job = fitting(compose(*SMALL_SETTINGS, "trainer.epochs=1"), [0, 1], defense=selena)
    fleet = job.fit()
    sub_models = fleet.stages["sub_models"]
    assert len(fleet) == 2 and len(sub_models) == 8
    for position, model in enumerate(job.fitter.models):
        members = job.split.pool[job.membership[position]]
        sees = dealt_out(job.split, job.fitter.secret, model, parts=4, seen_by=2)[:, job.membership[position]]
        for j in range(4):
            assert watched.seen[4 * model + j] == set(members[sees[j]])
        assert {record for k, record in watched.taught if k == model} == set(members)
        answers = [softmax(sub_models.one(4 * position + j).predict(job.dataset.x[members])[0], -1) for j in range(4)]
        for row, record in enumerate(members):
            unaware = [answers[j][row] for j in range(4) if record not in watched.seen[4 * model + j]]
            assert len(unaware) == 2
            assert watched.taught[model, record] == pytest.approx(np.mean(unaware, axis=0), abs=1e-5)


def test_same_alone_and_in_a_stack(compose, fitting) -> None:
    settings = compose(*SMALL_SETTINGS, "trainer.epochs=2")
    stacked, alone = fitting(settings, [0, 1], at_once=2).fit(), fitting(settings, [1]).fit()
    for name, value in alone.states[0].items():
        torch.testing.assert_close(value, stacked.states[1][name], atol=1e-4, rtol=0)


def test_private_base_is_accounted_as_the_trainings_that_see_a_record(compose, fitting, known_noise) -> None:
    settings = compose(
        *SMALL_SETTINGS,
        "defense@defense.base=dp_sgd",
        "defense.left_out=1",
        "defense.base.trainer.epochs=1",
        "defense.base.trainer.batch_size=128",
    )
    job = fitting(settings, [0, 1], at_once=2)
    fleet = job.fit()
    claim = job.defense.statement(fleet)
    base: Defense = job.defense.base
    sub_model, student = base.statement(fleet.stages["sub_models"]), base.statement(fleet)
    size = job.fitter.size
    assert (sub_model.public_size, student.public_size) == (round(size * 2 / 3), size)
    accountant = PRVAccountant()
    accountant.history = [
        (sub_model.noise_multiplier, 128 / round(size * 2 / 3), 2 * sub_model.steps_planned),
        (student.noise_multiplier, 128 / size, student.steps_planned),
    ]
    assert claim.epsilon == pytest.approx(accountant.get_epsilon(student.delta), rel=0.01)
    assert claim.guarantee and claim.delta == student.delta
    assert claim.epsilon > max(sub_model.epsilon, student.epsilon)
    assert claim.mechanism.startswith("2 × sub-models (σ = ") and "and 1 × the student (σ = " in claim.mechanism


def test_no_guarantee_without_a_private_base(compose, fitting) -> None:
    job = fitting(compose(*SMALL_SETTINGS, "trainer.epochs=1"), [0])
    assert job.defense.statement(job.fit()).sentence() == "no formal guarantee"


@pytest.mark.slow
def test_leaks_less_than_no_defense(compose, fitting) -> None:
    if not LOCATION30_FOLDER.exists():
        pytest.skip(f"{LOCATION30_FOLDER} is missing")
    data = ["data=location30", f"data.root={LOCATION30_FOLDER}", "trainer.epochs=12"]
    aucs = {}
    for name, extra in (("none", []), ("selena", ["defense.sub_models=5", "defense.left_out=2"])):
        job = fitting(compose(*data, f"defense={name}", *extra), [0, 1], at_once=2)
        pool = job.split.pool
        probabilities = softmax(job.fit().predict(job.dataset.x[pool]), axis=-1)
        scores = probabilities[:, np.arange(len(pool)), job.dataset.y[pool]]
        aucs[name] = np.mean([roc_auc_score(*pair) for pair in zip(job.membership, scores, strict=True)])
    assert aucs["none"] > 0.8 and aucs["selena"] < 0.6


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sub_models": 1}, "sub_models=1: expected"),
        ({"left_out": 0}, "left_out=0: expected"),
        ({"left_out": 5}, "left_out=5: expected"),
        ({"base": None}, "base=null: expected"),
        (
            {"base": HAMP(entropy=0.5, alpha=0.1)},
            "base=hamp: expected one that learns soft labels",
        ),
        (
            {"base": Distillation(base=NoDefense(), temperature=1)},
            "base=distillation: expected a defense of one stage",
        ),
    ],
)
def test_refuses_what_makes_no_sense(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Selena(**{"base": NoDefense(), "sub_models": 5, "left_out": 2, **values})


def test_batches_must_fit_a_sub_model(compose, fitting) -> None:
    job = fitting(compose(*SMALL_SETTINGS, "trainer.batch_size=500", "trainer.epochs=1"), [0])
    with pytest.raises(
        ValueError,
        match=r"batch_size=500",
    ):
        job.fit()


def test_what_it_is_and_what_it_has_from_its_base() -> None:
    selena = Selena(base=Dropout(rate=0.5), sub_models=5, left_out=2)
    assert selena.strength == 2 and selena.canaries == ("near_duplicate",) and selena.staged and selena.stackable
    with_dropout = selena.network(MLP(shape=[4], classes=2, hidden=[3]))
    assert (
        with_dropout.state_dict().keys()
        == selena.base.network(MLP(shape=[4], classes=2, hidden=[3])).state_dict().keys()
    )
    assert str(with_dropout) != str(MLP(shape=[4], classes=2, hidden=[3]))
