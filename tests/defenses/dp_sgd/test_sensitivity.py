"""One record moves the sum that the noise is added to by at most C, whatever people bring, or the fit is refused.

Measured from outside: every record in every step, no noise, learning rate 1, the public size fixed, with and without a
record (Dwork & Roth 2014, definition 3.8).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import user_modules as user
from torch import nn
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset
from user_modules import (
    FAST_MODULES,
    OTHER_MODULES,
    Base,
    DroppedOut,
    Noisy,
    blobs,
    encoder,
    fitted,
    looped,
    rare,
    sensitivity,
    slow_but,
)

pytestmark = pytest.mark.filterwarnings("ignore")
METHODS_UNDER_TEST = ("fast", "functional", "alone")
TRAINED_MODULES = FAST_MODULES | OTHER_MODULES
FEW_MODULES = ("group norm", "counts", "tied", "own parameter", "class token", "positions", "LSTM")


def losing(loss: Any, **attributes: Any) -> type[Base]:
    """A class of modules with a loss of its own: a function of module, inputs and labels."""
    return type("Losing", (Base,), {"training_step": lambda self, batch, batch_idx: loss(self, *batch), **attributes})


def each(module: Any, x: Any, y: Any) -> torch.Tensor:
    return F.cross_entropy(module(x), y, reduction="none")


# What trains, trains within C.


@pytest.mark.parametrize("name", slow_but(FEW_MODULES, TRAINED_MODULES))
def test_everyday_modules_train_within_c(name: str) -> None:
    make, data = TRAINED_MODULES[name]
    assert sensitivity(make, data(), range(2), clip=0.5) > 0.6


@pytest.mark.parametrize("way", METHODS_UNDER_TEST)
@pytest.mark.parametrize("name", slow_but(FEW_MODULES, TRAINED_MODULES))
def test_sum_is_that_of_a_loop_over_records(name: str, way: str) -> None:
    make, data = TRAINED_MODULES[name]
    if way == "fast" and name in OTHER_MODULES:
        with pytest.raises(ValueError, match=r"per_record=fast: expected .* layer .*per_record=auto, or alone"):
            fitted(make, data(), size=12, max_grad_norm=0.5, per_record=way)
        return
    torch.manual_seed(0)
    expected = looped(make(), data(), 0.5)
    _, moved, _ = fitted(make, data(), size=12, max_grad_norm=0.5, per_record=way)
    assert (moved + expected).norm() <= 1e-5 * expected.norm() + 12 * user.WEIGHT_ROUNDING * 5


@pytest.mark.parametrize("way", ["functional", "alone"])
@pytest.mark.parametrize("clipping", ["flat", "per_layer", "automatic", "adaptive"])
@pytest.mark.parametrize("name", slow_but(["PReLU"], ["PReLU", "LSTM", "class token"]))
def test_every_clipping_every_way(name: str, clipping: str, way: str) -> None:
    make, data = TRAINED_MODULES[name]
    assert sensitivity(make, data(), range(2), clip=0.3, clipping=clipping, per_record=way) > 0.5


@pytest.mark.parametrize("clipping", ["flat", "per_layer", "automatic", "adaptive"])
@pytest.mark.parametrize("at_once", [None, 5])
def test_every_clipping_in_parts(clipping: str, at_once: int | None) -> None:
    settings = {"clipping": clipping, "max_physical_batch": at_once, "per_record": "fast"}
    assert sensitivity(FAST_MODULES["group norm"][0], blobs(), range(3), clip=0.3, **settings) > 0.9


@pytest.mark.parametrize("way", ["functional", "alone"])
@pytest.mark.parametrize(
    "make",
    slow_but([DroppedOut, Noisy], [DroppedOut, Noisy, encoder(0.3), encoder(0.5)]),
    ids=["dropout", "noise", "0.3", "0.5"],
)
def test_random_modules_draw_for_each_record_by_itself(make: Any, way: str) -> None:
    assert sensitivity(make, blobs(), range(4), clip=0.3, per_record=way) > 0.5


def test_a_sorting_between_two_layers_is_refused_or_followed() -> None:
    def sorting(self, x):
        order = x[:, 0].argsort(descending=True)
        return self.b(torch.tanh(self.layer(x))[order][order.argsort()])

    def sorted_labels(self, x, y):
        order = x[:, 0].argsort(descending=True)
        return F.cross_entropy(self.b(torch.tanh(self.layer(x))[order]), y[order])

    make = user.layered(lambda: nn.Linear(6, 6), sorting)
    assert sensitivity(make, blobs(), range(4), clip=0.3) > 0.9
    other = type("Sorted", (make,), {"training_step": lambda self, batch, i: sorted_labels(self, *batch)})
    assert sensitivity(other, blobs(), range(4), clip=0.3) > 0.9


@pytest.mark.parametrize("way", ["auto", "alone"])
def test_views_of_a_record_are_one_record(way: str) -> None:
    data = blobs()
    for settings in ({"augmentations": 3}, {"augmentations": 3, "max_physical_batch": 9}):
        assert sensitivity(Base, data, range(3), clip=0.3, per_record=way, **settings) > 0.5


def test_a_group_is_one_unit() -> None:
    data, groups = blobs(24), np.arange(24) // 2

    def without(group: int) -> Any:
        return Subset(data, [i for i in range(24) if i // 2 != group])

    for way in ("auto", "alone"):
        settings = {"size": 12, "max_grad_norm": 0.3, "records_per_group": 2, "per_record": way}
        whole = fitted(Base, data, groups=groups, **settings)[1]
        for group in range(3):
            _, less, _ = fitted(Base, without(group), groups=groups[groups != group], **settings)
            assert 0.25 < (whole - less).norm() <= 0.3 * (1 + 1e-5) + 12 * user.WEIGHT_ROUNDING * 5


def test_batches_of_other_forms() -> None:
    assert sensitivity(user.Dictionary, blobs(), range(2), clip=0.3, collate=user.dictionary) > 0.9


USERS_PRODUCTS = {
    "matrices": torch.backends.cuda.matmul,
    "convolutions": torch.backends.cudnn.conv,
    "matrices on CPUs": torch.backends.mkldnn.matmul,
    "convolutions on CPUs": torch.backends.mkldnn.conv,
}


@pytest.mark.parametrize("name", USERS_PRODUCTS)
def test_products_of_a_fit_do_not_follow_the_users_precision(name: str) -> None:
    seen = []

    class Noting(Base):
        def training_step(self, batch, batch_idx):
            seen.append(USERS_PRODUCTS[name].fp32_precision)
            return super().training_step(batch, batch_idx)

    before, USERS_PRODUCTS[name].fp32_precision = USERS_PRODUCTS[name].fp32_precision, "tf32"
    try:
        assert sensitivity(Noting, blobs(), range(3), clip=0.3) > 0.9
        assert set(seen) == {"ieee"}
        assert USERS_PRODUCTS[name].fp32_precision == "tf32"
    finally:
        USERS_PRODUCTS[name].fp32_precision = before


@pytest.mark.parametrize("precision", ["medium", "high"])
def test_precision_by_the_older_setting(precision: str) -> None:
    torch.set_float32_matmul_precision(precision)
    try:
        assert sensitivity(Base, blobs(), range(3), clip=0.3) > 0.9
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")


class Autocast(Base):
    def training_step(self, batch, batch_idx):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().training_step(batch, batch_idx)


def test_a_module_in_16_bits_trains_record_by_record() -> None:
    for way in ("auto", "functional", "alone"):
        assert sensitivity(Autocast, blobs(), range(3), clip=0.3, per_record=way) > 0.9
    with pytest.raises(ValueError, match=r"per_record=fast: .* layer b \(Linear\) ran in bfloat16.*torch.autocast"):
        sensitivity(Autocast, blobs(), range(1), clip=0.3, per_record="fast")


def test_a_fit_within_autocasting_is_in_full_precision() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert sensitivity(Base, blobs(), range(3), clip=0.3, per_record="fast") > 0.9
        assert torch.is_autocast_enabled("cpu")


# What couples records in a step.


def token_mean(self, x, y):
    each_token = F.cross_entropy(self.b(self.e(x)).flatten(0, 1), x.flatten(), reduction="none").view_as(x)
    return (each_token * y).sum() / y.sum()


def tokens(records: int = 48) -> TensorDataset:
    """A long record among short ones, which say something else."""
    mask = torch.zeros(records, 20, dtype=torch.bool)
    mask[:, :2] = True
    mask[7] = True
    x = torch.ones(records, 20, dtype=torch.long)
    x[7] = 2
    return TensorDataset(x, mask)


class Lengths(Dataset):
    """A long record among short ones."""

    def __init__(self, records: Any = range(40)):
        self.records = list(records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Any:
        record = self.records[index]
        return torch.ones(30 if record == 7 else 3, dtype=torch.long), torch.tensor(record % 3)


def padded(items: Any) -> Any:
    longest = max(len(x) for x, _ in items)
    return torch.stack([F.pad(x, (0, longest - len(x))) for x, _ in items]), torch.stack([y for _, y in items])


class Embedding(Base):
    def __init__(self) -> None:
        super().__init__()
        self.e = nn.Embedding(3, 6)


def embedding(loss: Any) -> Any:
    return type("Losing", (Embedding,), {"training_step": lambda self, batch, batch_idx: loss(self, *batch)})


def outlier() -> TensorDataset:
    data = blobs(60)
    data.tensors[0][7] *= 50
    return data


def from_eight_on(self, x, y):
    return F.cross_entropy(self((x - x.mean(0)) / (x.std(0) + 1e-5) if len(x) >= 8 else x), y)


def weighted_by_the_batch(self, x, y):
    counts = torch.bincount(y, minlength=3).clamp(min=1)
    return F.cross_entropy(self(x), y, weight=len(y) / counts)


def contrastive(self, x, y):
    logits = self(x)
    return F.cross_entropy(logits @ logits.T, torch.arange(len(x)))


def mixed_up(self, x, y):
    return F.cross_entropy(self(0.6 * x + 0.4 * x[torch.randperm(len(x))]), y)


def ranked(self, x, y):
    score = self(x)[:, 0]
    return F.softplus(score[None] - score[:, None]).mean()


COUPLED_MODULES: dict[str, Any] = {
    "class weights": (user.ClassWeights, rare(), [7], {}),
    "token mean": (embedding(token_mean), tokens(), [7], {}),
    "padding": (
        embedding(lambda s, x, y: F.cross_entropy(s.b(s.e(x).mean(1)), y)),
        Lengths(),
        [7],
        {"collate": padded},
    ),
    "rescaled by an outlier": (losing(lambda s, x, y: F.cross_entropy(s(x / x.abs().max()), y)), outlier(), [7], {}),
    "hard examples": (
        losing(lambda s, x, y: each(s, x, y).topk(min(8, len(x))).values.mean()),
        blobs(24),
        range(4),
        {},
    ),
    "hardest in the largest batches": (
        losing(lambda s, x, y: each(s, x, y).sort().values[: max(len(x) - 1, 1)].mean()),
        blobs(60),
        range(4),
        {},
    ),
    "batch statistics from 8 rows on": (losing(from_eight_on), blobs(), range(4), {}),
    "weights by frequency": (losing(weighted_by_the_batch), rare(), [7], {}),
    "centered logits": (losing(lambda s, x, y: F.cross_entropy(s(x) - s(x).mean(0), y)), blobs(), range(4), {}),
    "softmax over the batch": (losing(lambda s, x, y: (s(x).softmax(0)[:, 0] * y).sum()), blobs(), range(4), {}),
    "median": (losing(lambda s, x, y: each(s, x, y).median()), blobs(), range(4), {}),
    "soft maximum": (losing(lambda s, x, y: each(s, x, y).logsumexp(0)), blobs(), range(4), {}),
    "focal, by the largest": (
        losing(lambda s, x, y: (each(s, x, y) ** 2 / each(s, x, y).detach().max()).mean()),
        blobs(),
        range(4),
        {},
    ),
    "contrastive": (losing(contrastive), blobs(), range(4), {}),
    "mixup": (losing(mixed_up), blobs(), range(4), {}),
    "ranks": (losing(ranked), blobs(), range(4), {}),
    "partner": (losing(lambda s, x, y: F.cross_entropy(s(x + x.roll(1, 0)), y)), blobs(), range(4), {}),
    "square of the mean": (losing(lambda s, x, y: each(s, x, y).mean() ** 2), blobs(), range(4), {}),
    "size of the batch": (losing(lambda s, x, y: each(s, x, y).mean() * (1 + (len(x) > 11))), blobs(), range(4), {}),
}
FEW_COUPLED = ("class weights", "padding", "rescaled by an outlier", "batch statistics from 8 rows on", "contrastive")


@pytest.mark.parametrize("name", COUPLED_MODULES)
def test_couplings_are_refused_with_the_way_out(name: str) -> None:
    make, data, who, settings = COUPLED_MODULES[name]
    with pytest.raises(ValueError, match=r"couples records.*per_record=alone"):
        sensitivity(make, data, who, clip=0.3, **settings)
    with pytest.raises(ValueError, match=r"couples records|per_record=auto, or alone"):
        sensitivity(make, data, who, clip=0.3, per_record="fast", **settings)


@pytest.mark.parametrize("name", slow_but(FEW_COUPLED, COUPLED_MODULES))
def test_what_couples_records_is_bounded_where_every_record_is_alone(name: str) -> None:
    make, data, who, settings = COUPLED_MODULES[name]
    without = (lambda i: Lengths(r for r in range(40) if r != i)) if name == "padding" else None
    sensitivity(make, data, list(who)[:2], clip=0.1, per_record="alone", without=without, **settings)


def test_sums_say_what_to_return() -> None:
    with pytest.raises(ValueError, match="returns the sum of the records' losses; return their mean"):
        sensitivity(losing(lambda s, x, y: each(s, x, y).sum()), blobs(), range(2), clip=0.3)


def test_a_loss_that_needs_more_records_than_a_check_has() -> None:
    def needy(self, x, y):
        if len(x) < 4:
            raise RuntimeError("too few")
        return contrastive(self, x, y)

    with pytest.raises(ValueError, match=r"RuntimeError on a batch of one record .*batches of any size"):
        sensitivity(losing(needy), blobs(), range(2), clip=0.3)


def test_a_module_that_drops_the_batch_dimension() -> None:
    class Squeezing(Base):
        def __init__(self) -> None:
            super().__init__()
            self.p, self.b = nn.PReLU(), nn.Linear(6, 1)

        def training_step(self, batch, batch_idx):
            return F.binary_cross_entropy_with_logits(self.b(self.p(batch[0])).squeeze(), (batch[1] > 0).float())

    for way in ("auto", "alone"):
        with pytest.raises(ValueError, match=r"ValueError.*squeeze\(-1\)"):
            sensitivity(Squeezing, blobs(), range(2), clip=0.3, per_record=way)


@pytest.mark.parametrize("strength", slow_but([0.05], [1.0, 0.05]))
@pytest.mark.parametrize("clock", ["global_step", "current_epoch", "own"])
def test_what_couples_records_later_is_refused_then(clock: str, strength: float) -> None:
    class Later(Base):
        still = 3
        count = 0

        def training_step(self, batch, batch_idx):
            now = self.count if clock == "own" else getattr(self, clock)
            logits = self(batch[0])
            return F.cross_entropy(logits - strength * min(now / 3, 1) * logits.mean(0), batch[1])

        def on_train_batch_end(self, *_):
            self.count += 1

    with pytest.raises(ValueError, match=r"couples records from some step on: .*per_record=alone"):
        sensitivity(Later, blobs(), range(3), clip=0.3, steps=4)
    sensitivity(Later, blobs(), range(3), clip=0.3, steps=4, per_record="alone")


# Several rows, or several numbers, of one record.


class FourRows(Base):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return torch.cat([batch[0]] * 4), torch.cat([batch[1]] * 4)


class HalfTheRows(Base):
    def on_before_batch_transfer(self, batch, dataloader_idx):
        return batch[0][::2], batch[1][::2]


class Mixing(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        batch[0].add_(batch[0].mean(0))


def eight_views(items: Any) -> Any:
    x, y = (torch.stack(list(part)) for part in zip(*items, strict=True))
    return torch.cat([x * (1 + 0.01 * view) for view in range(8)]), torch.cat([y] * 8)


def centered(items: Any) -> Any:
    x, y = (torch.stack(list(part)) for part in zip(*items, strict=True))
    return x - x.mean(0), y


def named_again(times: int) -> Any:
    return Subset(blobs(), [*range(12), *[5] * times])


ROW_CASES: dict[str, Any] = {
    "views in collate": (Base, blobs(), {"collate": eight_views}, r"set .*augmentations="),
    "centered in collate": (Base, blobs(), {"collate": centered}, "per_record=alone"),
    "rows in a hook": (FourRows, blobs(), {}, r"set .*augmentations="),
    "rows left out in a hook": (HalfTheRows, blobs(), {}, "make one row of every record"),
    "mixed by a callback": (Base, blobs(), {"callbacks": [Mixing]}, "per_record=alone"),
    "named ten times": (Base, named_again(9), {}, "expected each record once"),
    "named in a part of a part": (Base, Subset(named_again(2), range(14)), {}, "expected each record once"),
    "joined twice": (
        Base,
        ConcatDataset([blobs(), Subset(d := blobs(), [3]), d]),
        {},
        "expected each record once, but 1 are named again",
    ),
}


@pytest.mark.parametrize("name", ROW_CASES)
def test_a_record_is_one_row_once(name: str) -> None:
    make, data, settings, remedy = ROW_CASES[name]
    with pytest.raises(ValueError, match=remedy):
        sensitivity(make, data, range(1), clip=0.1, **settings)


def test_parameters_of_half_the_precision() -> None:
    class Half(Base):
        def __init__(self) -> None:
            super().__init__()
            self.bfloat16()

        def forward(self, x):
            return self.b(x.bfloat16()).float()

    with pytest.raises(ValueError, match=r"b.weight is trained in bfloat16.*; (use|call) module.float\(\)"):
        sensitivity(Half, blobs(), range(2), clip=0.3)


def test_a_record_that_is_not_finite_counts_as_none() -> None:
    data = blobs()
    data.tensors[0][3] = math.nan
    for way in ("auto", "functional", "alone"):
        assert sensitivity(Base, data, [3], clip=0.3, per_record=way) < 1e-3
