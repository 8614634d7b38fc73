"""Gradients and activations about each record, as the holder of a model's weights can compute them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Real
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.hooks import RemovableHandle

from palisade.data.loaders import Batch
from palisade.data.placement import CPU, sent
from palisade.data.sequences import NO_TOKEN
from palisade.targets.record_loss import record_losses

State = Mapping[str, Tensor]
CHUNK_BYTES = 32 * 2**20
"""Memory that the gradients of a chunk's records take, about; more is slower, as it fits into no cache."""
CHUNK_RECORDS = 128
"""Records of a chunk at most: activations take memory as well."""


class LayerNorms(NamedTuple):
    """L2 norms of each record, float32, one column a layer: a module with parameters of its own, in their order.

    Args:
        gradients: of the cross-entropy with respect to the layer's parameters.
        activations: of the layer's output.
    """

    gradients: Float[np.ndarray, "records layers"]
    activations: Float[np.ndarray, "records layers"]


def layer_norms(
    network: nn.Module,
    state: State,
    x: Real[np.ndarray, "records ..."],
    y: Int64[np.ndarray, " records"],
    device: torch.device = CPU,
) -> LayerNorms:
    """Per-record norms in every layer, in evaluation mode.

    A record that was fitted pulls at the weights no more: its gradient is smaller than that of others like it
    (Nasr et al. 2019, "Comprehensive Privacy Analysis of Deep Learning", section 3).

    Args:
        network: of the model's architecture; its weights become those of `state`.
        state: the model's `state_dict`.
        x: inputs.
        y: labels, 0..C−1.
        device: where it is computed.
    """
    parameters, logits = _functional(network, state, device)

    def loss(parameters: State, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits(parameters, x[None]).flatten(end_dim=-2), y.flatten(), ignore_index=NO_TOKEN)

    of_records = vmap(grad(loss), in_dims=(None, 0, 0))
    rows = min(CHUNK_RECORDS, max(1, CHUNK_BYTES // (4 * sum(p.numel() for p in parameters.values()))))
    layers: dict[str, list[str]] = {}
    for name in parameters:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    gradients, activations = [], []
    with sdpa_kernel(SDPBackend.MATH):  # the fused form of attention has no per-record derivatives
        for inputs, labels in _chunks(x, y, rows, device):
            of_chunk = of_records(parameters, inputs, labels)
            squares = [sum(of_chunk[name].flatten(1).square().sum(1) for name in names) for names in layers.values()]
            gradients.append(torch.stack(squares, dim=1).sqrt())
            activations.append(_activation_norms(network, list(layers), inputs))
    return LayerNorms(torch.cat(gradients).cpu().numpy(), torch.cat(activations).cpu().numpy())


def slopes(
    network: nn.Module,
    state: State,
    direction: State,
    x: Real[np.ndarray, "records ..."],
    y: Int64[np.ndarray, " records"],
    device: torch.device = CPU,
) -> Float[np.ndarray, " records"]:
    """Slope of each record's cross-entropy as the weights move: ⟨∇ℓ(x; θ), v⟩, float32, in evaluation mode.

    One forward-mode pass gives it for all records of a chunk, without any record's gradient.

    Args:
        network: of the model's architecture; its weights become those of `state`.
        state: θ, the model's `state_dict`.
        direction: v, a tensor for each parameter.
        x: inputs.
        y: labels, 0..C−1.
        device: where it is computed.
    """
    parameters, logits = _functional(network, state, device)
    tangents = {name: direction[name].to(device) for name in parameters}
    derivatives = []
    with sdpa_kernel(SDPBackend.MATH):
        for inputs, labels in _chunks(x, y, CHUNK_RECORDS, device):

            def losses(parameters: State, x: Tensor = inputs, y: Tensor = labels) -> Tensor:
                every = torch.ones(len(y), dtype=torch.bool, device=y.device)
                return record_losses(logits(parameters, x), Batch(x, y, every, every))

            derivatives.append(jvp(losses, (parameters,), (tangents,))[1])
    slopes: np.ndarray = torch.cat(derivatives).cpu().numpy()
    return slopes


def _functional(
    network: nn.Module, state: State, device: torch.device
) -> tuple[State, Callable[[State, Tensor], Tensor]]:
    """The parameters of a model, and its logits as a function of parameters and inputs."""
    network.to(device)
    network.load_state_dict(state)
    network.eval()
    known_as = {p: name for name, p in network.named_parameters()}
    # Weights that several modules share are named here in each: `functional_call` by itself loses a layer that stands
    # in two places.
    places = {
        f"{prefix}.{name}".lstrip("."): known_as[p]
        for prefix, module in network.named_modules()
        for name, p in module.named_parameters(recurse=False)
    }

    def logits(parameters: State, x: Tensor) -> Tensor:
        everywhere = {place: parameters[name] for place, name in places.items()}
        outputs: Tensor = functional_call(network, everywhere, (x,), tie_weights=False)
        return outputs

    return {name: p.detach() for p, name in known_as.items()}, logits


def _chunks(
    x: Real[np.ndarray, "records ..."], y: Int64[np.ndarray, " records"], rows: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(x), rows):
        chunk = slice(start, start + rows)
        yield sent(np.ascontiguousarray(x[chunk]), device), sent(np.ascontiguousarray(y[chunk]), device)


def _activation_norms(
    network: nn.Module, layers: list[str], x: Real[Tensor, "records ..."]
) -> Float[Tensor, "records layers"]:
    squares = {name: torch.zeros(len(x), device=x.device) for name in layers}  # a layer may be called several times

    def record(name: str) -> RemovableHandle:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            squares[name] += output.flatten(1).square().sum(1)

        return network.get_submodule(name).register_forward_hook(hook)

    hooks = [record(name) for name in layers]
    try:
        with torch.no_grad():
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(list(squares.values()), dim=1).sqrt()
