"""Stored signals: answers of a run's models, a file a model and query, and arrays that follow from its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Real, Shaped

from palisade.attacks.parts.answers import MappedAnswers
from palisade.attacks.parts.blocks import room
from palisade.targets.digests import digest
from palisade.targets.files import replacing
from palisade.targets.guards.registry import guard_folder
from palisade.targets.run import Run

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
PLAIN_QUERY = ("plain",)
MODELS_AT_ONCE = 8
"""Models whose weights are in memory together while they are asked."""
SIGNALS_VERSION = 4
"""Part of the key of stored signals; raised when a change makes the same models give others."""


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


def answers(run: Run, role: str, queries: Sequence[str] = PLAIN_QUERY) -> MappedAnswers:
    """Answers of all models for the records of a role, behind the run's guard, memory-mapped from the run's folder.

    Float32 logits or probabilities, or classes, as the guard lets out. Only what no file holds is asked: a model that
    is added to a run leaves the answers of the others as they are.

    Args:
        run: a complete run.
        role: of the split.
        queries: how each record is put to the models; a single one gives no query axis.
    """
    by_query = [_stored(run, role, name) for name in queries]
    return MappedAnswers(list(zip(*by_query, strict=True)))


def _stored(run: Run, role: str, query: str) -> list[Shaped[np.ndarray, "records *classes"]]:
    """The answers of each model to one query, asked where they are missing."""
    paths = answer_paths(run, role, query)
    if missing := [model for model, path in paths.items() if not path.exists()]:
        folder = paths[missing[0]].parent
        folder.mkdir(parents=True, exist_ok=True)
        x = augmented(query, run.dataset.x[getattr(run.dataset.split, role)])
        for model, answered in _asked(run, role, query, x, missing):
            with replacing(paths[model]) as temporary:
                np.save(temporary, answered)
        _remove_others(folder, set(paths.values()))
    return [np.load(path, mmap_mode="r") for path in paths.values()]


def answer_paths(run: Run, role: str, query: str) -> dict[int, Path]:
    """The file of each model's answers to one query about the records of a role, there or not."""
    folder = run.folder / "signals" / run.guard / f"{role}-{query}"
    return {model: folder / f"{model}-{stamp(run, [model])}.npy" for model in run.models()}


def _asked(
    run: Run, role: str, query: str, x: Real[np.ndarray, "records ..."], models: Sequence[int]
) -> Iterator[tuple[int, Shaped[np.ndarray, "records *classes"]]]:
    """Models with their answers, one after the other."""
    from palisade.targets.training import load_fleet, load_guarded

    plain = Run(run.folder)
    logits = None if run.guard == plain.guard else answers(plain, role, [query])
    for start in range(0, len(models), MODELS_AT_ONCE):
        some = models[start : start + MODELS_AT_ONCE]
        if logits is None:
            fleet = load_fleet(run.config, run.dataset, run.folder, some)
            yield from ((model, fleet.one(place).predict(x)[0]) for place, model in enumerate(some))
        else:
            guarded = load_guarded(run.config, run.dataset, run.folder, some, run.guard)
            for place, model in enumerate(some):
                yield model, guarded.one(place).predict(x, logits.of(model)[None])[0]


def predictions(run: Run, role: str) -> Int64[np.ndarray, "models records"]:
    """The classes that all models predict for the records of a role, behind the run's guard."""
    outputs = answers(run, role)
    predicted = room(outputs.shape[:2], np.int64)
    for own, answered in zip(predicted, outputs, strict=True):
        own[:] = answered if run.registered_guard.level == "label" else answered.argmax(axis=-1)
    return predicted


def cached(run: Run, name: str, make: Callable[[], Shaped[np.ndarray, "..."]]) -> Shaped[np.ndarray, "..."]:
    """An array of a run, computed once and memory-mapped; computed anew when the run's models change."""
    folder = run.folder / "signals" / name
    path = folder / f"{stamp(run)}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        array = make()
        with replacing(path) as temporary:
            np.save(temporary, array)
        _remove_others(folder, {path})
    return np.load(path, mmap_mode="r")


def _remove_others(folder: Path, current: set[Path]) -> None:
    """Removes signals of models that are no more."""
    for path in folder.glob("*.npy"):
        if path not in current and not path.name.startswith("."):
            path.unlink(missing_ok=True)


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
