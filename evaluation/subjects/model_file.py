"""A model from a file, or a release."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Shaped

from palisade.data.cells import PLAIN_READING
from palisade.data.columns import UnknownWordsWarning
from palisade.data.settings import import_object, place

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import nn

Answers = Literal["logits", "probabilities", "predictions"]
BATCH_RECORDS = 256
CLASS_SETTING = "network._target_"


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditedModel:
    """A model that an audit asks.

    Args:
        name: in a few words, for the page.
        answers: what `ask` returns.
        ask: answers about rows: (records, classes) scores, or (records,) predicted classes.
        inputs: the numbers that the model takes of rows.
        classes: the words of its classes, where it has any.
        takes_inputs: whether `ask` takes inputs of an attacker's choice, not only rows.
        is_guarded: whether a guard of this project changes the answers, which then need not sum to 1.
        top_k: how many probabilities that guard shows; None: all.
        prepare: called beforehand with all rows that are surely asked about, side by side; returns what to say of the
            answers.
    """

    name: str
    answers: Answers
    ask: Callable[[Any], Shaped[np.ndarray, "records *classes"]]
    inputs: Callable[[Any], Shaped[np.ndarray, "records ..."]]
    classes: tuple[str, ...] | None = None
    takes_inputs: bool = True
    is_guarded: bool = False
    top_k: int | None = None
    prepare: Callable[[Sequence[Any]], list[str]] = lambda _: []


def numbers(rows: np.ndarray | pd.DataFrame) -> Shaped[np.ndarray, "records ..."]:
    """Rows as numbers; the columns of a table in its order.

    Raises:
        ValueError: if a column holds words or misses a value.
    """
    if isinstance(rows, np.ndarray):
        return rows
    cells = PLAIN_READING.cells(rows)
    for name in map(str, cells):
        if cells[name].isna().any() or any(PLAIN_READING.number(cell) is None for cell in cells[name].unique()):
            raise ValueError(
                f"column {name} holds words or misses values; give numbers, or a release that encodes them"
            )
    return PLAIN_READING.numbers(cells).astype(np.float32)


def of_release(folder: str, network: Mapping[str, Any]) -> AuditedModel:
    """A release of this project behind its guard, asked about raw rows. Loading it runs no code of its files.

    Args:
        folder: of the release.
        network: `_target_` names the class of an own network.

    Raises:
        ValueError: if the release answers about groups only, or its network is unknown.
    """
    from palisade.targets.guards import Aggregate, NoGuard
    from palisade.targets.release import Release

    own = network.get("_target_")
    release = Release.load(folder, network=import_object(own, setting=CLASS_SETTING) if own else None)
    classes = tuple(release.classes)
    if isinstance(release.guard, Aggregate):
        raise ValueError(
            f"release={folder}: expected one that answers about records, not about groups only; choose another"
        )
    labels_only = release.guard.level == "label"

    def ask(rows: Any) -> Shaped[np.ndarray, "records *classes"]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnknownWordsWarning)  # the notes say it
            if not labels_only:
                return release.predict_proba(rows)
            return np.array([classes.index(word) for word in release.predict(rows)])

    def notes(sides: Sequence[Any]) -> list[str]:
        unknown = [release.encode(rows)[1] for rows in sides]
        return [f"Records hold {words}." for words in dict.fromkeys(unknown) if words is not None]

    return AuditedModel(
        name=f"release {folder}",
        answers="predictions" if labels_only else "probabilities",
        ask=ask,
        inputs=release.preprocessing,
        classes=classes,
        takes_inputs=False,
        is_guarded=not isinstance(release.guard, NoGuard),
        top_k=release.guard.top_k,
        prepare=notes,
    )


def of_file(path: str, network: Mapping[str, Any], answers: Answers) -> AuditedModel:
    """A model in a file: weights of a class that the user names, or a whole program of `torch.export`.

    Safetensors hold numbers alone; the class is code that the user chose. A `.pt2` file is a program: reading one may
    run code that it holds, so it must be the user's own.

    Args:
        path: `.safetensors` or `.pt2`.
        network: `_target_` names the class, the rest are its settings; unused for `.pt2`.
        answers: what the model returns.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or does not fit the class.
    """
    file = place("model", path)
    if not file.is_file():
        raise FileNotFoundError(
            f"model={path}: expected a .safetensors or a .pt2 file, and none is there; correct the path"
        )
    if file.suffix == ".pt2":
        module, size, dtype = _exported(path, file)
    elif file.suffix == ".safetensors":
        module, size, dtype = _weighted(path, file, network), None, None
    else:
        raise ValueError(
            f"model={path}: expected a .safetensors or a .pt2 file; save the latter with torch.export.save"
        )

    def ask(rows: Any) -> Shaped[np.ndarray, "records *classes"]:
        return _answers(f"model={path}", module, numbers(rows), size, dtype)

    return AuditedModel(name=f"model {path}", answers=answers, ask=ask, inputs=numbers)


def _weighted(path: str, file: Path, network: Mapping[str, Any]) -> nn.Module:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not network.get("_target_"):
        raise ValueError(
            f"model={path}: expected a class for its weights; name it with network._target_=my_package.MyNet"
        )
    make = import_object(network["_target_"], setting=CLASS_SETTING)
    try:
        module = make(**{name: value for name, value in network.items() if name != "_target_"})
        module.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"model={path}: expected weights of {network['_target_']} ({reason}); name the class that was saved, with"
            " +network.<its settings>"
        ) from None
    return module.eval()


def _exported(path: str, file: Path) -> tuple[nn.Module, int | None, torch.dtype | None]:
    """The program, and the batch size and type that it was exported for; None: any batch size."""
    import torch

    logging.disable(logging.WARNING)  # torch reports a damaged file in a traceback of its own
    try:
        program = torch.export.load(file)
        (wanted,) = program.graph_signature.user_inputs
        (meta,) = [node.meta["val"] for node in program.graph.nodes if node.name == wanted]
    except Exception as error:  # whatever it stumbles over, the fault is the file's
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"model={path}: expected a program of one input ({reason}); save one with torch.export.save"
        ) from None
    finally:
        logging.disable(logging.NOTSET)
    size = meta.shape[0]
    return program.module(), size if isinstance(size, int) else None, meta.dtype


def _answers(
    name: str, module: nn.Module, rows: Shaped[np.ndarray, "records ..."], size: int | None, dtype: torch.dtype | None
) -> Shaped[np.ndarray, "records *classes"]:
    """The answers in batches; one that is too short for a fixed size is filled with copies of its last row."""
    import torch

    if dtype is None:
        dtype = torch.float32 if rows.dtype.kind == "f" else torch.int64
    inputs, step, outputs = torch.from_numpy(np.ascontiguousarray(rows)).to(dtype), size or BATCH_RECORDS, []
    try:
        with torch.inference_mode():
            for start in range(0, len(inputs), step):
                batch = inputs[start : start + step]
                missing = 0 if size is None else size - len(batch)
                outputs.append(module(torch.cat([batch, batch[-1:].expand(missing, *batch.shape[1:])]))[: len(batch)])
    except (RuntimeError, AssertionError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{name} cannot take features of shape {rows.shape}: {reason}; save them as it takes them"
        ) from None
    return torch.cat(outputs).float().numpy()
