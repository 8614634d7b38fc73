"""Modules as people bring them, and how far one record moves the sum that the noise is added to."""

from __future__ import annotations

import contextlib
import io
from collections import UserDict, deque
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, Subset, TensorDataset

from palisade.data.secret import Secret
from palisade.defenses.dp_sgd import DPSGD

TEST_SECRET = Secret.from_text("sensitivity")
WEIGHT_ROUNDING = 2.0**-23  # of a weight that is moved by learning rate 1, before and after


class Base(pl.LightningModule):
    """Linear(6, 3) with cross-entropy; so many steps at learning rate 0 come first."""

    still = 0

    def __init__(self):
        super().__init__()
        self.b = nn.Linear(6, 3)

    def forward(self, x):
        return self.b(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=1.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step >= self.still))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class With(Base):
    """A layer before the last, made by a function."""

    make: Callable[[], nn.Module]

    def __init__(self):
        super().__init__()
        self.layer = type(self).make()

    def forward(self, x):
        return self.b(self.layer(x))


def layered(make: Callable[[], nn.Module], forward: Callable[[Any, Tensor], Tensor] | None = None) -> type[Base]:
    """A class of modules with a layer before the last."""
    return type("Layered", (With,), {"make": staticmethod(make), **({"forward": forward} if forward else {})})


def blobs(records: int = 12) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(records, 6, generator=generator), torch.arange(records) % 3)


def words(records: int = 12) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randint(5, (records, 4), generator=generator), torch.arange(records) % 3)


def rare(records: int = 60, at: int = 7) -> TensorDataset:
    """One record of class 1 among others that are alike."""
    x = 0.1 + 0.05 * torch.randn(records, 6, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, (torch.arange(records) == at).long())


# What trains.


class Scaled(Base):
    """A parameter of the module itself."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * self.b(x)


class ClassToken(Base):
    """A learned token before a sequence, which attention reads."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 2))
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True)
        self.b = nn.Linear(2, 3)

    def forward(self, x):
        x = torch.cat([self.token.expand(len(x), 1, 2), x.view(len(x), 3, 2)], 1)
        return self.b(self.attention(x, x, x, need_weights=False)[0][:, 0])


class Tied(pl.LightningModule):
    """Embedding and output layer with one weight."""

    def __init__(self):
        super().__init__()
        self.e, self.head = nn.Embedding(5, 6), nn.Linear(6, 5, bias=False)
        self.head.weight = self.e.weight

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.head(torch.tanh(self.e(x)).mean(1)), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


class Positions(Base):
    """A table that is looked up once for the batch."""

    def __init__(self):
        super().__init__()
        self.e, self.p = nn.Embedding(5, 6), nn.Embedding(4, 6)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.b(torch.tanh(self.e(x) + self.p(torch.arange(x.shape[1]))).mean(1)), y)


class RMS(nn.Module):
    """RMS norm of another library."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class Transposed(nn.Module):
    """The Conv1D of Hugging Face."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(0.1 * torch.randn(6, 6)), nn.Parameter(torch.zeros(6))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


class Dictionary(Base):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch["x"]), batch["y"])


def dictionary(items):
    x, y = zip(*items, strict=True)
    return UserDict(x=torch.stack(x), y=torch.stack(y))


class FrozenBackbone(Base):
    def __init__(self):
        super().__init__()
        encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(2, 1, 8, batch_first=True), 1)
        self.back = nn.ModuleList([encoder, nn.BatchNorm1d(3), nn.InstanceNorm1d(3, track_running_stats=True)])
        self.back.requires_grad_(False)

    def training_step(self, batch, batch_idx):
        self.back.eval()
        x, y = batch[0].view(-1, 3, 2), batch[1]
        for layer in self.back:
            x = layer(x)
        return F.cross_entropy(self.b(x.flatten(1)), y)


class Counting(Base):
    """Counts, clocks, kept losses and a metric follow no single record into the weights."""

    def __init__(self):
        super().__init__()
        self.seen, self.past_losses = 0, []
        self.register_buffer("clock", torch.zeros(()))
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(3)

    def training_step(self, batch, batch_idx):
        self.seen += 1
        self.clock += 1
        logits = self(batch[0])
        self.accuracy(logits, batch[1])
        self.log("accuracy", self.accuracy)
        loss = F.cross_entropy(logits, batch[1])
        self.past_losses.append(loss.detach())
        return loss

    def on_train_epoch_end(self):
        self.past_losses.clear()


class DroppedOut(Base):
    def __init__(self):
        super().__init__()
        self.a, self.d, self.b = nn.Linear(6, 20), nn.Dropout(0.5), nn.Linear(20, 3)

    def forward(self, x):
        return self.b(self.d(torch.relu(self.a(x))))


class Noisy(Base):
    def forward(self, x):
        return self.b(x + 0.3 * torch.randn_like(x))


def recurrent(kind: str) -> Callable[[], nn.Module]:
    def make():
        import opacus.layers

        return getattr(opacus.layers if kind.startswith("DP") else nn, kind)(2, 6, batch_first=True)

    return make


def last(self, x):
    return self.b(self.layer(x.view(len(x), 3, 2))[0][:, -1])


def sequence(self, x):
    return self.b(self.layer(x.view(len(x), 3, 2)).flatten(1))


def encoder(dropout: float = 0.0, name: str = "Encoder") -> type[Base]:
    return layered(lambda: nn.TransformerEncoderLayer(2, 1, 8, dropout=dropout, batch_first=True), sequence)


FAST_MODULES: dict[str, Any] = {
    "linear": (Base, blobs),
    "group norm": (
        layered(lambda: nn.Sequential(nn.Linear(6, 8), nn.GroupNorm(2, 8), nn.Tanh(), nn.Linear(8, 6))),
        blobs,
    ),
    "twice": (layered(lambda: nn.Linear(6, 6), lambda s, x: s.b(s.layer(torch.tanh(s.layer(x))))), blobs),
    "convolution": (
        layered(lambda: nn.Conv1d(1, 2, 3, padding=1), lambda s, x: s.b(s.layer(x[:, None]).mean(1))),
        blobs,
    ),
    "frozen backbone": (FrozenBackbone, blobs),
    "counts": (Counting, blobs),
    "tied": (Tied, lambda: TensorDataset(words().tensors[0], words().tensors[0][:, 0])),
}
"""Deterministic modules that train in all three ways."""
OTHER_MODULES: dict[str, Any] = {
    "own parameter": (Scaled, blobs),
    "flattened tokens": (
        layered(lambda: nn.Linear(2, 2), lambda s, x: s.b(s.layer(x.reshape(-1, 2)).view(-1, 6))),
        blobs,
    ),
    "class token": (ClassToken, blobs),
    "PReLU": (layered(nn.PReLU), blobs),
    "positions": (Positions, words),
    "RMS norm": (layered(RMS), blobs),
    "Conv1D": (layered(Transposed), blobs),
    "bilinear": (layered(lambda: nn.Bilinear(6, 6, 6), lambda s, x: s.b(s.layer(x, x))), blobs),
    "bag": (layered(lambda: nn.EmbeddingBag(5, 6)), words),
    "transposed convolution": (
        layered(lambda: nn.ConvTranspose1d(1, 1, 1), lambda s, x: s.b(s.layer(x[:, None])[:, 0])),
        blobs,
    ),
    "weight norm": (layered(lambda: parametrizations.weight_norm(nn.Linear(6, 6))), blobs),
    "spectral norm": (layered(lambda: parametrizations.spectral_norm(nn.Linear(6, 6))), blobs),
    "attention": (
        layered(
            lambda: nn.MultiheadAttention(2, 1, batch_first=True),
            lambda s, x: s.b(s.layer(*[x.view(-1, 3, 2)] * 3, need_weights=False)[0].flatten(1)),
        ),
        blobs,
    ),
    "encoder": (encoder(), blobs),
    "LSTM": (layered(recurrent("LSTM"), last), blobs),
    "GRU": (layered(recurrent("GRU"), last), blobs),
    "DPLSTM": (layered(recurrent("DPLSTM"), last), blobs),
    "DPGRU": (layered(recurrent("DPGRU"), last), blobs),
}
"""Deterministic modules that no fast way is promised for."""


def slow_but(fast: Iterable[Any], cases: Iterable[Any]) -> list[Any]:
    """Cases of a parametrized test, of which a few stand for all in the fast suite."""
    fast = list(fast)
    several = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [
        pytest.param(*values, marks=() if values in fast or values[0] in fast else pytest.mark.slow)
        for values in several
    ]


# The measurement.


def fitted(
    make: Callable[[], pl.LightningModule], data: Any, **settings: Any
) -> tuple[pl.LightningModule, Tensor, dict]:
    """Trains with every record in every step and without noise; the module, how far its weights went, its other state.

    Args:
        make: the module.
        data: records.
        settings: of the callback; and of the fit, below.
    """
    size, steps = settings.pop("size"), settings.pop("steps", 1)
    callbacks, collate = settings.pop("callbacks", ()), settings.pop("collate", None)
    torch.manual_seed(0)
    module = make()
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    torch.manual_seed(1)
    shared = {"noise_multiplier": 0.0, "delta": 1e-4, "public_size": size, "secret": TEST_SECRET}
    run = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[DPSGD(**{**shared, **settings}), *[kind() for kind in callbacks]],
    )
    with contextlib.redirect_stderr(io.StringIO()):
        run.fit(module, DataLoader(data, batch_size=size, shuffle=True, collate_fn=collate))
    trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
    moved = [(value.detach().double() - before[name].double()).flatten() for name, value in trained.items()]
    own = {value.data_ptr() for value in trained.values()}  # which may have several names
    buffers = {name: value.double() for name, value in module.state_dict().items() if value.data_ptr() not in own}
    return module, torch.cat(moved) * size, buffers


def sensitivity(
    make: Callable[[], pl.LightningModule],
    data: Any,
    who: Iterable[int],
    *,
    clip: float,
    without: Callable[[int], Any] | None = None,
    size: int | None = None,
    **settings: Any,
) -> float:
    """The farthest that one of some records moves the sum, in C; fails beyond C, or if other state follows it."""
    size = len(data) if size is None else size
    settings |= {"max_grad_norm": clip, "size": size}
    module, with_all, state = fitted(make, data, **settings)
    farthest = 0.0
    for record in who:
        less = without(record) if without else Subset(data, [i for i in range(len(data)) if i != record])
        _, others, other_state = fitted(make, less, **settings)
        rounding = size * WEIGHT_ROUNDING * float(torch.cat([p.detach().flatten() for p in module.parameters()]).norm())
        distance = float((with_all - others).norm())
        assert distance <= clip * (1 + 1e-5) + rounding, f"record {record} moves the sum by {distance / clip:.4f} C"
        for name, value in state.items():
            assert torch.equal(value, other_state[name]), f"{name} follows record {record}"
        farthest = max(farthest, distance / clip)
    return farthest


def looped(module: pl.LightningModule, data: Any, clip: float, collate: Any = None) -> Tensor:
    """The sum of clipped gradients by a loop over records, with plain autograd; −1 times that is an update."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    for batch in DataLoader(data, batch_size=1, collate_fn=collate):
        gradients = torch.autograd.grad(module.training_step(batch, 0), parameters, allow_unused=True)
        flat = torch.cat(
            [
                (torch.zeros_like(p) if g is None else g).flatten().double()
                for p, g in zip(parameters, gradients, strict=True)
            ]
        )
        total += flat * min(1.0, clip / float(flat.norm()))
    return total


# What is to be refused.


class ClassWeights(Base):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y, weight=torch.tensor([1.0, 50.0, 1.0]))


class Bank(Base):
    """A memory of batches, in a container of choice."""

    still = 1
    container: Callable[[], Any] = list

    def __init__(self):
        super().__init__()
        self.bank = type(self).container()

    def training_step(self, batch, batch_idx):
        x, y = batch
        shifted = x - self.bank[-1] if self.bank else x
        self.bank.append(10 * x.mean(0).detach())
        return F.cross_entropy(self(shifted), y)


class Deque(Bank):
    container = staticmethod(lambda: deque(maxlen=2))
