"""Per-record gradients of layers that only Opacus knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from palisade.defenses.dp_sgd.layers.tape import Gradients, Tape, materialized

GRAD_SAMPLERS: Mapping[type[nn.Module], Any] = GradSampleModule.GRAD_SAMPLERS


def sampled_gradients(layer: nn.Module, tape: Tape) -> Gradients:
    """Opacus's own grad sampler materializes the per-record gradients."""
    sampler = next(GRAD_SAMPLERS[base] for base in type(layer).__mro__ if base in GRAD_SAMPLERS)
    samples: dict[nn.Parameter, Tensor] = {}
    for activation, delta in zip(*tape, strict=True):
        for parameter, sample in sampler(layer, [activation], delta).items():
            samples[parameter] = samples[parameter] + sample if parameter in samples else sample
    return materialized(samples, axes=1)
