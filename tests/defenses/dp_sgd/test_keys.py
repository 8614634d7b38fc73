"""Another fit under the same secret has other noise and other batches; the same fit has the same, resumed or longer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from fit_parts import Parts
from test_base import SMALL_SETTINGS
from test_callback import TEST_SECRET, Plain, blobs, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from user_modules import Base

from palisade.data.dataset import from_config
from palisade.data.split import Membership
from palisade.defenses.dp_sgd import DPSGD
from palisade.defenses.dp_sgd.noise import fit_secret, identities
from palisade.targets.training import make_fitter

pytestmark = pytest.mark.filterwarnings("ignore")
ZERO_RECORDS = TensorDataset(torch.zeros(40, 300), torch.zeros(40, dtype=torch.long))


class Other(Plain):
    """Another class of the same content."""


class Slower(Plain):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5)


class Adam(Plain):
    """Another optimizer, whose update here is as good as the gradient's sign."""

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1.0, betas=(0.0, 0.0), eps=1e9)


def noise(
    kind: Any = Plain, *, data: Any = ZERO_RECORDS, batch: int = 10, start: int = 1, epochs: int = 1, **settings: Any
) -> Tensor:
    """Noise of each step in weights of zero inputs, which have no gradient: (steps, weights), with unit variance."""
    weights: list[Tensor] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            weights.append(module.my_net.weight.detach().clone().flatten())

    torch.manual_seed(start)
    module = kind(nn.Linear(300, 10, bias=False))
    weights.append(module.my_net.weight.detach().clone().flatten())
    callback = DPSGD(**{"noise_multiplier": 1.0, "secret": TEST_SECRET, **settings})
    trainer(callback, Watch(), max_epochs=epochs).fit(module, DataLoader(data, batch_size=batch))
    steps = torch.diff(torch.stack(weights), dim=0)
    return steps / steps.std(1, keepdim=True)


def check_other_noise(**changed: Any) -> None:
    """Correlation of 3000 noise values is within 5 standard deviations of zero, in every pair of steps."""
    one, other = noise(), noise(**changed)
    assert np.abs(np.corrcoef(one.numpy(), other.numpy())[: len(one), len(one) :]).max() < 5 / 3000**0.5


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": Other},
        {"kind": Slower},
        {"kind": Adam},
        {"noise_multiplier": 1.5},
        {"max_grad_norm": 2.0},
        {"batch": 8},
        {"public_size": 50},
        {"clipping": "automatic"},
        {"start": 2},
        {"models": [1]},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_another_fit_has_other_noise(changed: dict[str, Any]) -> None:
    check_other_noise(**changed)


@pytest.mark.parametrize("changed", [{}, {"epochs": 2}, {"data": TensorDataset(*ZERO_RECORDS[:39]), "public_size": 40}])
def test_the_same_fit_has_the_same_noise_however_long_and_on_whatever_records(changed: dict[str, Any]) -> None:
    one, other = noise(), noise(**changed)
    assert len(one) == 4 and torch.allclose(one, other[:4], atol=1e-3)


def test_two_releases_do_not_give_the_sum_away() -> None:
    """Two σ of one noise would: the sum is a linear combination of what both add it to."""
    one, other = noise(noise_multiplier=1.0), noise(noise_multiplier=2.0)
    assert not torch.allclose(one, other, atol=0.5)


class Batches(pl.Callback):
    """Keeps which records took part."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(batch[0][:, 0].tolist())


def taken(epochs: int = 1, folder: Path | None = None, resume: bool = False, **settings: Any) -> list[list[float]]:
    batches, callback = Batches(), DPSGD(**{"noise_multiplier": 1.0, "secret": TEST_SECRET, **settings})
    torch.manual_seed(1)
    run = trainer(callback, batches, max_epochs=epochs)
    more: Any = {"ckpt_path": folder / "one.ckpt", "weights_only": True} if folder and resume else {}
    run.fit(Plain(), DataLoader(blobs(), batch_size=24), **more)
    if folder and not resume:
        run.save_checkpoint(folder / "one.ckpt")
    return batches.seen


def test_batches_follow_the_fits_own_key_too() -> None:
    whole = taken()
    assert taken() == whole and taken(epochs=2)[:10] == whole
    assert taken(max_grad_norm=2.0) != whole and taken(noise_multiplier=2.0) != whole


def test_more_epochs_go_on_with_the_same_streams(tmp_path: Path) -> None:
    whole = taken(epochs=2)
    assert taken(epochs=1, folder=tmp_path) == whole[:10]
    assert taken(epochs=2, folder=tmp_path, resume=True) == whole[10:]


def test_more_epochs_are_accounted_for(tmp_path: Path) -> None:
    torch.manual_seed(1)
    run = trainer(DPSGD(noise_multiplier=1.0, secret=TEST_SECRET), max_epochs=1)
    run.fit(Plain(), DataLoader(blobs(), batch_size=24))
    run.save_checkpoint(tmp_path / "one.ckpt")
    torch.manual_seed(1)
    whole, resumed = DPSGD(noise_multiplier=1.0, secret=TEST_SECRET), DPSGD(noise_multiplier=1.0, secret=TEST_SECRET)
    expected = Plain()
    trainer(whole, max_epochs=2).fit(expected, DataLoader(blobs(), batch_size=24))
    continued = Plain()
    more: Any = {"ckpt_path": tmp_path / "one.ckpt", "weights_only": True}
    trainer(resumed, max_epochs=2).fit(continued, DataLoader(blobs(), batch_size=24), **more)
    assert resumed.steps == 20 and resumed.statement.epsilon == whole.statement.epsilon
    assert resumed.statement.steps_planned == 20
    for one, other in zip(expected.parameters(), continued.parameters(), strict=True):
        assert torch.equal(one, other)


def test_more_epochs_of_a_calibrated_fit_say_how(tmp_path: Path) -> None:
    run = trainer(DPSGD(epsilon=8.0, secret=TEST_SECRET), max_epochs=1)
    run.fit(Plain(), DataLoader(blobs(), batch_size=24))
    run.save_checkpoint(tmp_path / "one.ckpt")
    more: Any = {"ckpt_path": tmp_path / "one.ckpt", "weights_only": True}
    with pytest.raises(ValueError, match=r"steps=20: expected 10, .*noise_multiplier=") as refused:
        trainer(DPSGD(epsilon=8.0, secret=TEST_SECRET), max_epochs=2).fit(Plain(), DataLoader(blobs(), 24), **more)
    sigma = float(str(refused.value).rpartition("noise_multiplier=")[2].split()[0])
    callback = DPSGD(noise_multiplier=sigma, secret=TEST_SECRET)
    trainer(callback, max_epochs=2).fit(Plain(), DataLoader(blobs(), 24), **more)
    assert callback.steps == 20 and callback.statement.epsilon > 8


def test_a_checkpoint_does_not_hold_the_secret_of_the_fit(tmp_path: Path) -> None:
    callback = DPSGD(noise_multiplier=1.0, secret=TEST_SECRET)
    trainer(callback, max_epochs=1).fit(Plain(), DataLoader(blobs(), batch_size=24))
    (identity,) = callback.state_dict()["fits"]
    own = fit_secret(TEST_SECRET, identity)
    assert own.value != TEST_SECRET.value and own.user_chosen
    assert own.value.hex() not in repr(callback.state_dict()) and TEST_SECRET.value.hex() not in repr(
        callback.state_dict()
    )


def test_run_and_release_and_models_share_no_stream(compose: Any) -> None:
    """The release of a run is trained from the same secret and, as model 0, from the same weights."""
    config = compose(*SMALL_SETTINGS, "defense.trainer.epochs=1")
    dataset, membership = from_config(config), Membership()
    fitter = make_fitter({**config, "fleet": {"at_once": 1}}, dataset, TEST_SECRET, [0], membership)
    drawn = membership.draw(dataset.split, [0], TEST_SECRET)

    def trained(**changed: Any) -> Tensor:
        state = replace(fitter, **changed).train(dataset.split, drawn).states[0]
        initial = replace(fitter, **changed).initial_network(0).state_dict()
        return torch.cat([(state[name] - initial[name]).flatten() for name in state])

    run, again, release = trained(purpose="run"), trained(purpose="run"), trained(purpose="release")
    assert torch.equal(run, again)
    assert float(np.corrcoef(run, release)[0, 1]) < 0.9 < float(np.corrcoef(run, again)[0, 1])


def check_run_and_model_are_in_the_key() -> None:
    parts = Parts(Base())
    optimizer = torch.optim.SGD(parts.module.parameters(), lr=1.0)
    texts = [
        identities(parts.module, optimizer, parts.mechanism, purpose=purpose, models=[model])[0]
        for purpose in ("run", "release")
        for model in (0, 1)
    ]
    assert len({fit_secret(TEST_SECRET, text).value for text in texts}) == 4


def test_run_and_model_are_in_the_key() -> None:
    check_run_and_model_are_in_the_key()
