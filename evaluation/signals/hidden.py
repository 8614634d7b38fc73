"""The last hidden layer of a run's first models, by which an attacker tells which records are alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from palisade.targets.run import Run

if TYPE_CHECKING:
    from torch import Tensor, nn

MODELS = 6
"""Enough for four shadows of any target: neither it nor the model of complementary membership is one."""
AT_ONCE = 1024


def last_hidden(run: Run) -> Float32[np.ndarray, "feature_models audited hidden"]:
    """Inputs of the last linear layer for each audited record, of the models with the lowest numbers.

    They have no column where a network has no linear layer.
    """
    import torch

    from palisade.targets.training import load_fleet

    x = run.dataset.x[run.dataset.split.audited]
    fleet = load_fleet(run.config, run.dataset, run.folder, run.models()[:MODELS])
    taken: list[Tensor] = []  # by the linear layers, in the order of their calls

    def take(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        taken.append(inputs[0])

    linear = [module for module in fleet.network.modules() if isinstance(module, torch.nn.Linear)]
    hooks = [module.register_forward_pre_hook(take) for module in linear]
    hidden: list[list[np.ndarray]] = [[] for _ in fleet.states]
    try:
        for model, start in np.ndindex(len(hidden), -(-len(x) // AT_ONCE)):
            part = x[start * AT_ONCE : (start + 1) * AT_ONCE]
            taken.clear()
            fleet.one(model).predict(part)
            last = taken[-1].numpy() if taken else np.empty((len(part), 0))
            hidden[model].append(last.reshape(len(part), -1).astype(np.float32))
    finally:
        for hook in hooks:
            hook.remove()
    return np.stack([np.concatenate(parts) for parts in hidden])
