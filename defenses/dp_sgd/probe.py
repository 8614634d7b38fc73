"""Looks, before training, whether a record's gradient depends on that record alone."""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from defenses.dp_sgd.batches import batch_shape
from defenses.dp_sgd.engine import Engine

TOLERANCE = 1e-3
SEEDS = 8
"""Tries where training_step is random: a mixing that happens to leave the first record alone must not pass."""


def check_separable(module: pl.LightningModule, batch_of: Callable[[list[int]], Any], records: int) -> str | None:
    """Compares the gradient of a record among some records with its gradient among others, and alone.

    Clipping bounds what a record does to its own gradient. Where the loss couples records (contrastive losses,
    mixing inside the batch, centered logits, class weights), a record also acts through the gradients of others, and no
    ε holds. Everything runs on a copy, with dropout and logging off, and under the same random numbers.

    Args:
        module: the user's.
        batch_of: makes the batch of the records with these indices, as in training.
        records: how many there are.

    Returns:
        Why nothing could be found out, or None.

    Raises:
        ValueError: if records are coupled, the loss is a sum, or the forward pass updates a buffer.
    """
    unchecked = "the loss could not be checked for coupled records"
    if records < 2:
        return f"{unchecked}: there is only one record"
    spread = np.linspace(0, records - 1, 6).astype(int).tolist()
    some, others = [0, *spread[1::2]], [0, *spread[::2]]
    try:
        probed = _copy(module)
        buffers = {name: buffer.clone() for name, buffer in probed.named_buffers()}
        among = _first_gradient(probed, batch_of, some, seed=0)
        is_random = not _close(among, _first_gradient(probed, batch_of, some, seed=1))
        pairs = [
            [_first_gradient(probed, batch_of, company, seed=seed) for company in (some, others)]
            for seed in range(SEEDS if is_random else 1)
        ]
        alone = among if is_random else _first_gradient(probed, batch_of, [0], seed=0)
    except Exception as error:  # the user's own code, called out of its turn
        return f"{unchecked}, nor for buffers that it updates ({type(error).__name__} in training_step)"
    for name, buffer in probed.named_buffers():
        if name not in buffers or not torch.equal(buffer, buffers[name]):
            raise ValueError(f"buffer {name} is updated from the records in forward; ε does not cover it, remove it")
    if all(_close(*pair) for pair in pairs) and _close(among, alone):
        return None
    if _close(among / len(some), alone):
        raise ValueError(
            "training_step returns the sum of the records' losses; return their mean, or set loss_divisor on the module"
        )
    raise ValueError(
        "training_step couples records: a record's gradient changes with the others in its batch, so clipping bounds"
        " nothing; use a loss that is a mean over records"
    )


def _copy(module: pl.LightningModule) -> pl.LightningModule:
    trainer = module.__dict__.get("_trainer")
    probed = copy.deepcopy(module, {id(trainer): trainer})
    for name in ("log", "log_dict"):
        setattr(probed, name, lambda *_, **__: None)
    if not module.automatic_optimization:
        probed.__dict__["manual_backward"] = Tensor.backward
        for name in ("optimizers", "lr_schedulers", "clip_gradients", "toggle_optimizer", "untoggle_optimizer"):
            probed.__dict__[name] = _Idle
    for layer in probed.modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            layer.eval()
    return probed


class _Idle:
    """Stands for an optimizer or a schedule that does nothing."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __getattr__(self, name: str) -> Any:
        return _Idle


def _first_gradient(
    module: pl.LightningModule, batch_of: Callable[[list[int]], Any], indices: list[int], seed: int
) -> Tensor:
    """The gradient of the first of these records."""
    with _seeded(seed):
        batch = batch_of(indices)
    (records,) = batch_shape(batch, 1)
    engine = Engine(module)
    inputs = (batch, 0)[: len(inspect.signature(module.training_step).parameters)]
    engine.attach()
    try:
        with _seeded(seed), torch.enable_grad():  # anew: what a data set draws may depend on the record
            loss: Any = module.training_step(*inputs)
            if module.automatic_optimization:
                engine.clear()
                (loss["loss"] if isinstance(loss, dict) else loss).backward()
        _, sums = engine.gradients((records,))
        divisor = getattr(module, "loss_divisor", None) or records
        first = torch.zeros(records, device=engine.parameters[0].device, dtype=engine.parameters[0].dtype)
        first[0] = divisor
        return torch.cat([total.flatten() for layer in sums for total in layer(first).values()])
    finally:
        engine.detach()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """All of torch's, NumPy's and Python's random numbers from a seed, and then as they were."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def _close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).norm() <= TOLERANCE * other.norm())
