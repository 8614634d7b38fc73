"""Looks, before training, whether a record's gradient depends on that record alone."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from defenses.dp_sgd.batches import batch_shape, part
from defenses.dp_sgd.engine import Engine

TOLERANCE = 1e-3


def check_separable(module: pl.LightningModule, batch: Any) -> str | None:
    """Compares the gradient of a batch's first record alone with its gradient among the others.

    Clipping bounds what a record does to its own gradient. Where the loss couples records (contrastive losses,
    mixing inside the batch, centered logits), a record also acts through the gradients of others, and no ε holds.
    Everything runs on a copy, with dropout and logging off.

    Returns:
        Why nothing could be found out, or None.

    Raises:
        ValueError: if records are coupled, the loss is a sum, or the forward pass updates a buffer.
    """
    (records,) = batch_shape(batch, 1)
    if records < 2:
        return "the loss could not be checked for coupled records: there is only one record"
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
    buffers = {name: buffer.clone() for name, buffer in probed.named_buffers()}
    try:
        among = _first_gradient(probed, batch, records, seed=0)
        again = _first_gradient(probed, batch, records, seed=1)
        alone = _first_gradient(probed, part(batch, 0, 1, of=(records,)), 1, seed=0)
    except Exception as error:  # the user's own code, called out of its turn
        return f"the loss could not be checked for coupled records ({type(error).__name__} in training_step)"
    for name, buffer in probed.named_buffers():
        if name not in buffers or not torch.equal(buffer, buffers[name]):
            raise ValueError(f"buffer {name} is updated from the records in forward; ε does not cover it, remove it")
    if not _close(among, again):
        return "the loss could not be checked for coupled records: training_step is random beyond dropout"
    if _close(among, alone):
        return None
    if _close(among / records, alone):
        raise ValueError(
            "training_step returns the sum of the records' losses; return their mean, or set loss_divisor on the module"
        )
    raise ValueError(
        "training_step couples records: a record's gradient changes with the others in its batch, so clipping bounds"
        " nothing; use a loss that is a mean over records"
    )


class _Idle:
    """Stands for an optimizer or a schedule that does nothing."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __getattr__(self, name: str) -> Any:
        return _Idle


def _first_gradient(module: pl.LightningModule, batch: Any, records: int, seed: int) -> Tensor:
    engine = Engine(module)
    inputs = (batch, 0)[: len(inspect.signature(module.training_step).parameters)]
    engine.attach()
    try:
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(seed)
            loss: Any = module.training_step(*inputs)
            if module.automatic_optimization:
                (loss["loss"] if isinstance(loss, dict) else loss).backward()
        _, sums = engine.gradients((records,))
        divisor = getattr(module, "loss_divisor", None) or records
        first = torch.zeros(records, device=engine.parameters[0].device, dtype=engine.parameters[0].dtype)
        first[0] = divisor
        return torch.cat([total.flatten() for layer in sums for total in layer(first).values()])
    finally:
        engine.detach()


def _close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).norm() <= TOLERANCE * other.norm())
