"""Signals: answers, gradients and checkpoints of a run's models about its records, as an attacker sees them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32, Int64, Real, Shaped

from palisade.attacks import ThreatModel, View
from palisade.attacks.parts.outputs import Outputs
from palisade.attacks.parts.view import is_vectors
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.signals.shadows import further_shadows
from palisade.targets.digests import digest
from palisade.targets.files import replacing
from palisade.targets.guards import NoGuard
from palisade.targets.guards.registry import guard_folder
from palisade.targets.run import Run

if TYPE_CHECKING:
    from torch import Tensor, nn

    from palisade.targets.fleet import Fleet
    from palisade.targets.guards.guarded import Guarded
Images = Real[np.ndarray, "records channels height width"]
QUERY_AUGMENTATIONS: Mapping[str, Callable[[Images], Images]] = {
    "plain": lambda x: x,
    "mirrored": lambda x: x[..., ::-1],
    "left": lambda x: np.roll(x, -1, axis=-1),
    "right": lambda x: np.roll(x, 1, axis=-1),
    "up": lambda x: np.roll(x, -1, axis=-2),
    "down": lambda x: np.roll(x, 1, axis=-2),
}
"""Queries by name; shifts are by one pixel. Several say more than one (Carlini et al. 2022, section 6.3)."""
SHADOW_MODELS = 6
"""Enough for four shadows of any target: neither it nor the model of complementary membership is one."""
AT_ONCE = 1024
PLAIN_QUERY = ("plain",)
SIGNALS_VERSION = 3
"""Part of the key of stored signals; raised when a change makes the same models give others."""


def white_box(run: Run) -> dict[str, np.ndarray]:
    """Signals from the weights of every model, initial and checkpoint ones too, about every audited record, float32.

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
    """The loss of each audited record at the stored checkpoints, in order, and at the end of training, float32."""
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
            total -= slopes(before.network, start, way, x, y) / length
    return total


def _audited(run: Run) -> tuple[Real[np.ndarray, "audited ..."], Int64[np.ndarray, " audited"]]:
    audited = run.dataset.split.audited
    return run.dataset.x[audited], run.dataset.y[audited]


def _fleet(run: Run, model: int, epoch: int | None = None) -> Fleet:
    from palisade.targets.training import load_fleet

    return load_fleet(run.config, run.dataset, run.folder, [model], epoch)


def augmented(name: str, x: Real[np.ndarray, "records ..."]) -> Real[np.ndarray, "records ..."]:
    """All records in one way.

    Raises:
        ValueError: if the way is unknown, or the records are no images and it is not `plain`.
    """
    if name not in QUERY_AUGMENTATIONS:
        raise ValueError(f"queries={name}: expected ways of {', '.join(QUERY_AUGMENTATIONS)}; choose e.g. plain")
    if name != "plain" and x.ndim != 4:
        raise ValueError(f"queries={name}: expected images, not records of shape {x.shape[1:]}; choose queries=[plain]")
    return QUERY_AUGMENTATIONS[name](x)


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
            last = taken[-1].numpy() if taken else np.empty((len(part), 0))
            hidden[model].append(last.reshape(len(part), -1).astype(np.float32))
    finally:
        for hook in hooks:
            hook.remove()
    return np.stack([np.concatenate(parts) for parts in hidden])


def view(
    run: Run, grant: Grant | None = None, queries: Sequence[str] = PLAIN_QUERY, threats: Sequence[ThreatModel] = ()
) -> View:
    """View of a run for attackers: every model's answers for every audited record, and who is a member.

    Args:
        run: a complete run.
        grant: what they are granted.
        queries: how each record is put to the models, by `evaluation.signals.augmentations`.
        threats: what attacks need; gradients, checkpoints and hidden layers are read only where one
            of them does.
    """
    grant, models, guard = grant or Grant(), cache(lambda: guarded(run)), run.registered_guard
    data, split = run.dataset, run.dataset.split
    pool = answers(run, "pool", queries)
    audited = split.is_audited if len(split.canaries) else slice(None)
    fields = grant.released(pool[:, audited], guard.level)
    if not isinstance(guard, NoGuard):
        fields["unguarded_logits"] = answers(Run(run.folder), "pool")[:, audited]
    if len(split.population):
        population = grant.released(answers(run, "population"), guard.level)
        fields |= {f"population_{name}": released for name, released in population.items()}
        fields |= {"population_labels": data.y[split.population], "population_features": data.x[split.population]}
    if any(threat.shadow_features for threat in threats) and not is_vectors(data.x):
        plain = Run(run.folder)
        hidden = cached(plain, "last_hidden", partial(last_hidden, plain))
        fields["shadow_features"] = hidden if hidden.shape[-1] else None
    if grant.weights:
        fields |= inner_signals(run, threats)
    if any(threat.further_shadows for threat in threats):
        fields["further_shadows"] = further_shadows(run, grant, pool if len(queries) == 1 else pool[:, :, 0])
    if guard.keeps_label and grant.decimals is None:
        fields["query_label"] = lambda model, x: models().fleet.one(model).predict(x)[0].argmax(axis=-1)
    held_back = [k for k in (grant.top_k, guard.top_k) if k is not None and k < len(data.classes)]
    return View(
        labels=data.y[split.audited],
        membership=run.membership()[:, split.is_audited],
        groups=run.groups(),
        persons=None if split.persons is None else split.persons[split.is_audited],
        features=data.x[split.audited],
        query=lambda model, x: grant.answer(models().one(model).predict(x)[0], guard.level),
        top_k=min(held_back, default=None),
        **fields,
    )


def inner_signals(run: Run, threats: Sequence[ThreatModel]) -> dict[str, np.ndarray]:
    """Parts of a view that only weights and checkpoints give, as far as attacks need them."""
    signals: dict[str, np.ndarray] = {}
    run = Run(run.folder)  # weights are behind no guard
    if any(threat.gradients for threat in threats):
        measured = cache(partial(white_box, run))  # one pass over the models gives all of them

        def one(name: str) -> np.ndarray:
            return measured()[name]

        followed = ["alignment"] if run.checkpoints() else []  # both ends alone say less than the loss does
        for name in ("gradient_norms", "activation_norms", *followed):
            signals[name] = cached(run, f"white_box/{name}", partial(one, name))
    if any(threat.checkpoints for threat in threats) and run.checkpoints():
        signals["trajectory"] = cached(run, "white_box/trajectory", partial(trajectory, run))
    return signals


def answers(
    run: Run, role: str, queries: Sequence[str] = PLAIN_QUERY
) -> Shaped[np.ndarray, "models records *queries_classes"]:
    """Answers of all models for the records of a role, behind the run's guard, memory-mapped from the run's folder.

    Float32 logits or probabilities, or classes, as the guard lets out.

    Args:
        run: a complete run.
        role: of the split.
        queries: how each record is put to the models; a single one gives no query axis.
    """
    x = run.dataset.x[getattr(run.dataset.split, role)]
    plain = Run(run.folder)

    def ask(name: str) -> np.ndarray:
        if run.guard == plain.guard:
            return fleet(run).predict(augmented(name, x))
        return guarded(run).predict(augmented(name, x), answers(plain, role, [name]))

    outputs = [cached(run, f"{run.guard}/{role}-{name}", partial(ask, name)) for name in queries]
    return outputs[0] if len(outputs) == 1 else np.stack(outputs, axis=2)


def predictions(run: Run, role: str) -> Int64[np.ndarray, "models records"]:
    """The classes that all models predict for the records of a role, behind the run's guard."""
    outputs = answers(run, role)
    return np.asarray(outputs) if run.registered_guard.level == "label" else outputs.argmax(axis=-1)


def guarded(run: Run) -> Guarded:
    """The models of a run behind its guard."""
    from palisade.targets.training import load_guarded

    return load_guarded(run.config, run.dataset, run.folder, run.models(), run.guard)


def fleet(run: Run) -> Fleet:
    """The models of a run."""
    from palisade.targets.training import load_fleet

    return load_fleet(run.config, run.dataset, run.folder, run.models())


def cached(run: Run, name: str, make: Callable[[], Shaped[np.ndarray, "..."]]) -> Shaped[np.ndarray, "..."]:
    """An array of a run, computed once and memory-mapped; computed anew when the run's models change."""
    folder = run.folder / "signals" / name
    path = folder / f"{stamp(run)}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        array = make()
        with replacing(path) as temporary:
            np.save(temporary, array)
        for stale in folder.glob("*.npy"):
            if stale != path and not stale.name.startswith("."):
                stale.unlink()
    return np.load(path, mmap_mode="r")


def stamp(run: Run, models: Sequence[int] | None = None) -> str:
    """Names models of a run, their guard, and how they are asked: a digest of the digests of their files.

    Args:
        run: a complete run.
        models: which of them; None: all.
    """
    total = hashlib.blake2b(bytes([SIGNALS_VERSION]), digest_size=8)
    for folder in (run.folder / "models", guard_folder(run.folder, run.guard)):
        for model in run.models() if models is None else models:
            for path in sorted(folder.glob(f"{model}.*safetensors")):
                total.update(path.name.encode() + digest(path).encode())
    return total.hexdigest()
