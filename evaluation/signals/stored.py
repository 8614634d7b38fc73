"""Stored signals: answers of a run's models, a file a model and query, and arrays that follow from its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Real, Shaped

from palisade.attacks.parts.answers import MappedAnswers
from palisade.data.queries import PLAIN_QUERY, augmented
from palisade.targets.checkpoints import weights_path
from palisade.targets.digests import digest, is_removed
from palisade.targets.files import replacing
from palisade.targets.guards.registry import guard_folder
from palisade.targets.run import Run

SIGNALS_SUFFIX = ".signals.npy"
"""Ending of the files of signals, beside those of the answers that they follow from."""
MODELS_AT_ONCE = 8
"""Models whose weights are in memory together while they are asked."""
SIGNALS_VERSION = 5
"""Part of the key of stored signals; raised when a change makes the same models give others."""


def answers(run: Run, role: str, queries: Sequence[str] = PLAIN_QUERY) -> MappedAnswers:
    """Answers of all models for the records of a role, behind the run's guard, memory-mapped from the run's folder.

    Float32 logits or probabilities, or classes, as the guard lets out; of language models, per-token answers in the
    place of logits (`targets.record_loss.token_rows`). Only what no file holds is asked: a model that
    is added to a run leaves the answers of the others as they are.

    Args:
        run: a complete run.
        role: of the split.
        queries: how each record is put to the models; a single one gives no query axis.
    """
    by_query = [_stored(run, role, name) for name in queries]
    return MappedAnswers(list(zip(*by_query, strict=True)))


def questions(run: Run, queries: Sequence[str]) -> list[tuple[str, str]]:
    """Roles and queries that an evaluation puts to the models of a run, whatever the attacks."""
    fixed = [(role, PLAIN_QUERY[0]) for role in ("test", "population") if len(getattr(run.dataset.split, role))]
    return [*(("pool", query) for query in queries), *fixed]


def unasked(run: Run, queries: Sequence[str]) -> list[int]:
    """Models of which no file holds the answers to some of the `questions`."""
    paths = [answer_paths(run, *question) for question in questions(run, queries)]
    return [model for model in run.models() if not all(of_models[model].exists() for of_models in paths)]


def ask_some(folder: Path, guard: str, queries: Sequence[str], models: Sequence[int]) -> None:
    """The work item of a process: asks some models of a run, where no file holds their answers."""
    run = Run(folder, guard)
    for role, query in questions(run, queries):
        ask(run, role, query, models)


def ask(run: Run, role: str, query: str, models: Sequence[int]) -> None:
    """Keeps the answers of models to one query, where they are missing."""
    paths = answer_paths(run, role, query)
    missing = [model for model in models if not paths[model].exists()]
    if not missing:
        return
    if not run.has_weights():
        raise ValueError(
            f"{run.folder} holds signals, and neither weights nor whole answers ({role}, {query}); train it again"
            " with fleet.keep=both"
        )
    folder = paths[missing[0]].parent
    folder.mkdir(parents=True, exist_ok=True)
    x = augmented(query, run.dataset.x[getattr(run.dataset.split, role)])
    for model, answered in _asked(run, role, query, x, missing):
        with replacing(paths[model]) as temporary:
            np.save(temporary, answered)
    signals = answer_paths(run, role, query, SIGNALS_SUFFIX)
    _remove_others(folder, {*paths.values(), *signals.values()}, below=len(paths))


def _stored(run: Run, role: str, query: str) -> list[Shaped[np.ndarray, "records *classes"]]:
    """The answers of each model to one query, asked where they are missing."""
    ask(run, role, query, run.models())
    return [np.load(path, mmap_mode="r") for path in answer_paths(run, role, query).values()]


def mean_log_probability(rows: Shaped[np.ndarray, "... T"]) -> Float[np.ndarray, "..."]:
    """Mean ℓ_t over a document's own tokens, float64.

    Args:
        rows: of `data.sequences.TOKEN_ROW`.
    """
    return np.asarray(np.nanmean(rows["log_probability"], axis=-1, dtype=np.float64))


def answer_paths(run: Run, role: str, query: str, suffix: str = ".npy") -> dict[int, Path]:
    """The file of each model's answers to one query about the records of a role, there or not."""
    return {model: answer_path(run, role, query, model, suffix) for model in run.models()}


def answer_path(run: Run, role: str, query: str, model: int, suffix: str = ".npy") -> Path:
    """File of the answers of a model to a query, or with `SIGNALS_SUFFIX` of the signals that follow from them.

    Args:
        run: with the guard before its models.
        role: of the split.
        query: how each record is put to the models.
        model: whose weights, or the digest of weights that were removed, are there.
        suffix: of the file.
    """
    return run.folder / "signals" / run.guard / f"{role}-{query}" / f"{model}-{stamp(run, [model])}{suffix}"


def _asked(
    run: Run, role: str, query: str, x: Real[np.ndarray, "records ..."], models: Sequence[int]
) -> Iterator[tuple[int, Shaped[np.ndarray, "records *classes"]]]:
    """Models with their answers, one after the other."""
    from palisade.targets.training import load_fleet, load_guarded

    plain = Run(run.folder)
    is_guarded = run.guard != plain.guard
    if is_guarded:
        ask(plain, role, query, models)
    y = run.dataset.y[getattr(run.dataset.split, role)]
    for start in range(0, len(models), MODELS_AT_ONCE):
        some = models[start : start + MODELS_AT_ONCE]
        if not is_guarded:
            fleet = load_fleet(run.config, run.dataset, run.folder, some)
            yield from ((model, fleet.one(place).answers(x, y)[0]) for place, model in enumerate(some))
        else:
            guarded = load_guarded(run.config, run.dataset, run.folder, some, run.guard)
            for place, model in enumerate(some):
                logits = np.load(answer_path(plain, role, query, model), mmap_mode="r")
                yield model, guarded.one(place).answers(x, y, logits[None])[0]


def cached(run: Run, name: str, make: Callable[[], Shaped[np.ndarray, "..."]]) -> Shaped[np.ndarray, "..."]:
    """An array of a run, computed once and memory-mapped; computed anew when the run's models change."""
    path = _cached_path(run, name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        array = make()
        with replacing(path) as temporary:
            np.save(temporary, array)
        _remove_others(path.parent, {path})
    return np.load(path, mmap_mode="r")


def is_cached(run: Run, name: str) -> bool:
    """True if `cached` needs to compute nothing."""
    return _cached_path(run, name).exists()


def _cached_path(run: Run, name: str) -> Path:
    return run.folder / "signals" / name / f"{stamp(run)}.npy"


def _remove_others(folder: Path, current: set[Path], below: int | None = None) -> None:
    """Removes signals of models that are no more, of none from number `below` on, which may just be trained."""
    for path in folder.glob("*.npy"):
        model, dash, _ = path.name.partition("-")
        later = below is not None and bool(dash) and model.isdigit() and int(model) >= below
        if path not in current and not later and not path.name.startswith("."):
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
            paths = {*folder.glob(f"{model}.*safetensors")}
            if is_removed(weights := weights_path(run.folder, model)) and weights.parent == folder:
                paths.add(weights)
            for path in sorted(paths):
                total.update(path.name.encode() + digest(path).encode())
    return total.hexdigest()
