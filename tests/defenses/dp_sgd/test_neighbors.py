"""Two data sets that differ in one record: what may differ in a training, and by how much."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_callback import Plain, trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from palisade.data.secret import Secret
from palisade.defenses.dp_sgd import DPSGD

pytestmark = pytest.mark.filterwarnings("ignore")
CLIP_NORM = 0.5


def data(records: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = 5 * torch.randn(41, 8, generator=generator)
    return TensorDataset(x[:records], torch.randint(0, 3, (41,), generator=generator)[:records])


def train(records: int, start: dict[str, Any] | None = None, secret: str = "neighbors", **settings: Any) -> Any:
    callback = DPSGD(
        noise_multiplier=1.0, max_grad_norm=CLIP_NORM, public_size=40, secret=Secret.from_text(secret), **settings
    )
    torch.manual_seed(1)
    module = Plain(nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)))
    steps = 10 if start is None else 1
    if start is not None:
        module.load_state_dict(start)
    trainer(callback, max_steps=steps, max_epochs=None).fit(module, DataLoader(data(records), batch_size=20))
    return module, callback


@pytest.mark.slow
@pytest.mark.parametrize("clipping", ["flat", "per_layer", "automatic"])
def test_one_record_moves_the_noised_sum_by_at_most_c(clipping: str) -> None:
    """From the same weights with the same noise, a record's clipped gradient is the difference."""
    moved = []
    for step in range(8):
        start = train(40, secret=f"weights {step}")[0].state_dict()
        (one, _), (other, _) = (train(n, start, secret=f"step {step}", clipping=clipping) for n in (40, 41))
        pairs = zip(one.parameters(), other.parameters(), strict=True)
        moved.append(float(torch.cat([(a - b).detach().flatten() for a, b in pairs]).norm()) * 20)  # q·N = 20, lr = 1
    assert max(moved) <= CLIP_NORM * (1 + 1e-5)
    assert max(moved) > 0.9 * CLIP_NORM and min(moved) < 1e-6  # taken in some steps, left out in others


def test_what_is_public_does_not_tell_them_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps, draws of noise, the statement and the checkpoint's numbers are the same."""
    drawn: list[Any] = []
    stream = Secret.stream

    def recorded(self: Secret, purpose: str, model: int = 0, step: int = 0) -> Any:
        drawn.append((purpose, model, step))
        return stream(self, purpose, model, step)

    monkeypatch.setattr(Secret, "stream", recorded)
    seen = []
    for records in (40, 41):
        drawn.clear()
        module, callback = train(records)
        public = (callback.steps, module.trainer.global_step, callback.statement.to_json(), callback.state_dict())
        seen.append((sorted(drawn), public))
    assert seen[0] == seen[1]
