"""Signals in the place of weights: computed as soon as models are trained, so that large fleets need little room."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from palisade.data.dataset import Dataset, from_config
from palisade.targets.checkpoints import weights_path
from palisade.targets.digests import remove_weights


class SignalSaver(ABC):
    """Saves the signals of models in the folder of their run: which ones there are, only the referee knows."""

    @abstractmethod
    def is_saved(self, folder: Path, model: int) -> bool:
        """True if all signals of a model lie in the folder of its run, whether its weights are still there or not."""

    @abstractmethod
    def save(self, config: Mapping[str, Any], dataset: Dataset, folder: Path, models: Sequence[int]) -> None:
        """Saves the signals of models whose weights are there.

        Args:
            config: of the run.
            dataset: its data.
            folder: its folder.
            models: their numbers; what is there of them already stays.
        """

    @abstractmethod
    def remove_others(self, folder: Path, models: Sequence[int]) -> None:
        """Removes all stored answers of a run that are not among the signals of these models."""


def keep_signals(
    saver: SignalSaver, config: Mapping[str, Any], dataset: Dataset, folder: Path, models: Sequence[int]
) -> None:
    """Saves the signals of models that were just trained, and only then removes their weights, unless both are kept."""
    saver.save(config, dataset, folder, models)
    if config["fleet"]["keep"] == "signals":
        for model in models:
            remove_weights(weights_path(folder, model))


def save_signals(config: Mapping[str, Any], folder: str, saver: SignalSaver, models: Sequence[int]) -> None:
    """The work item of a process: saves the signals of models that were trained before."""
    import torch

    torch.set_num_threads(1)
    saver.save(config, from_config(config), Path(folder), models)
