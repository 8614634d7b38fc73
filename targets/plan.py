"""Before a run is trained: its costs in models, minutes and megabytes, and everything that is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from palisade.data.dataset import Dataset, from_config
from palisade.data.records import Source
from palisade.data.secret import Secret
from palisade.data.settings import instantiated
from palisade.data.split import Membership
from palisade.targets import engines
from palisade.targets.config import CONF_FOLDER
from palisade.targets.defaults import of_size
from palisade.targets.guards.registry import make_guard
from palisade.targets.recipe import Recipe
from palisade.targets.run import Run
from palisade.targets.train_settings import TrainSettings

if TYPE_CHECKING:
    from torch import nn

BYTES_PER_FLOAT = 4  # of a float32
PASSES_PER_STEP = 3  # through the network, by FLOP: forward, and backward for inputs and weights
FLOP_PER_SECOND = 2e10  # FLOP/s of one core on small products
GPU_FLOP_PER_SECOND = 5e12  # assumed of a GPU for data centers in float32: a quarter of the 19.5 TFLOP/s of an A100
NUMBERS_PER_ROW = 4  # of a record's signals: φ, two entropies and the predicted class, beside log p at temperatures
NUMBERS_PER_TOKEN = 4  # log p, μ, σ² and, in a byte, whether the token is the likeliest
COST_KEYS = ("models", "missing", "minutes", "gpu_hours", "megabytes")  # what adds up over runs
COST_KEYS_OF_TRAINING = ("missing", "minutes", "gpu_hours")  # what is left of it where models are there
TUNED_PLACEHOLDER = "<tuned>"  # stands for settings that are unknown before they are chosen
PUBLIC_SIZE = 1_000  # stands for N while the data are unknown
STEP_SECONDS = 3e-4  # of a step whatever its size


def cost(run: Run, settings: Mapping[str, Any], dataset: Dataset, missing: Sequence[int]) -> dict[str, Any]:
    """The models to train of a run, time and disk by a rough estimate."""
    from palisade.targets.training import make_fitter, settled

    membership = Membership(**settings["membership"])
    fitter = make_fitter(settings, dataset, Secret.from_text("plan"), models=[0], membership=membership)
    network = fitter.initial_network(0)
    parameters = sum(p.numel() for p in network.parameters())
    schedule = fitter.schedule
    factor = len(missing) * fitter.defense.cost * fitter.defense.slowdown(network, settled(run.folder))
    flop = PASSES_PER_STEP * flop_of_record(network, dataset) * schedule.batch_size * schedule.steps
    seconds = schedule.steps * STEP_SECONDS + flop / FLOP_PER_SECOND
    models = settings["fleet"]["models"]
    numbers = stored_numbers(settings["fleet"], dataset, parameters)
    return {
        "folder": str(run.folder),
        "models": models,
        "missing": len(missing),
        "minutes": factor * seconds / engines.count(settings["fleet"]["workers"]) / 60,
        "gpu_hours": factor * flop / GPU_FLOP_PER_SECOND / 3600,
        "megabytes": BYTES_PER_FLOAT * models * numbers / 1e6,
    }


def flop_of_record(network: nn.Module, dataset: Dataset) -> int:
    """Floating-point operations of a forward pass of one record, as PyTorch counts those of its operators."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.from_numpy(np.ascontiguousarray(dataset.x[:1])))
    return int(counter.get_total_flops())


def stored_numbers(fleet: Mapping[str, Any], dataset: Dataset, parameters: int) -> int:
    """Numbers that lie on the disk of each model once the run was evaluated.

    Args:
        fleet: settings of the fleet; runs from before signals could be kept hold weights.
        dataset: its data.
        parameters: of the network.
    """
    split, keep = dataset.split, fleet.get("keep", "weights")
    if dataset.positional:
        of_document = NUMBERS_PER_TOKEN * dataset.shape[0]
        answered = (len(split.test) + len(split.pool) + len(split.population)) * of_document
        return answered + (0 if keep == "signals" else parameters * (1 + fleet["keep_checkpoints"]))
    classes = len(dataset.classes)
    numbers = len(split.test) * classes
    if keep != "signals":
        numbers += parameters * (1 + fleet["keep_checkpoints"]) + len(split.pool) * classes
    if keep != "weights":
        rows = len(split.pool) * len(fleet["queries"]) + len(split.population)
        numbers += rows * (NUMBERS_PER_ROW + len(fleet["temperatures"]))
    return numbers


def check_all(settings: Mapping[str, Any]) -> None:
    """Checks whatever can be told of a run before its data are known to the defense.

    Args:
        settings: as `composed` gives them.

    Raises:
        ExceptionGroup: of a ValueError or OSError for each setting that is wrong; of one alone that error.
    """
    from palisade.targets.training import make_defense

    checks: tuple[Callable[[Mapping[str, Any]], object], ...] = (
        TrainSettings.parsed,
        lambda each: Recipe.of(of_size(each, PUBLIC_SIZE)),
        lambda each: instantiated("data", each["data"], Source),
        make_guard,
        lambda each: make_defense(each["defense"]),
        from_config,
    )
    errors: dict[str, Exception] = {}
    reset: set[str] = set()
    for check in checks:
        while True:
            try:
                check(settings)
                break
            except (ValueError, OSError) as error:
                key = re.split(r"[^\w.]", str(error), maxsplit=1)[0]
                if key in reset:
                    break  # it has no default
                others = _reset(settings, _defaults(key, settings), key.split("."))
                errors[str(error)] = error
                if others == settings:
                    break
                reset.add(key)
                settings = others
    if len(errors) > 1:
        raise ExceptionGroup("settings", list(errors.values()))
    for only in errors.values():
        raise only


def _defaults(key: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `conf/train.yaml`, and of the option that was chosen in the group of a key."""
    group = key.partition(".")[0]
    options = {"": CONF_FOLDER / "train.yaml", group: CONF_FOLDER / group / f"{settings['names'].get(group)}.yaml"}
    content = {name: yaml.safe_load(path.read_text("utf-8")) for name, path in options.items() if path.exists()}
    return {**content.pop(""), **content}


def _reset(settings: Mapping[str, Any], defaults: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """Settings with one of them, at `path`, as its option has it, or without it if that has none."""
    key, *rest = path
    if not rest:
        others = {name: value for name, value in settings.items() if name != key}
        return {**others, key: defaults[key]} if key in defaults else others
    inner, below = settings.get(key), defaults.get(key)
    return {**settings, key: _reset(inner, below or {}, rest)} if isinstance(inner, Mapping) else dict(settings)
