"""Weights on disk while and after they are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
from torch import Tensor

from palisade.targets.files import write

Weights = list[dict[str, Tensor]]


class Snapshots(pl.Callback):
    """Copies the weights after some epochs; training itself goes on as without it.

    Each is a release of its own to whoever sees it. Under DP-SGD that costs nothing: ε is accounted for all steps as
    if each of them were published.

    Args:
        epochs: after which epochs, from 1 on.
        weights: gives copies of the weights of all models that are trained together.
    """

    def __init__(self, epochs: Sequence[int], weights: Callable[[], Weights]) -> None:
        self.epochs, self.weights = epochs, weights
        self.taken: dict[int, Weights] = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook after an epoch: a copy of the weights, if this is one of the epochs."""
        if (epoch := trainer.current_epoch + 1) in self.epochs:
            self.taken[epoch] = self.weights()

    def of_models(self, final: Weights) -> list[dict[int, dict[str, Tensor]]]:
        """For each model its weights by epoch; after an early end they are the final ones."""
        return [{epoch: self.taken.get(epoch, final)[k] for epoch in self.epochs} for k in range(len(final))]


JOURNAL = ".together"


def checkpoint_epochs(epochs: int, count: int) -> list[int]:
    """The epochs after which weights are kept: evenly over the training, its end not among them.

    Args:
        epochs: of the training, E.
        count: how many models are kept, below E.

    Raises:
        ValueError: if there are fewer epochs.
    """
    if count >= epochs:
        raise ValueError(
            f"fleet.keep_checkpoints={count} exceeds the {epochs - 1} epochs before the last; "
            f"choose at most {epochs - 1}"
        )
    return [epochs * i // (count + 1) for i in range(1, count + 1)]


def weights_path(folder: Path, model: int, epoch: int | None = None) -> Path:
    """The file of a model's weights after an epoch, None for the end of training."""
    return folder / "models" / (f"{model}.safetensors" if epoch is None else f"{model}.epoch{epoch}.safetensors")


def kept_epochs(folder: Path, models: Sequence[int]) -> list[int]:
    """The epochs after which the weights of all these models of a run were kept, in order."""
    kept = [set(_epochs(folder.glob(f"models/{model}.epoch*.safetensors"))) for model in models]
    return sorted(set.intersection(*kept))


@contextmanager
def written_together(folder: Path, models: Sequence[int]) -> Iterator[None]:
    """A journal while the files of a stack are written: the rest of a stack would be trained to other roundings.

    Args:
        folder: of the run.
        models: that were trained as one stack.
    """
    journal = folder / "models" / f"{JOURNAL}-{models[0]}-{models[-1]}"
    write(journal, " ".join(map(str, models)))
    yield
    journal.unlink()


def discard_partly_written(folder: Path) -> None:
    """Removes the models of stacks whose writing was cut short, so that each of them is trained as a whole again."""
    for journal in folder.glob(f"models/{JOURNAL}-*"):
        for model in journal.read_text().split():
            for path in folder.glob(f"models/{model}.*"):
                path.unlink()
        journal.unlink()


def _epochs(paths: Iterable[Path]) -> Iterable[int]:
    return (int(path.suffixes[0].removeprefix(".epoch")) for path in paths)
