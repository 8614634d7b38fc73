"""Adversarial regularization: the attacker learns from the right records, counts in the loss, and may not be dead."""

from __future__ import annotations

from collections import UserList
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import nn

from palisade.data.dataset import Dataset, from_config
from palisade.data.loaders import Batch
from palisade.data.placement import CPU
from palisade.data.secret import Secret
from palisade.data.split import Membership, Split
from palisade.defenses.adversarial_regularization import AdversarialRegularization
from palisade.defenses.parts.adversary import Adversary
from palisade.defenses.parts.inference_attacker import InferenceAttacker, Shown
from palisade.targets.fleet import Fleet
from palisade.targets.module import Target
from palisade.targets.training import make_fitter

LOCATION30_FOLDER = Path(__file__).parents[3] / "shared" / "data" / "location30"
location30 = pytest.mark.skipif(not LOCATION30_FOLDER.is_dir(), reason="no location30 under ../shared/data")
TEST_SECRET = Secret.from_text("adversarial")
SMALL_SETTINGS = ["data=digits", "network.hidden=[32]", "split.pool=0.4", "split.reference=0.2", "trainer.epochs=4"]

SMALL_LOCATION30 = [
    *("data=location30", f"data.root={LOCATION30_FOLDER}", "split.pool=1000", "split.reference=1000"),
    *("network.hidden=[64]", "trainer.epochs=20", "trainer.optimizer.lr=2e-3"),
]


def fit(compose, *overrides: str) -> tuple[Fleet, Adversary, Dataset, np.ndarray]:
    """Model 0, its adversary, the data, and the records it was trained on."""
    config = compose("defense=adversarial_regularization", "defense.warm_up=1", *overrides)
    dataset, membership = from_config(config), Membership()
    fitter = make_fitter({**config, "fleet": {"at_once": 1}}, dataset, TEST_SECRET, [0], membership)
    members = membership.draw(dataset.split, [0], TEST_SECRET)
    fleet = fitter.defense.fit(fitter, dataset.split, members)
    adversary = next(callback for callback in fleet.callbacks if isinstance(callback, Adversary))
    return fleet, adversary, dataset, dataset.split.pool[members[0]]


def test_attacker_sees_the_true_class_and_the_others_in_any_order():
    attacker = InferenceAttacker(4, TEST_SECRET, 0)
    logits, y = torch.tensor([[2.0, 1.0, 0.0, -1.0]]), torch.tensor([1])
    belief = attacker.belief(logits, y)
    assert 0 < belief.item() < 1
    torch.testing.assert_close(attacker.belief(logits[:, [3, 1, 2, 0]], y), belief)
    assert attacker.belief(logits, torch.tensor([0])).item() != pytest.approx(belief.item(), abs=1e-4)


def test_attackers_weights_come_from_the_secret_and_disturb_nothing():
    state = torch.random.get_rng_state()
    one, again, other = (InferenceAttacker(4, TEST_SECRET, model).state_dict() for model in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, again[name]) for name, value in one.items())
    assert not torch.equal(one["label.0.weight"], other["label.0.weight"])


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), members=st.integers(1, 20), others=st.integers(1, 20))
def test_auc_is_that_of_scikit_learn(seed, members, others):
    torch.manual_seed(seed)
    logits = torch.randn(22, 3).round()  # ties
    y = torch.randint(3, (len(logits),))
    shown = Shown.of([np.arange(members), np.arange(members + 1)], [np.arange(others), np.arange(others + 2)])
    assert shown.real.sum(dim=-1).tolist() == [members + others, members + others + 3]
    logits, y = logits[shown.records], y[shown.records]
    attacker = InferenceAttacker.side_by_side(3, TEST_SECRET, [0, 1])
    signals = attacker(logits, y).detach()
    expected = [roc_auc_score(shown.member[k][real], signals[k][real]) for k, real in enumerate(shown.real)]
    assert attacker.aucs(logits, y, shown).tolist() == pytest.approx(expected)


def test_sensitivity_is_the_largest_derivative():
    torch.manual_seed(0)
    attacker = InferenceAttacker.side_by_side(3, TEST_SECRET, [0, 1]).double()
    logits, y = torch.randn(2, 5, 3).double(), torch.randint(3, (2, 5))
    slopes = [
        (attacker.belief(logits + h, y) - attacker.belief(logits - h, y)).abs().amax(dim=1) / 2e-6
        for h in 1e-6 * torch.eye(15).double().view(15, 1, 5, 3)
    ]
    torch.testing.assert_close(
        attacker.sensitivity(logits, y), torch.stack(slopes).amax(dim=0).detach(), rtol=1e-4, atol=0
    )


def started(warm_up: int, weight: float = 2.0) -> tuple[Adversary, Target, Any]:
    """An adversary of a fit that is about to begin: records 0–39 are the pool, 0–19 the members, 40–59 reference."""
    rng = np.random.default_rng(0)
    dataset: Any = SimpleNamespace(
        x=rng.normal(size=(60, 4)).astype(np.float32), y=rng.integers(3, size=60), classes=["a", "b", "c"]
    )
    nobody = np.array([], dtype=np.int64)
    split = Split(
        pool=np.arange(40), validation=nobody, reference=np.arange(40, 60), population=nobody, test=nobody
    )  # fmt: skip
    recipe = SimpleNamespace(epochs=6, batch_size=5)
    schedule = SimpleNamespace(steps_per_epoch=4)
    fitter: Any = SimpleNamespace(
        dataset=dataset, secret=TEST_SECRET, models=[0], recipe=recipe, schedule=schedule, device=CPU
    )
    (adversary,) = AdversarialRegularization(weight=weight, warm_up=warm_up).callbacks(fitter, split)
    plain = AdversarialRegularization(weight=weight, warm_up=warm_up).loss
    module = Target(nn.Linear(4, 3), inputs=None, loss=plain, optimizer=None, loss_divisor=5.0)
    step = (np.arange(20)[None], np.arange(20)[None] < 18)  # a padded row is no record of the step
    sampler: Any = UserList([step])
    sampler.members = [np.arange(20)]
    trainer: Any = SimpleNamespace(
        train_dataloader=SimpleNamespace(sampler=sampler),
        current_epoch=warm_up, global_step=0,
    )  # fmt: skip
    adversary.on_train_start(trainer, module)
    return adversary, module, trainer


def test_loss_is_cross_entropy_plus_the_weighted_belief_after_the_warm_up():
    adversary, module, _ = started(warm_up=2, weight=3.0)
    logits, y = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    batch = Batch(torch.zeros(4, 4), y, torch.tensor([True, True, True, False]), torch.arange(4))
    plain = F.cross_entropy(logits, y, reduction="none")
    torch.testing.assert_close(module.loss(logits, batch, 1), plain)
    regularized = plain + 3 * (adversary.attacker(logits[None], y[None])[0].sigmoid() - 0.5)
    torch.testing.assert_close(module.loss(logits, batch, 2), regularized)


def test_more_than_half_of_the_epochs_are_never_warm_up():
    assert started(warm_up=2)[0].warm_up == 2 and started(warm_up=50)[0].warm_up == 3


def test_attacker_learns_alone_and_beside_the_model_from_members_and_reference_records(monkeypatch):
    adversary, module, trainer = started(warm_up=3)
    learnt: list[tuple[np.ndarray, np.ndarray]] = []
    loss = InferenceAttacker.loss

    def noted(self, logits, y, shown):
        torch.testing.assert_close(logits, adversary._predict(shown.records))
        assert shown.real.all() and torch.equal(y, adversary.y[shown.records])
        learnt.append((shown.records[0], shown.member[0].numpy()))
        return loss(self, logits, y, shown)

    monkeypatch.setattr(InferenceAttacker, "loss", noted)
    adversary.on_train_epoch_start(trainer, module)
    assert len(learnt) == 3 * 4
    records = torch.arange(20)
    batch = Batch(torch.zeros(20, 4), torch.zeros(20, dtype=torch.int64), records < 18, records)
    adversary.on_train_batch_start(trainer, module, batch, 0)
    assert len(learnt) == 3 * 4 + 1
    beside = learnt[-1][0][learnt[-1][1]]
    assert set(beside) == set(range(18)) - set(adversary.held_out.records[0])
    for records, member in learnt:
        assert (records[member] < 20).all() and (records[~member] >= 40).all()
        assert member.sum() == (~member).sum() and not set(records) & set(adversary.held_out.records[0])
    assert len({tuple(records) for records, _ in learnt}) == len(learnt)


def test_what_is_held_out_is_a_tenth_of_both():
    adversary, _, _ = started(warm_up=1)
    held_out, member = adversary.held_out.records[0], adversary.held_out.member[0].numpy()
    assert (
        (held_out[member] < 20).all()
        and (held_out[~member] >= 40).all()
        and member.tolist() == [True] * 2 + [False] * 2
    )
    assert len({*held_out, *adversary.members[0], *adversary.reference[0]}) == 40


def test_attacker_finds_a_model_that_knows_its_members_by_heart():
    adversary, module, trainer = started(warm_up=3)
    adversary.x = 5 * np.eye(4, dtype=np.float32)[adversary.y.numpy()] * (np.arange(60) < 20)[:, None]
    module.network = adversary.network = nn.Linear(4, 3, bias=False)
    module.network.weight.data = torch.eye(3, 4)
    batch = Batch(torch.zeros(20, 4), adversary.y[:20], torch.ones(20, dtype=torch.bool), torch.arange(20))
    for _ in range(20):
        adversary.on_train_epoch_start(trainer, module)
        adversary.on_train_batch_start(trainer, module, batch, 0)
    module.log = lambda *_: None
    adversary.on_train_epoch_end(trainer, module)
    assert adversary.aucs.tolist() == [1]
    (beliefs,) = adversary.attacker.belief(adversary._predict(np.arange(60)[None]), adversary.y[None])
    assert (beliefs[:20] > 0.6).all() and (beliefs[20:] < 0.4).all()
    adversary.on_train_end(trainer, module)


def test_a_dead_attacker_is_an_error(compose, monkeypatch):
    def die(self, members, rngs):
        with torch.no_grad():
            self.attacker.joined[-1].weight.zero_()

    monkeypatch.setattr(Adversary, "_learn", die)
    with pytest.raises(ValueError, match=r"defense\.weight=1") as error:
        fit(compose, *SMALL_SETTINGS, "defense.weight=1")
    assert "\n" not in str(error.value) and str(error.value).endswith("or change defense.warm_up")


def test_collapse_is_an_error():
    adversary, module, trainer = started(warm_up=1, weight=50)
    adversary.y[:20] = torch.arange(20) % 3
    module.network.weight.data.zero_()
    with pytest.raises(ValueError, match=r"defense\.weight=50"):
        adversary.on_train_end(trainer, module)
    module.network = adversary.network = nn.Linear(4, 3)
    adversary.x[:20] = np.eye(4)[adversary.y[:20]]
    module.network.weight.data = torch.eye(3, 4)
    adversary.on_train_end(trainer, module)


@location30
def test_too_large_a_weight_collapses_location30(compose):
    with pytest.raises(ValueError, match=r"defense\.weight=50") as error:
        fit(compose, *SMALL_LOCATION30, "defense.weight=50")
    assert "\n" not in str(error.value) and str(error.value).endswith("; lower it, or train longer")


@pytest.mark.slow
@location30
def test_members_get_harder_to_tell_on_location30(compose, monkeypatch):
    end, by_hand = Adversary.on_train_end, []

    def compared_and_ended(adversary, trainer, module):
        held_out, member, _ = adversary.held_out  # which it lets go of
        signals = adversary.attacker(adversary._predict(held_out), adversary.y[held_out]).detach()
        by_hand.append(roc_auc_score(member[0], signals[0]))
        end(adversary, trainer, module)

    monkeypatch.setattr(Adversary, "on_train_end", compared_and_ended)
    aucs, accuracies, adversaries = [], [], []
    for weight in (1e-6, 3):
        fleet, adversary, dataset, members = fit(compose, *SMALL_LOCATION30, f"defense.weight={weight}")
        z = torch.from_numpy(fleet.predict(dataset.x)[0])
        losses = F.cross_entropy(z, torch.tensor(dataset.y), reduction="none").numpy()
        others = np.setdiff1d(dataset.split.pool, members)
        labels = np.r_[np.ones(len(members)), np.zeros(len(others))]
        aucs.append(roc_auc_score(labels, -losses[np.r_[members, others]]))
        accuracies.append(float((z.argmax(dim=1).numpy() == dataset.y)[dataset.split.test].mean()))
        adversaries.append(adversary)
        assert adversary.aucs.tolist() == pytest.approx(by_hand[-1:])
    assert aucs[1] < aucs[0] - 0.05 and accuracies[1] > accuracies[0] - 0.1
    assert adversaries[0].aucs > 0.7  # with next to no weight the model overfits, and the attacker must see that


def test_reference_records_are_needed(compose):
    message = (
        "split.reference=0: expected reference records, which defense=adversarial_regularization needs; set split.ref"
    )
    with pytest.raises(ValueError, match=message):
        fit(compose, *SMALL_SETTINGS, "split.reference=0")


@pytest.mark.parametrize("weight", [0, -1.0, float("inf"), float("nan")])
def test_weight_is_positive_and_finite(weight):
    message = rf"weight={weight}: expected"
    with pytest.raises(ValueError, match=message):
        AdversarialRegularization(weight=weight, warm_up=5)


@pytest.mark.parametrize("warm_up", [-1, 0.5, True, None])
def test_warm_up_is_a_count(warm_up):
    message = r"warm_up=.*: expected an integer >= 0; "
    with pytest.raises(ValueError, match=message):
        AdversarialRegularization(weight=1, warm_up=warm_up)


def test_declares_what_it_is():
    defense = AdversarialRegularization(weight=2, warm_up=5)
    assert not defense.separable and defense.stackable and defense.roles == {"reference"} and defense.strength == 2
