"""Models that are kept from before the end of training, and the files in which all weights of a run lie."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from palisade.targets.files import write

JOURNAL_PREFIX = ".together"


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
            f"fleet.keep_checkpoints={count}: expected at most {epochs - 1}, the epochs before the last; choose fewer"
        )
    return [epochs * i // (count + 1) for i in range(1, count + 1)]


def weights_path(folder: Path, model: int, epoch: int | None = None) -> Path:
    """The file of a model's weights after an epoch, None for the end of training."""
    return folder / "models" / (f"{model}.safetensors" if epoch is None else f"{model}.epoch{epoch}.safetensors")


def checkpoint_epochs_of(folder: Path, models: Sequence[int]) -> list[int]:
    """The epochs after which the weights of all these models of a run were kept, in order."""
    epochs_by_model = [set(_epochs(folder.glob(f"models/{model}.epoch*.safetensors"))) for model in models]
    return sorted(set.intersection(*epochs_by_model))


@contextmanager
def written_together(folder: Path, models: Sequence[int]) -> Iterator[None]:
    """A journal while the files of a stack are written: the rest of a stack would be trained to other roundings.

    Args:
        folder: of the run.
        models: that were trained as one stack.
    """
    journal = folder / "models" / f"{JOURNAL_PREFIX}-{models[0]}-{models[-1]}"
    write(journal, " ".join(map(str, models)))
    yield
    journal.unlink()


def discard_partly_written(folder: Path, models: Sequence[int] | None = None) -> None:
    """Removes the models of stacks whose writing was cut short, so that each of them is trained as a whole again.

    Args:
        folder: of the run.
        models: of these stacks alone; None: of all, while nobody writes any.
    """
    for journal in folder.glob(f"models/{JOURNAL_PREFIX}-*"):
        stack = journal.read_text().split()
        if models is not None and not {*map(int, stack)} <= {*models}:
            continue
        for model in stack:
            for path in folder.glob(f"models/{model}.*"):
                path.unlink()
        journal.unlink()


def _epochs(paths: Iterable[Path]) -> Iterable[int]:
    return (int(path.suffixes[0].removeprefix(".epoch")) for path in paths)
