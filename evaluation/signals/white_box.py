"""White-box signals: what the holder of the weights, or of earlier ones, can compute about each audited record."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int64, Real

from palisade.attacks.parts.outputs import Outputs
from palisade.targets.run import Run

if TYPE_CHECKING:
    from palisade.targets.fleet import Fleet


def white_box(run: Run) -> dict[str, np.ndarray]:
    """Signals from the weights of every model, the initial and the kept ones too, about every audited record, float32.

    Returns:
        `gradient_norms` and `activation_norms`, (models, audited, layers), and `alignment`, (models, audited): see
        `attacks.View`.
    """
    from palisade.targets.gradients import layer_norms

    x, y = _audited(run)
    final = [_fleet(run, model) for model in run.models()]
    norms = [layer_norms(fleet.network, fleet.states[0], x, y) for fleet in final]
    return {
        "gradient_norms": np.stack([of_model.gradients for of_model in norms]),
        "activation_norms": np.stack([of_model.activations for of_model in norms]),
        "alignment": np.stack([_alignment(run, model, x, y) for model in run.models()]),
    }


def trajectory(run: Run) -> Float[np.ndarray, "models audited checkpoints"]:
    """The loss of each audited record at the kept checkpoints, in order, and at the end of training, float32."""
    x, y = _audited(run)
    epochs = (*run.checkpoints(), None)
    losses = np.empty((len(run.models()), len(y), len(epochs)), dtype=np.float32)
    for model, position in np.ndindex(len(losses), len(epochs)):
        logits = _fleet(run, model, epochs[position]).predict(x)
        losses[model, :, position] = Outputs(labels=y, logits=logits).loss[0, :, 0]
    return losses


def _alignment(
    run: Run, model: int, x: Real[np.ndarray, "audited ..."], y: Int64[np.ndarray, " audited"]
) -> Float[np.ndarray, " audited"]:
    """Σ_i ⟨−∇ℓ(x; θ_i), θ_{i+1} − θ_i⟩ / ‖θ_{i+1} − θ_i‖ over initial, kept and final weights.

    The gradient is that at the start of a stretch, where it knows nothing yet of the stretch's noise. At its end or
    middle the sum without the norms would be the fall of the loss over training, which the loss attack sees as well.
    Dividing by the length of a stretch weighs early and late ones alike.
    """
    from palisade.targets.gradients import slopes

    path = [_fleet(run, model, epoch) for epoch in (0, *run.checkpoints(), None)]
    total = np.zeros(len(y), dtype=np.float32)
    for before, after in itertools.pairwise(path):
        start, end = before.states[0], after.states[0]
        way = {name: end[name] - start[name] for name, _ in before.network.named_parameters()}
        length = sum(float(value.square().sum()) for value in way.values()) ** 0.5
        if length:  # weights that stayed where they were say nothing
            total -= slopes(before.network, start, way, x, y) / length
    return total


def _audited(run: Run) -> tuple[Real[np.ndarray, "audited ..."], Int64[np.ndarray, " audited"]]:
    audited = run.dataset.split.audited
    return run.dataset.x[audited], run.dataset.y[audited]


def _fleet(run: Run, model: int, epoch: int | None = None) -> Fleet:
    from palisade.targets.training import load_fleet

    return load_fleet(run.config, run.dataset, run.folder, [model], epoch)
