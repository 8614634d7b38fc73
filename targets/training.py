"""Training of fleets and of the guards before them: models of a run made, fitted and read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from palisade.commandline import one_line
from palisade.data.dataset import Dataset, from_config
from palisade.data.secret import Secret
from palisade.data.settings import instantiated, named_in_full
from palisade.data.split import Membership
from palisade.targets import progress, stacks
from palisade.targets.base_model import check_tokens, has_base
from palisade.targets.checkpoints import checkpoint_epochs, discard_partly_written, weights_path, written_together
from palisade.targets.device import chosen
from palisade.targets.digests import write_weights
from palisade.targets.engines import together, worker
from palisade.targets.files import write_json
from palisade.targets.fleet import Defense, Fitter, Fleet
from palisade.targets.guards.guard import Guard
from palisade.targets.guards.guarded import Guarded
from palisade.targets.guards.registry import label, registered, state_path, unfitted
from palisade.targets.low_rank import is_adapted
from palisade.targets.network_maker import NetworkMaker
from palisade.targets.networks import MLP
from palisade.targets.progress import RunLog
from palisade.targets.recipe import Recipe, homes, stages, trainers
from palisade.targets.signal_saver import SignalSaver, keep_signals
from palisade.targets.stack_size import measured_size
from palisade.targets.statement import Statement
from palisade.targets.tracking import Tracker

DECISIONS_FILE = Path("private") / "settled.json"
"""File in which a run keeps what its defense settled before its first model; it may follow from the records."""
BASE_NOT_COVERED = "what the model that training began with was trained on: ε is about the records of this training"
MODELS_PER_STACK = 8
"""Models trained at once where stacking pays: more fill the cache, fewer waste the batched products."""
MAX_STACKED_PARAMETERS = 200_000
"""Above it, on a CPU, one model's products fill the cache by themselves and stacking only costs."""


def make_fitter(
    config: Mapping[str, Any],
    dataset: Dataset,
    secret: Secret,
    models: Sequence[int],
    membership: Membership,
    settled: Mapping[str, str] | None = None,
) -> Fitter:
    """A fitter for these models by the run's configuration.

    Args:
        config: of the run.
        dataset: its data.
        secret: its secret.
        models: their numbers in the fleet.
        membership: decides the public size N.
        settled: what the defense settled for the run before.

    Raises:
        ValueError: if network, defense or batch size cannot be used, or a stack is asked for (`fleet.at_once`) that the
            defense cannot be trained in.
    """
    defense = make_defense(config["defense"])
    for role in sorted(defense.roles):
        dataset.split.require(role, who=f"defense={config['names']['defense']}")
    if dataset.positional and (reason := not_on_documents(defense)) is not None:
        raise ValueError(
            f"defense={config['names']['defense']}: expected data of one class a record, since {reason}; choose another"
            " defense for documents, such as none, dp_sgd, l2 or early_stopping"
        )
    check_tokens(config["network"], dataset.preprocessing)
    recipe = Recipe.of(config)
    size = membership.public_size(defense.units(dataset.split), len(dataset.split.canaries))
    with named_in_full(homes(trainers(config))):
        recipe.schedule(size)
    fitter = Fitter(
        dataset=dataset,
        make_network=NetworkMaker(config["network"]),
        recipe=recipe,
        defense=defense,
        secret=secret,
        models=models,
        size=size,
        at_once=1,
        keep_checkpoints=config["fleet"].get("keep_checkpoints", 0),
        base_recipes=Recipe.of_bases(config),
        verbose=config.get("verbose", False),
        purpose=f"run {recipe_digest(config)}",
        settled=settled or {},
        device=chosen(),
    )
    return replace(fitter, at_once=at_once(config["fleet"]["at_once"], fitter))


def try_out(config: Mapping[str, Any], dataset: Dataset, membership: Membership) -> Mapping[str, str]:
    """Trial of network, defense, optimizer and batch size without training: refuses within seconds what cannot be used.

    Returns:
        Decisions of the defense for all models of the run (`DECISIONS_FILE`).

    Raises:
        ValueError: if network, defense, optimizer or batch size cannot be used.
    """
    fitter = make_fitter(config, dataset, Secret.from_text("tried"), models=[0], membership=membership)
    NetworkMaker(config["network"]).try_out(dataset)
    for stage, recipe in zip(stages(config), (fitter.recipe, *fitter.base_recipes), strict=True):
        with named_in_full(homes(trainers(*stage))):
            recipe.make_optimizer(fitter.initial_network(0).parameters())
    fitter = replace(fitter, at_once=1)
    return fitter.defense.settle(fitter, dataset.split, membership.draw(dataset.split, [0], fitter.secret))


def settled(folder: Path) -> Mapping[str, str]:
    """Decisions that were settled for a run, if any were."""
    path = folder / DECISIONS_FILE
    decisions: Mapping[str, str] = json.loads(path.read_text()) if path.exists() else {}
    return decisions


def recipe_digest(config: Mapping[str, Any]) -> str:
    """A hash of all settings that say how the models of a run are trained, and of none of its data."""
    recipe = {key: config[key] for key in ("network", "defense", "trainer")}
    return hashlib.blake2b(json.dumps(recipe, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def at_once(wanted: int | str, fitter: Fitter) -> int:
    """Number of models to train as one stack."""
    network = fitter.initial_network(fitter.models[0])
    if wanted == "auto":
        small = sum(p.numel() for p in network.parameters()) <= MAX_STACKED_PARAMETERS
        # Convolutions side by side take longer than one after the other.
        gains = small and isinstance(network, MLP)
        return MODELS_PER_STACK if gains and has_stacked_form(fitter, network) else 1
    size = int(wanted)
    if size > 1 and not fitter.defense.stackable:
        raise ValueError(f"fleet.at_once={wanted}: expected 1, since this defense has no stacked form; set it")
    return size


def has_stacked_form(fitter: Fitter, network: nn.Module) -> bool:
    """Fitness of network and defense for a stack that nobody asked for; an own forward may count axes."""
    own = type(network).__module__.startswith("palisade.targets.")
    fast = fitter.settled.get("per_record", "fast") == "fast"
    return own and fast and fitter.defense.stackable and stacks.unstackable(network) is None


def for_device(config: Mapping[str, Any], dataset: Dataset, folder: Path, *, processes: int = 1) -> Mapping[str, Any]:
    """A run's configuration with `fleet.at_once=auto` settled for a GPU: measured there, unless that was done before.

    Args:
        config: of the run.
        dataset: its data.
        folder: of the run.
        processes: that will share the device.
    """
    if config["fleet"]["at_once"] != "auto" or chosen().type == "cpu":
        return config
    import pooch

    membership, trial = Membership(**config["membership"]), {**config, "fleet": {"at_once": 1}}
    fitter = make_fitter(trial, dataset, Secret.from_text("tried"), [0], membership, settled(folder))
    size = 1
    if has_stacked_form(fitter, fitter.initial_network(0)):
        size = measured_size(
            fitter,
            membership,
            models=config["fleet"]["models"],
            processes=processes,
            network=config["network"],
            folder=Path(pooch.os_cache("palisade")),
        )
    return {**config, "fleet": {**config["fleet"], "at_once": size}}


def chunks(models: Sequence[int], wanted: int | str) -> Iterator[list[int]]:
    """Cuts a fleet's missing models at fixed boundaries (0–7, 8–15, …), so that a resumed run cuts alike."""
    size = MODELS_PER_STACK if wanted == "auto" else int(wanted)
    for number in sorted({k // size for k in models}):
        yield [k for k in models if k // size == number]


def train_models(
    config: Mapping[str, Any], folder: str, name: str, models: Sequence[int], saver: SignalSaver | None = None
) -> None:
    """Trains some models of a run and writes them, those of a stack all or none; those that are there stay.

    Before the first of them it writes `summary.json`: the statement and the defense's strength.

    Args:
        config: of the run.
        folder: of the run.
        name: of the run, for the progress line.
        models: their numbers in the fleet.
        saver: of their signals, as soon as they are written; None: they keep their weights alone.
    """
    torch.set_num_threads(1)  # more threads than processes have cores slow everything down many times over
    dataset = from_config(config)
    models = untrained(config, dataset, Path(folder), name, models, saver)
    if not models:
        return
    secret = Secret.load(Path(folder) / "private" / "secret")
    membership = Membership(**config["membership"])
    fitter = make_fitter(config, dataset, secret, models, membership, settled(Path(folder)))
    fitter = replace(fitter, tracker=Tracker.of(config, Path(folder)))
    log = RunLog(folder=Path(folder), verbose=fitter.verbose)
    with together.processes(train_along, (config, folder, models)):
        for part in parts(fitter):
            with log.timed(f"models {', '.join(map(str, part.models))} trained"):
                fleet = part.defense.fit(part, dataset.split, membership.draw(dataset.split, part.models, secret))
            check_finite(part.models, fleet)
            check_moved(part, fleet)
            statement = complete_statement(fitter, fleet)
            strength = fitter.defense.strength
            summary = {
                "statement": statement.to_json(),
                "strength": None if strength is None else str(strength),  # as text: JSON knows no infinity
                "attacks": list(fitter.defense.attacks),
                "canaries": list(fitter.defense.canaries),
            }
            write_json(Path(folder) / "summary.json", summary)
            write_fleet(Path(folder), part.models, fleet)
            if saver is not None:
                keep_signals(saver, config, dataset, Path(folder), part.models)
            progress.report(name, len(fleet))


def train_part(place: int, *chunk: Any) -> tuple[int, str | None]:
    """Trains a chunk of one of several runs, and gives the run's place with the reason if that failed.

    Args:
        place: of the run among the others, which go on.
        chunk: arguments of `train_models`.
    """
    try:
        worker.called(train_models, chunk)
    except Exception as error:
        return place, one_line(error)
    return place, None


def train_along(config: Mapping[str, Any], folder: str, models: Sequence[int]) -> None:
    """Trains these models as one of several processes that train them together, and writes nothing."""
    torch.set_num_threads(1)
    dataset, secret = from_config(config), Secret.load(Path(folder) / "private" / "secret")
    membership = Membership(**config["membership"])
    for part in parts(make_fitter(config, dataset, secret, models, membership, settled(Path(folder)))):
        part.defense.fit(part, dataset.split, membership.draw(dataset.split, part.models, secret))


def parts(fitter: Fitter) -> Iterator[Fitter]:
    """Fitters of the models that are trained as one stack each."""
    for start in range(0, len(fitter.models), fitter.at_once):
        yield replace(fitter, models=fitter.models[start : start + fitter.at_once])


def untrained(
    config: Mapping[str, Any],
    dataset: Dataset,
    folder: Path,
    name: str,
    models: Sequence[int],
    saver: SignalSaver | None,
) -> list[int]:
    """Models that a worker before this one, which died, has not trained; of all others the signals are there then."""
    discard_partly_written(folder, models)
    checkpoints = checkpoint_epochs(Recipe.of(config).epochs, config["fleet"].get("keep_checkpoints", 0))
    paths = {k: [weights_path(folder, k, epoch) for epoch in (*checkpoints, None)] for k in models}
    there = [k for k in models if all(path.exists() for path in paths[k])]
    if saver is not None and there:
        keep_signals(saver, config, dataset, folder, there)
    if saver is not None and config["fleet"]["keep"] == "signals":
        there = [k for k in models if saver.is_saved(folder, k)]
    if there:
        progress.report_again(name, len(there))
        RunLog(folder=folder).add_again(there)
    return [k for k in models if k not in there]


def write_fleet(folder: Path, models: Sequence[int], fleet: Fleet) -> None:
    """Writes models that were trained together, with their checkpoints: all or none."""
    with written_together(folder, models):
        for k, state, checkpoints in zip(models, fleet.states, fleet.checkpoints, strict=True):
            for epoch, weights in (*checkpoints.items(), (None, state)):
                write_weights(weights_path(folder, k, epoch), save(weights))


def check_finite(models: Sequence[int], fleet: Fleet) -> None:
    """Raises ValueError for the first model that diverged."""
    for k, state in zip(models, fleet.states, strict=True):
        if not all(value.isfinite().all() for value in state.values()):
            raise ValueError(f"model {k} diverged: its weights are not finite; lower trainer.optimizer.lr")


def check_moved(fitter: Fitter, fleet: Fleet) -> None:
    """Raises ValueError for the first model of low-rank adaptation of which training moved no weight.

    Libraries train such models in vain without a word, as where the optimizer was made before the products.
    """
    for k, state in zip(fitter.models, fleet.states, strict=True):
        initial = fitter.initial_network(k)
        if is_adapted(initial) and all(torch.equal(value, state[name]) for name, value in initial.state_dict().items()):
            raise ValueError(f"model {k}: training moved none of its low-rank weights; raise the optimizer's lr")


def complete_statement(fitter: Fitter, fleet: Fleet) -> Statement:
    """The defense's claim with what the data leave out of it."""
    statement = fitter.defense.statement(fleet)
    named = fitter.dataset.split.persons is not None and statement.unit == "record"
    persons = "persons with several records: ε holds for one record" if named else None
    roles = fitter.defense.roles | ({"validation"} if statement.tuning_runs else set())
    make = fitter.make_network
    base = BASE_NOT_COVERED if isinstance(make, NetworkMaker) and has_base(make.settings) else None
    return statement.leaving_out(*fitter.dataset.not_covered(roles), persons, base)


def load_fleet(
    config: Mapping[str, Any], dataset: Dataset, folder: Path, models: Sequence[int], epoch: int | None = None
) -> Fleet:
    """The models of a run, read from its folder.

    Args:
        config: of the run.
        dataset: its data.
        folder: its folder.
        models: their numbers in the fleet.
        epoch: after which epoch, one of those that were kept (`kept_epochs`); 0: before training; None: at its end.
    """
    secret = Secret.load(folder / "private" / "secret")
    membership = Membership(**config["membership"])
    fitter = make_fitter({**config, "fleet": {"at_once": 1}}, dataset, secret, models, membership)
    if epoch == 0:
        first = [fitter.initial_network(k).state_dict() for k in models]
        return Fleet(fitter.initial_network(models[0]), first, device=fitter.device)
    states = []
    for path in (weights_path(folder, k, epoch) for k in models):
        try:
            states.append(load_file(path))
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}); remove it and complete.json, and train again") from error
    return Fleet(fitter.initial_network(models[0]), states, device=fitter.device)


def make_defense(node: Mapping[str, Any], key: str = "defense") -> Defense:
    """A defense and its base, without the settings of their trainers, which the recipes hold.

    Args:
        node: the settings.
        key: where they stand in the configuration.

    Raises:
        ValueError: if there is no such defense, or a setting is unknown or out of range.
    """
    return instantiated(key, without_trainers(node), Defense)


def not_on_documents(defense: Defense) -> str | None:
    """Reason why a defense, or one that it builds on, cannot train language models; None if all can."""
    base = getattr(defense, "base", None)
    return defense.not_on_documents or (None if base is None else not_on_documents(base))


def without_trainers(node: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a defense and of its bases alone."""
    settings = {name: value for name, value in node.items() if name != "trainer"}
    base = settings.get("base")
    return {**settings, "base": without_trainers(base)} if isinstance(base, Mapping) else settings


def fit_guard(config: Mapping[str, Any], folder: str, guard: Guard, models: Sequence[int]) -> None:
    """The work item of a process: fits a guard to some models of a run."""
    torch.set_num_threads(1)
    dataset = from_config(config)
    secret, membership = Secret.load(Path(folder) / "private" / "secret"), Membership(**config["membership"])
    for k in models:
        fitter = make_fitter({**config, "fleet": {"at_once": 1}}, dataset, secret, [k], membership)
        members = dataset.split.pool[membership.draw(dataset.split, [k], secret)[0]]
        state = guard.fit(load_fleet(config, dataset, Path(folder), [k]), members, fitter, dataset.split)
        path = state_path(Path(folder), label(guard), k)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_weights(path, save(state))


def load_guarded(
    config: Mapping[str, Any], dataset: Dataset, folder: Path, models: Sequence[int], guard: str
) -> Guarded:
    """The models of a run behind one of its guards.

    Raises:
        ValueError: if the guard was not fitted to all of them.
    """
    run_guard = registered(folder, guard)
    if missing := unfitted(folder, run_guard, models):
        raise ValueError(
            f"guard={run_guard.name}: expected to be fitted to all models of {folder}, and not to model {missing[0]}"
            " yet; train the run again with this guard"
        )
    fitted = type(run_guard).fit is not Guard.fit
    states = [load_file(state_path(folder, guard, k)) if fitted else {} for k in models]
    return Guarded(load_fleet(config, dataset, folder, models), run_guard, states)
