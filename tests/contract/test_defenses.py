"""Contract of every defense, whoever wrote it."""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from palisade.data.dataset import Dataset, from_config
from palisade.data.draws import Draws
from palisade.data.loaders import Batch
from palisade.data.secret import Secret
from palisade.data.split import SPLIT_ROLES, Membership
from palisade.targets.defaults import resolved
from palisade.targets.fleet import Defense, Fleet
from palisade.targets.statement import Statement
from palisade.targets.training import complete_statement, make_defense, make_fitter
from palisade.train import composed, train_run

CONF_FOLDER = Path(__file__).parents[2] / "conf"
BASE_DEFENSES = {"rare_removal"}
"""Defenses that need a public base, which digits have none of; they have tests of their own."""
DEFENSE_NAMES = sorted({path.stem for path in (CONF_FOLDER / "defense").glob("*.yaml")} - BASE_DEFENSES)
TRAINED_EPOCHS = 2
SMALL_SETTINGS = [
    *("data=digits", "network.hidden=[16]", f"trainer.epochs={TRAINED_EPOCHS}", "trainer.batch_size=32"),
    *("trainer.optimizer.lr=0.02", "secret=contract"),
    *("split.pool=0.3", "split.validation=0.1", "split.reference=0.2"),
]
SMALLER_SETTINGS = {
    "pate": ["defense.teachers=3", "defense.queries=50", "defense.noise_multiplier=1"],
    "selena": ["defense.sub_models=3", "defense.left_out=1"],
}
"""What keeps the training of single defenses short, or possible on so few records."""
every_defense = pytest.mark.parametrize("name", DEFENSE_NAMES)


def make(settings) -> Defense:
    return make_defense(settings["defense"])


def shorten(defense) -> None:
    """Two epochs for a defense and its bases, whatever their own trainers say."""
    defense["trainer"] = {**(defense.get("trainer") or {}), "epochs": TRAINED_EPOCHS}
    if "base" in defense:
        shorten(defense["base"])


@cache
def settings_of(name: str, *overrides: str):
    """The composed configuration; read only."""
    settings = composed(*SMALL_SETTINGS, f"defense={name}", *SMALLER_SETTINGS.get(name, []), *overrides)
    shorten(settings["defense"])
    return resolved(settings, from_config(settings))


def fit(name: str, models, *, at_once: int, dataset: Dataset | None = None) -> tuple[Fleet, Statement]:
    settings = {**settings_of(name), "fleet": {"at_once": at_once}}
    dataset = dataset or from_config(settings)
    secret, membership = Secret.from_text("contract"), Membership()
    fitter = make_fitter(settings, dataset, secret, list(models), membership)
    fleet = fitter.defense.fit(fitter, dataset.split, membership.draw(dataset.split, list(models), secret))
    return fleet, complete_statement(fitter, fleet)


@cache
def alone(name: str) -> tuple[Fleet, Statement]:
    """Model 1, and what is claimed for it; fitted once for all tests."""
    return fit(name, [1], at_once=1)


def step(seed: int = 0) -> tuple[Batch, Draws]:
    """A step of two stacked models: five digits, of which the first has three and the second four."""
    torch.manual_seed(seed)
    mask = torch.tensor([[True, True, True, False, False], [True, True, True, True, False]])
    batch = Batch(torch.rand(2, 5, 1, 8, 8), torch.randint(10, (2, 5)), mask, torch.arange(10).view(2, 5))
    return batch, Draws(secret=Secret.from_text("step"), models=[0, 1], step=3, stacked=True)


def losses(defense: Defense, batch: Batch, logits: torch.Tensor, epoch: int) -> torch.Tensor:
    return defense.loss(logits, defense.inputs(batch, step()[1]), epoch)


@every_defense
def test_declares_what_it_is(name):
    defense = make(settings_of(name))
    assert isinstance(defense, Defense) and type(defense).__doc__
    assert defense.roles <= {"validation", "reference"}
    assert defense.strength is None or isinstance(defense.strength, float | int)
    assert {*defense.attacks} <= {path.stem for path in (CONF_FOLDER / "attack").glob("*.yaml")}
    assert {*defense.canaries} <= {path.stem for path in (CONF_FOLDER / "canary").glob("*.yaml")}
    assert len(inspect.getsource(inspect.getmodule(type(defense))).splitlines()) <= 150


@every_defense
def test_makes_a_statement(name):
    _, statement = alone(name)
    assert isinstance(statement, Statement) and Statement.from_json(statement.to_json()) == statement
    assert statement.sentence().startswith("(ε = " if statement.guarantee else "no formal guarantee")


@every_defense
def test_target_and_shadows_come_from_one_call_and_the_secret_alone(name, tmp_path):
    fleet = {"models": 2, "workers": 1, "at_once": 1, "keep_checkpoints": 0}
    folder = Path(train_run({**settings_of(name), "runs": str(tmp_path), "fleet": fleet})["folder"])
    states = [load_file(folder / "models" / f"{k}.safetensors") for k in range(2)]
    same(states[1], alone(name)[0].states[0], tolerance=0)
    assert any(not torch.equal(value, states[1][key]) for key, value in states[0].items())


@every_defense
def test_works_in_a_stack_as_well_as_alone(name):
    if not make(settings_of(name)).stackable:
        with pytest.raises(ValueError, match=r"^fleet\.at_once=.*: expected 1, "):
            fit(name, [0, 1], at_once=2)
        return
    stacked, statement = fit(name, [0, 1], at_once=2)
    same(stacked.states[1], alone(name)[0].states[0], tolerance=1e-5)
    assert statement == alone(name)[1]


def same(one, other, tolerance: float) -> None:
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], atol=tolerance, rtol=0)


@every_defense
def test_says_which_role_is_empty(name):
    for role in sorted(make(settings_of(name)).roles):
        settings = settings_of(name, f"split.{role}=0")
        named = settings["names"]["defense"]
        needed = rf"split\.{role}=0: expected {role} records, which defense={named} needs; set split\.{role}=0\.1"
        with pytest.raises(ValueError, match=needed):
            make_fitter(settings, from_config(settings), Secret.from_text(""), [0], Membership())


@every_defense
def test_learns_from_members_and_its_own_roles_alone(name):
    """Other records are non-members of attacks, so that models must be the same whatever these records are."""
    dataset = from_config(settings_of(name))
    split = dataset.split
    row = Membership().draw(split, [1], Secret.from_text("contract"))[0]
    others = np.concatenate(
        [split.pool[~row], *(getattr(split, r) for r in set(SPLIT_ROLES) - {"pool"} - make(settings_of(name)).roles)]
    )
    x, y = dataset.x.copy(), dataset.y.copy()
    x[others], y[others] = np.roll(x[others], 1, axis=0), (y[others] + 1) % len(dataset.classes)
    changed, _ = fit(name, [1], at_once=1, dataset=replace(dataset, x=x, y=y))
    same(changed.states[0], alone(name)[0].states[0], tolerance=0)


@every_defense
@pytest.mark.parametrize("epoch", [0, 1])
def test_separable_loss_depends_on_each_record_alone(name, epoch):
    defense, (batch, _), logits = make(settings_of(name)), step(), torch.randn(2, 5, 10)
    batch = batch._replace(mask=torch.ones(2, 5, dtype=torch.bool))
    before = losses(defense, batch, logits, epoch)
    assert before.shape == (2, 5)
    x, y, changed = batch.x.clone(), batch.y.clone(), logits.clone()
    x[:, 3], y[:, 3], changed[:, 3] = 1 - x[:, 3], (y[:, 3] + 1) % 10, torch.randn(2, 10)
    alike = torch.isclose(losses(defense, batch._replace(x=x, y=y), changed, epoch), before)
    unmoved = torch.isclose(
        defense.inputs(batch._replace(x=x, y=y), step()[1]).x, defense.inputs(batch, step()[1]).x
    ).flatten(2)
    others = [0, 1, 2, 4]
    assert not defense.separable or (alike[:, others].all() and unmoved[:, others].all())


@every_defense
@pytest.mark.parametrize("epoch", [0, 1])
def test_padded_rows_change_nothing(name, epoch):
    defense, (batch, draws), logits = make(settings_of(name)), step(), torch.randn(2, 5, 10)
    other, _ = step(seed=1)
    padded = ~batch.mask
    changed = batch._replace(
        x=torch.where(padded[..., None, None, None], other.x, batch.x), y=torch.where(padded, other.y, batch.y)
    )
    before, after = (defense.inputs(b, draws) for b in (batch, changed))
    torch.testing.assert_close(after.x[batch.mask], before.x[batch.mask], atol=0, rtol=0)
    noisy = torch.where(padded[..., None], torch.randn(2, 5, 10), logits)
    expected = losses(defense, batch, logits, epoch)[batch.mask]
    torch.testing.assert_close(losses(defense, changed, noisy, epoch)[batch.mask], expected)


@every_defense
def test_model_of_a_stack_trains_on_the_same_inputs_as_alone(name):
    defense, (batch, draws) = make(settings_of(name)), step()
    stacked = defense.inputs(batch, draws)
    rows = int(batch.mask[0].sum())
    lone = Batch(batch.x[0, :rows], batch.y[0, :rows], batch.mask[0, :rows], batch.records[0, :rows])
    single = defense.inputs(lone, replace(draws, models=[0], stacked=False))
    torch.testing.assert_close(stacked.x[0, :rows], single.x)
    logits = torch.randn(5, 10)
    expected = defense.loss(torch.stack([logits, logits]), stacked, 0)[0, :rows]
    torch.testing.assert_close(defense.loss(logits[:rows], single, 0), expected)


@every_defense
def test_numbers_below_zero_are_refused_by_name(name):
    defense = settings_of(name)["defense"]
    numbers = [key for key, value in defense.items() if isinstance(value, int | float) and not isinstance(value, bool)]
    for key in numbers:
        wrong = copy.deepcopy(defense) | {key: -1}
        with pytest.raises(ValueError, match=rf"^defense\.{key}=-1") as error:
            make_defense(wrong)
        assert "\n" not in str(error.value)


def test_undefended_loss_is_cross_entropy():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    y = torch.tensor([0, 2])
    batch = Batch(torch.zeros(2, 4), y, torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.int64))
    expected = [np.log(np.exp([2, 0, -1]).sum()) - 2, np.log(3)]
    assert make(settings_of("none")).loss(logits, batch, 0).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["l2", "defense.weight_decay=0"], r"defense\.weight_decay=0: expected"),
        (["l1", "defense.weight=0"], r"defense\.weight=0: expected"),
        (["dropout", "defense.rate=1.2"], r"defense\.rate=1\.2: expected"),
        (["dropout", "defense.rate=0"], r"defense\.rate=0: expected"),
        (["label_smoothing", "defense.amount=1"], r"defense\.amount=1: expected"),
        (["mixup", "defense.alpha=0"], r"defense\.alpha=0: expected"),
        (["mixup", "defense.alpha=inf"], r"defense\.alpha=inf: expected"),
        (["dp_sgd", "defense.epsilon=-1"], "epsilon=-1: expected"),
        (["dp_sgd", "defense.max_grad_norm=0"], "max_grad_norm=0"),
    ],
)
def test_wrong_strengths_are_refused(overrides, message):
    name, *rest = overrides
    with pytest.raises(Exception, match=message):
        make(settings_of(name, *rest))
