"""Inner signals: hidden layers, gradients and checkpoints of a run's models about its records."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32, Int64, Real

from palisade.attacks import ThreatModel
from palisade.attacks.parts.outputs import Outputs
from palisade.evaluation.signals.stored import cached, is_cached, mean_log_probability
from palisade.targets.run import Run

if TYPE_CHECKING:
    from torch import Tensor, nn

    from palisade.targets.fleet import Fleet
SHADOW_MODELS = 6
"""Enough for four shadows of any target: neither it nor the model of complementary membership is one."""
AT_ONCE = 1024


def inner_signals(run: Run, threats: Sequence[ThreatModel]) -> dict[str, np.ndarray]:
    """Parts of a view that only weights and checkpoints give, as far as attacks need them."""
    run = Run(run.folder)  # weights are behind no guard
    names = _asked(run, threats)
    measured = cache(lambda: inside(run, names, run.models()))  # one pass over the models gives all of them

    def one(name: str) -> np.ndarray:
        return measured()[name]

    return {name: cached(run, _file(name), partial(one, name)) for name in names}


def unmeasured(run: Run, threats: Sequence[ThreatModel]) -> list[str]:
    """Names of inner signals that attacks need and no file of the run holds."""
    run = Run(run.folder)
    return [name for name in _asked(run, threats) if not is_cached(run, _file(name))]


def inside_some(folder: Path, names: Sequence[str], models: Sequence[int]) -> tuple[Path, int, dict[str, np.ndarray]]:
    """The work item of a process: inner signals of some models of a run, with the run and the first of them."""
    return folder, models[0], inside(Run(folder), names, models)


def keep_inner(run: Run, parts: Sequence[dict[str, np.ndarray]]) -> None:
    """Keeps inner signals of a run.

    Args:
        run: whose signals they are.
        parts: of its models, in order.
    """
    for name in parts[0]:
        cached(run, _file(name), partial(np.concatenate, [part[name] for part in parts]))


def _asked(run: Run, threats: Sequence[ThreatModel]) -> list[str]:
    names: list[str] = []
    if any(threat.gradients for threat in threats):
        followed = ["alignment"] if run.checkpoints() else []  # both ends alone say less than the loss does
        names += ["gradient_norms", "activation_norms", *followed]
    if any(threat.checkpoints for threat in threats) and run.checkpoints():
        names.append("trajectory")
    return names


def _file(name: str) -> str:
    return f"white_box/{name}"


def last_hidden(run: Run) -> Float32[np.ndarray, "feature_models audited hidden"]:
    """Inputs of the last linear layer for each audited record, of the models with the lowest numbers.

    They have no column where a network has no linear layer.
    """
    import torch

    from palisade.targets.training import load_fleet

    x = run.dataset.x[run.dataset.split.audited]
    fleet = load_fleet(run.config, run.dataset, run.folder, run.models()[:SHADOW_MODELS])
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
            last = taken[-1].cpu().numpy() if taken else np.empty((len(part), 0))
            hidden[model].append(last.reshape(len(part), -1).astype(np.float32))
    finally:
        for hook in hooks:
            hook.remove()
    return np.stack([np.concatenate(parts) for parts in hidden])


def inside(run: Run, names: Sequence[str], models: Sequence[int]) -> dict[str, np.ndarray]:
    """Signals from the weights of models, initial and checkpoint ones too, about every audited record, float32.

    Args:
        run: of the models.
        names: of `gradient_norms` and `activation_norms`, (models, audited, layers), `alignment`, (models, audited),
            and `trajectory`: see `attacks.View`.
        models: their numbers.
    """
    from palisade.targets.gradients import layer_norms

    x, y = _audited(run)
    signals: dict[str, np.ndarray] = {}
    if "gradient_norms" in names or "activation_norms" in names:
        final = [_fleet(run, model) for model in models]
        norms = [layer_norms(fleet.network, fleet.states[0], x, y, fleet.device) for fleet in final]
        signals["gradient_norms"] = np.stack([of_model.gradients for of_model in norms])
        signals["activation_norms"] = np.stack([of_model.activations for of_model in norms])
    if "alignment" in names:
        signals["alignment"] = np.stack([_alignment(run, model, x, y) for model in models])
    if "trajectory" in names:
        signals["trajectory"] = trajectory(run, models)
    return {name: signals[name] for name in names}


def trajectory(run: Run, models: Sequence[int]) -> Float[np.ndarray, "models audited checkpoints"]:
    """The loss of each audited record at the stored checkpoints, in order, and at the end of training, float32."""
    x, y = _audited(run)
    epochs = (*run.checkpoints(), None)
    losses = np.empty((len(models), len(y), len(epochs)), dtype=np.float32)
    for place, position in np.ndindex(len(losses), len(epochs)):
        answered = _fleet(run, models[place], epochs[position]).answers(x, y)
        losses[place, :, position] = (
            -mean_log_probability(answered[0])
            if run.dataset.positional
            else Outputs(labels=y, logits=answered).loss[0, :, 0]
        )
    return losses


def _alignment(
    run: Run, model: int, x: Real[np.ndarray, "audited ..."], y: Int64[np.ndarray, " audited"]
) -> Float[np.ndarray, " audited"]:
    """Σ_i ⟨−∇ℓ(x; θ_i), θ_{i+1} − θ_i⟩ / ‖θ_{i+1} − θ_i‖ over initial, checkpoint and final weights.

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
            total -= slopes(before.network, start, way, x, y, before.device) / length
    return total


def _audited(run: Run) -> tuple[Real[np.ndarray, "audited ..."], Int64[np.ndarray, " audited"]]:
    audited = run.dataset.split.audited
    return run.dataset.x[audited], run.dataset.y[audited]


def _fleet(run: Run, model: int, epoch: int | None = None) -> Fleet:
    from palisade.targets.training import load_fleet

    return load_fleet(run.config, run.dataset, run.folder, [model], epoch)
