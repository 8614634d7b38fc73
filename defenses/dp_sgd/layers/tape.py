"""Notes of a layer in a step, and the gradients that are made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

Tape = tuple[list[Tensor], list[Tensor]]
"""A layer's inputs and output gradients, one of each per call in the forward pass."""
Sums = Callable[[Tensor], dict[nn.Parameter, Tensor]]
"""Function from one weight per record to the weighted sum of the records' gradients."""
Gradients = tuple[Float[Tensor, "*models batch"], Sums]
"""The squared norm of every record's gradient, and the way to sum them."""
GRAM_ROUNDING_ULPS = 8
"""Units in the last place by which the product of two Gram matrices may be off, of the largest it can be."""
GRAM_COST = 4
"""Cost of a product in a Gram matrix against one in a gradient, which is of use for the sum too; measured on a CPU."""


def learning(parameter: Tensor | None) -> nn.Parameter | None:
    """The parameter, if there is one and it is not frozen."""
    return parameter if isinstance(parameter, nn.Parameter) and parameter.requires_grad else None


def joined_positions(calls: list[Tensor], records: int) -> Float[Tensor, "*models batch positions width"]:
    """All calls and sequence positions of a record on one axis: a layer called twice adds up like a longer sequence."""
    joined = [call.reshape(*call.shape[:records], call.shape[records:-1].numel(), call.shape[-1]) for call in calls]
    return joined[0] if len(joined) == 1 else torch.cat(joined, dim=records)


def materialized(samples: Mapping[nn.Parameter, Float[Tensor, "*models batch ..."]], axes: int) -> Gradients:
    """Norms and sums of per-record gradients that are all there.

    Args:
        samples: per parameter; after the records' axes come those of a single model's parameter.
        axes: how many axes number the records: 1 for (batch,), 2 for (models, batch).
    """
    squares = torch.stack([squared_norms(sample.flatten(axes)) for sample in samples.values()]).sum(0)

    def sums(weights: Tensor) -> dict[nn.Parameter, Tensor]:
        return {parameter: weighted_sum(weights, sample).view_as(parameter) for parameter, sample in samples.items()}

    return squares, sums


def weighted_sum(
    weights: Float[Tensor, "*models batch"], samples: Float[Tensor, "*models batch ..."]
) -> Float[Tensor, "*models size"]:
    """Sum over a batch of materialized gradients, each times its record's weight, flattened."""
    return (weights.unsqueeze(-2) @ samples.flatten(weights.ndim)).squeeze(-2)


def squared_norms(vectors: Float[Tensor, "*records width"]) -> Float[Tensor, "*records"]:
    """Squared L2 norms over the last dimension."""
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return norms.square()


def ghost_pays(positions: int, size: int) -> bool:
    """Advantage of two Gram matrices of T positions over a gradient of `size` weights per record."""
    return 2 * GRAM_COST * positions**2 < size


def ghost_norms(
    activation: Float[Tensor, "*records positions inputs"], delta: Float[Tensor, "*records positions outputs"]
) -> Float[Tensor, "*records"]:
    """‖Σ_t δ_t a_tᵀ‖² = ⟨a aᵀ, δ δᵀ⟩ (Li et al. 2022, section 4), without the gradient itself."""
    inner, outer = activation @ activation.mT, delta @ delta.mT
    # Where large positions cancel, rounding hides a norm that clipping must see: its bound is added, not left out.
    reach = (inner.diagonal(dim1=-2, dim2=-1) * outer.diagonal(dim1=-2, dim2=-1)).sqrt().sum(-1)
    squares: Tensor = (inner * outer).sum((-2, -1)).clamp(min=0)
    return squares + GRAM_ROUNDING_ULPS * torch.finfo(squares.dtype).eps * reach.square()
