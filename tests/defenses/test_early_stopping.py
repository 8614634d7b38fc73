"""Every model keeps the weights of its own best epoch, alone and in a stack."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from palisade.data.dataset import from_config
from palisade.data.placement import CPU
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.defenses.early_stopping import BestWeights, EarlyStopping
from palisade.targets.training import check_finite, make_fitter
from palisade.train import composed

PLANNED_EPOCHS, PATIENCE_EPOCHS, MODEL_NUMBERS = 14, 2, [0, 1, 2, 3]
BASE_SETTINGS = [
    "data=digits",
    "split.pool=0.2",
    "split.validation=0.1",
    "network.hidden=[16]",
    "trainer.batch_size=32",
]
JUMPY_SETTINGS = [*BASE_SETTINGS, f"trainer.epochs={PLANNED_EPOCHS}", "trainer.optimizer.lr=0.05"]
"""A learning rate at which the validation loss goes up and down, so that the last weights are seldom the best."""
STOPPING_SETTINGS = [*JUMPY_SETTINGS, "defense=early_stopping", f"defense.patience={PATIENCE_EPOCHS}"]


def fit(settings, models=MODEL_NUMBERS, at_once=1, keep=0):
    dataset, secret, membership = from_config(settings), Secret.from_text("stop"), Membership()
    fleet = {"at_once": at_once, "keep_checkpoints": keep}
    fitter = make_fitter({**settings, "fleet": fleet}, dataset, secret, models, membership)
    return fitter.defense.fit(fitter, dataset.split, membership.draw(dataset.split, models, secret))


def close(one, other, tolerance=0.0):
    return all(torch.allclose(value, other[name], rtol=0, atol=tolerance) for name, value in one.items())


@pytest.fixture(scope="module")
def history():
    """For every model its weights after every epoch, and their validation losses: training that is never stopped."""
    fleet = fit(composed(*JUMPY_SETTINGS), keep=PLANNED_EPOCHS - 1)
    states = [[*checkpoint.values(), state] for checkpoint, state in zip(fleet.checkpoints, fleet.states, strict=True)]
    dataset = from_config(composed(*JUMPY_SETTINGS))
    x, y = (part[dataset.split.validation] for part in (dataset.x, torch.from_numpy(dataset.y)))
    losses = []
    for of_model in states:
        fleet.states = of_model
        losses.append([float(cross_entropy(torch.from_numpy(logits), y)) for logits in fleet.predict(x)])
    return states, losses


def best_and_last(losses: list[float], patience: int) -> tuple[int, int]:
    """The epochs (from 0) of the best weights and of the end, by the definition."""
    best = 0
    for epoch, loss in enumerate(losses):
        if loss < losses[best]:
            best = epoch
        if epoch - best >= patience:
            return best, epoch
    return best, len(losses) - 1


def test_history_is_one_in_which_it_matters_when_to_stop(history):
    """Models end at different epochs; some would have found better weights later, some never run out of patience."""
    _, losses = history
    ends = [best_and_last(of_model, PATIENCE_EPOCHS) for of_model in losses]
    assert len({best for best, _ in ends}) > 1 and len({last for _, last in ends}) > 1
    assert any(min(of_model) < of_model[best] for of_model, (best, _) in zip(losses, ends, strict=True))
    assert all(best_and_last(of_model, PLANNED_EPOCHS)[0] < PLANNED_EPOCHS - 1 for of_model in losses)


@pytest.mark.parametrize("patience", [PATIENCE_EPOCHS, PLANNED_EPOCHS])
@pytest.mark.parametrize("at_once", [1, 4])
def test_every_model_keeps_its_own_best_weights(compose, history, at_once, patience):
    states, losses = history
    fleet = fit(compose(*STOPPING_SETTINGS, f"defense.patience={patience}"), at_once=at_once)
    for k in MODEL_NUMBERS:
        best, _ = best_and_last(losses[k], patience)
        assert close(fleet.states[k], states[k][best], 0.0 if at_once == 1 else 1e-4), (k, best)


@pytest.mark.parametrize("at_once", [1, 4])
def test_checkpoints_after_the_end_are_the_best_weights(compose, history, at_once):
    states, losses = history
    fleet = fit(compose(*STOPPING_SETTINGS), at_once=at_once, keep=PLANNED_EPOCHS - 1)
    for k in MODEL_NUMBERS:
        best, last = best_and_last(losses[k], PATIENCE_EPOCHS)
        for epoch in range(1, PLANNED_EPOCHS):
            expected = states[k][epoch - 1] if epoch - 1 < last else states[k][best]
            assert close(fleet.checkpoints[k][epoch], expected, 0.0 if at_once == 1 else 1e-4), (k, epoch)


@pytest.mark.parametrize("at_once", [1, 2])
def test_training_ends_when_all_models_are_done(compose, at_once):
    settings = compose(*STOPPING_SETTINGS, "trainer.epochs=100000", "defense.patience=1")
    done = [callback.waited for callback in fit(settings, [0, 1], at_once).callbacks]
    assert all((waited >= 1).all() for waited in done)


@pytest.mark.parametrize("at_once", [1, 2])
def test_fixed_epochs_are_those_of_the_recipe_and_need_no_validation(compose, at_once):
    fixed = [*JUMPY_SETTINGS, "split.validation=0", "defense=early_stopping", "defense.epochs=3"]
    stopped = fit(compose(*fixed), [0, 1], at_once, keep=6)
    short = fit(compose(*JUMPY_SETTINGS, "split.validation=0", "trainer.epochs=3"), [0, 1], at_once)
    for k in range(2):
        assert close(stopped.states[k], short.states[k])
        assert not close(stopped.checkpoints[k][2], short.states[k], 1e-3)
        assert close(stopped.checkpoints[k][4], short.states[k])


def test_strength_and_roles_follow_the_mode():
    patient, fixed = EarlyStopping(patience=5), EarlyStopping(patience=5, epochs=20)
    assert (patient.strength, patient.roles) == (5, {"validation"})
    assert (fixed.strength, fixed.roles) == (20, frozenset())


def stopper(network: nn.Module):
    """Early stopping of one model whose weights a test changes by hand."""
    dataset = SimpleNamespace(x=np.ones((3, 2), dtype=np.float32), y=np.zeros(3, dtype=np.int64), classes="ab")
    fitter = SimpleNamespace(models=[0], dataset=dataset, device=CPU)
    callback = BestWeights(1, fitter, SimpleNamespace(validation=np.arange(3)))
    return callback, SimpleNamespace(should_stop=False), SimpleNamespace(network=network.train())


def test_buffers_come_back_too_and_the_loss_is_that_of_evaluation_mode():
    network = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.9), nn.Linear(2, 2))
    callback, trainer, module = stopper(network)
    with torch.no_grad():
        network[0].running_mean.fill_(7.0)
    best = {name: value.clone() for name, value in network.state_dict().items()}
    callback.on_train_epoch_end(trainer, module)
    assert network.training and not trainer.should_stop
    assert close(network.state_dict(), best)
    with torch.no_grad():
        network[0].running_mean.fill_(-3.0)
        network[0].num_batches_tracked += 1
        network[2].bias.copy_(torch.tensor([-50.0, 50.0]))
    callback.on_train_epoch_end(trainer, module)
    assert trainer.should_stop and close(network.state_dict(), best)


def test_diverged_model_does_not_pass_for_an_untrained_one():
    network = nn.Linear(2, 2)
    callback, trainer, module = stopper(network)
    torch.nn.init.constant_(network.weight, torch.nan)
    callback.on_train_epoch_end(trainer, module)
    callback.on_train_end(trainer, module)
    with pytest.raises(ValueError, match="model 0 diverged"):
        check_finite([0], SimpleNamespace(states=[network.state_dict()]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "patience=null: expected a count where epochs=null"),
        ({"patience": 0}, "patience=0: expected"),
        ({"patience": 2.5}, "patience=2.5: expected"),
        ({"epochs": 0}, "epochs=0: expected"),
        ({"epochs": True}, "epochs=true: expected"),
    ],
)
def test_what_is_no_count_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**settings)


def test_more_epochs_than_the_trainer_has_are_refused(compose):
    with pytest.raises(ValueError, match=r"defense\.epochs=15"):
        fit(compose(*JUMPY_SETTINGS, "defense=early_stopping", "defense.epochs=15"), [0])


def test_patience_without_validation_records_is_refused(compose):
    with pytest.raises(ValueError, match=r"split\.validation=0"):
        fit(compose(*STOPPING_SETTINGS, "split.validation=0"), [0])
