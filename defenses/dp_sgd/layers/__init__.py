"""Squared norms and weighted sums of per-record gradients, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from palisade.defenses.dp_sgd.layers.convolution import convolution_gradients
from palisade.defenses.dp_sgd.layers.dense import dense_gradients
from palisade.defenses.dp_sgd.layers.embedding import embedding_gradients
from palisade.defenses.dp_sgd.layers.normalization import norm_gradients
from palisade.defenses.dp_sgd.layers.sampled import GRAD_SAMPLERS, sampled_gradients
from palisade.defenses.dp_sgd.layers.standardized import standardized_gradients
from palisade.defenses.dp_sgd.layers.tape import Gradients, Sums, Tape
from palisade.targets.stacks import (
    StackedConvolution,
    StackedEmbedding,
    StackedLinear,
    StackedNorm,
    StackedStandardizedConvolution,
)
from palisade.targets.stacks.embedding import plain
from palisade.targets.stacks.normalization import INSTANCE_NORMS
from palisade.targets.standardization import StandardizedConv2d

__all__ = ["GRAD_SAMPLERS", "Gradients", "Sums", "Tape", "gradients"]

GRADIENTS_OF_LAYERS: Mapping[type[nn.Module], Callable[[Any, Tape], Gradients]] = {
    nn.Linear: dense_gradients,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), convolution_gradients),
    StandardizedConv2d: standardized_gradients,
    nn.Embedding: embedding_gradients,
    **dict.fromkeys((nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, *INSTANCE_NORMS), norm_gradients),
}
GRADIENTS_OF_STACKED_LAYERS: Mapping[type[nn.Module], Callable[[Any, Tape], Gradients]] = {
    StackedLinear: dense_gradients,
    StackedConvolution: convolution_gradients,
    StackedStandardizedConvolution: standardized_gradients,
    StackedEmbedding: embedding_gradients,
    StackedNorm: norm_gradients,
}
FORWARD_METHODS = ("forward", "_conv_forward")
"""Methods that a subclass inherits if it computes what its base computes."""


def gradients(layer: nn.Module, stacked: bool) -> Callable[[nn.Module, Tape], Gradients] | None:
    """The rule for the per-record gradients of a layer, None if no rule is known.

    A subclass counts as its base as long as it inherits the forward pass; otherwise its gradient is unknown.
    """
    if isinstance(layer, nn.EmbeddingBag) or (isinstance(layer, nn.Embedding) and not plain(layer)):
        return None
    known = GRADIENTS_OF_STACKED_LAYERS if stacked else GRADIENTS_OF_LAYERS
    for base in type(layer).__mro__:
        if any(getattr(type(layer), name, None) is not getattr(base, name, None) for name in FORWARD_METHODS):
            return None
        if base in known:  # other parameters, as of a weight norm, have other gradients
            names = {"weight", "bias", "gain"} if known[base] is standardized_gradients else {"weight", "bias"}
            return known[base] if names.issuperset(layer._parameters) else None
        if base in GRAD_SAMPLERS and not stacked:
            return sampled_gradients
    return None
