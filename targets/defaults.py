"""Settings that are `auto`: chosen from public numbers, without a look at any record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from palisade.data.dataset import Dataset
from palisade.data.schedule import TrainingSchedule
from palisade.data.settings import validated
from palisade.data.split import Membership
from palisade.targets.recipe import stages

AUTO_VALUE = "auto"
MLP_TARGET, PRIVATE_TARGET = "palisade.targets.networks.MLP", "palisade.defenses.dp_sgd.DPSGDDefense"
STOPPING_TARGET = "palisade.defenses.early_stopping.EarlyStopping"
OPTIMIZERS_PREFIX, SGD_TARGET = "torch.optim.", "torch.optim.SGD"
HIDDEN_WIDTHS = (128,)
GPT_NAME, GPT_TARGET = "gpt", "palisade.targets.gpt.GPT"
GPT_SETTINGS: Mapping[str, Any] = {"_target_": GPT_TARGET, "width": 64, "depth": 2, "heads": 4, "base": None}
GPT_SETTINGS = {**GPT_SETTINGS, "lora": {"rank": None}}
"""Settings of `conf/network/gpt.yaml`."""

SEEN_RECORDS = 10_000
"""Records that pass through a dense network in training, repetitions counted: with more it memorizes a small table."""
LEAST_EPOCHS, MOST_EPOCHS = 3, 100
OTHER_EPOCHS = 40
"""Epochs of networks that learn more slowly than dense ones, and at most of training that stops early."""

PRIVATE_EPOCHS, PRIVATE_RATE, LARGEST_PRIVATE_BATCH = 60, 1 / 3, 16_384
"""Epochs, sampling rate and largest batch of a linear model with DP-SGD: in few large steps noise averages out."""
PATH_FACTOR, PATH_EXPONENT, LONGEST_PATH = 3, 0.6, 2_400
"""The sum of all steps, in clipping norms and with momentum: 3 · (N·ε)^0.6, at most 2,400."""
OTHER_PRIVATE: Mapping[str, Any] = {"epochs": 40, "batch_size": 128, "lr": 0.1}
"""Settings of DP-SGD on other networks."""


def resolved(settings: Mapping[str, Any], dataset: Dataset) -> dict[str, Any]:
    """Settings without `auto` in network and trainers, and with the name of the network that was chosen.

    A choice follows from the public size N, the claimed ε, the clipping norm, and what the settings say themselves.

    Args:
        settings: as `composed` gives them.
        dataset: whose pool decides N.

    Raises:
        ValueError: if a learning rate is `auto` beside an optimizer that the rule does not know.
    """
    if dataset.positional and settings["names"]["network"] == AUTO_VALUE:
        settings = {**settings, "network": dict(GPT_SETTINGS), "names": {**settings["names"], "network": GPT_NAME}}
    return of_size(settings, public_size(settings, dataset))


def public_size(settings: Mapping[str, Any], dataset: Dataset) -> int:
    """N of a run: records that a model is trained on, or persons where the claim is about them."""
    split, membership = dataset.split, validated(Membership, "membership", settings["membership"])
    by_person = any(stage["defense"].get("records_per_person") is not None for stage, _ in stages(settings))
    units = split.pool if split.persons is None or not by_person else np.unique(split.persons)
    return membership.public_size(len(units), len(split.canaries))


def of_size(settings: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Settings without `auto` for models of the public size N."""
    network, names = dict(settings["network"]), dict(settings["names"])
    by_default = AUTO_VALUE in (network.get("hidden"), names["network"])
    if network.get("hidden") == AUTO_VALUE:
        linear = is_private(settings["defense"]) and not settings.get("tuning")  # which tries both
        network["hidden"] = [] if linear else list(HIDDEN_WIDTHS)
    if by_default:
        names["network"] = dense_name(network)
    dense = network.get("_target_") == MLP_TARGET
    trainer, defense = dict(settings["trainer"]), dict(settings["defense"])
    if trainer.get("epochs") == AUTO_VALUE:
        trainer["epochs"] = dense_epochs(size) if dense else OTHER_EPOCHS
        defense = _with_more_epochs(defense)
    defense = _with_trainers(defense, size, linear=dense and not network.get("hidden"), key="defense")
    return {**settings, "network": network, "names": names, "trainer": trainer, "defense": defense}


def is_private(defense: Mapping[str, Any]) -> bool:
    """True if DP-SGD trains the models, or those that the defense builds on."""
    base = defense.get("base")
    return defense.get("_target_") == PRIVATE_TARGET or (isinstance(base, Mapping) and is_private(base))


def dense_name(network: Mapping[str, Any]) -> str:
    """The option that a dense network is: `linear` without hidden layers, else `mlp`."""
    return "mlp" if network.get("hidden") else "linear"


def dense_epochs(size: int) -> int:
    """Passes of a dense network over N records without noise."""
    return min(MOST_EPOCHS, max(LEAST_EPOCHS, round(SEEN_RECORDS / size)))


def learning_rate(schedule: TrainingSchedule, epsilon: float, max_grad_norm: float, momentum: float) -> float:
    """Learning rate of a linear model with DP-SGD: all steps together are the longer, the less noise there is.

    Measured on digits, breast cancer, Location30 and Diabetes-130 (`benchmarks/tabular_defaults.py`).
    """
    path = min(PATH_FACTOR * (schedule.size * epsilon) ** PATH_EXPONENT, LONGEST_PATH)
    return float(f"{path * (1 - momentum) / (schedule.steps * max_grad_norm):.3g}")


def _with_more_epochs(node: Mapping[str, Any]) -> dict[str, Any]:
    """A defense with epochs of its own where it, or a base, stops by itself or has a slower optimizer."""
    defense = dict(node)
    if isinstance(node.get("base"), Mapping):
        defense["base"] = _with_more_epochs(node["base"])
    own = node.get("trainer") or {}
    if node.get("_target_") == STOPPING_TARGET or (isinstance(own, Mapping) and "optimizer" in own):
        defense["trainer"] = {"epochs": OTHER_EPOCHS, **own}
    return defense


def _with_trainers(node: Mapping[str, Any], size: int, *, linear: bool, key: str) -> dict[str, Any]:
    """A defense whose own trainer, and those of its bases, hold no `auto`."""
    defense = dict(node)
    if isinstance(node.get("base"), Mapping):
        defense["base"] = _with_trainers(node["base"], size, linear=linear, key=f"{key}.base")
    if not isinstance(node.get("trainer"), Mapping):
        return defense
    trainer = dict(node["trainer"])
    if trainer.get("epochs") == AUTO_VALUE:
        trainer["epochs"] = PRIVATE_EPOCHS if linear else OTHER_PRIVATE["epochs"]
    if trainer.get("batch_size") == AUTO_VALUE:
        share = min(max(1, round(PRIVATE_RATE * size)), LARGEST_PRIVATE_BATCH)
        trainer["batch_size"] = share if linear else OTHER_PRIVATE["batch_size"]
    optimizer = trainer.get("optimizer")
    if isinstance(optimizer, Mapping) and optimizer.get("lr") == AUTO_VALUE:
        trainer["optimizer"] = _with_rate(defense, trainer, size, linear=linear, key=f"{key}.trainer.optimizer")
    return {**defense, "trainer": trainer}


def _with_rate(
    defense: Mapping[str, Any], trainer: Mapping[str, Any], size: int, *, linear: bool, key: str
) -> dict[str, Any]:
    optimizer, target = trainer["optimizer"], str(trainer["optimizer"].get("_target_"))
    if target.startswith(OPTIMIZERS_PREFIX) and target != SGD_TARGET:
        raise ValueError(f"{key}.lr=auto: expected a number beside {target}; set it, e.g. 1e-3")
    if not linear:
        return {**optimizer, "lr": OTHER_PRIVATE["lr"]}
    try:
        schedule = TrainingSchedule(size=size, batch_size=trainer["batch_size"], epochs=trainer["epochs"])
        rate = learning_rate(schedule, defense["epsilon"], defense["max_grad_norm"], optimizer.get("momentum", 0))
    except (ValueError, TypeError, ArithmeticError):
        rate = OTHER_PRIVATE["lr"]  # another setting is wrong, and is refused where it is read
    return {**optimizer, "lr": rate}
