"""A model from a file, or a release."""

from __future__ import annotations

import logging
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Shaped

from palisade.data.columns import Columns, UnknownWordsWarning, unknown_words_line
from palisade.data.preprocessing import Scale
from palisade.data.sequences import Sequences
from palisade.data.settings import import_object, place
from palisade.evaluation.subjects.audited_model import Answers, AuditedModel, numbers
from palisade.evaluation.subjects.estimator import of_function, of_skops
from palisade.evaluation.subjects.onnx_file import of_onnx
from palisade.targets.device import chosen
from palisade.targets.guards import Aggregate, NoGuard

if TYPE_CHECKING:
    import torch
    from torch import nn


BATCH_RECORDS = 256
CLASS_SETTING = "network._target_"
MODEL_ENDINGS = (".safetensors", ".pt2", ".onnx", ".skops")
PICKLE_ENDINGS = (".pkl", ".pickle", ".joblib", ".sav", ".dill", ".cloudpickle", ".pt", ".pth", ".ckpt", ".bin")
FILE_OR_FUNCTION = "expected a .safetensors, .pt2, .onnx or .skops file, or the dotted name of a function"


def of_release(folder: str, network: Mapping[str, Any]) -> AuditedModel:
    """A release of this project behind its guard, asked about raw rows. Loading it runs no code of its files.

    Args:
        folder: of the release.
        network: `_target_` names the class of an own network.

    Raises:
        ValueError: if the release answers about groups only, or its network is unknown.
    """
    from palisade.targets.release import Release

    own = network.get("_target_")
    release = Release.load(folder, network=import_object(own, setting=CLASS_SETTING) if own else None)
    classes = tuple(release.classes)
    if isinstance(release.preprocessing, Sequences):
        raise ValueError(f"text: not given, expected with release={folder}, a language model; add text=<column>")
    if isinstance(release.guard, Aggregate):
        raise ValueError(
            f"release={folder}: expected one that answers about records, not about groups only; choose another"
        )
    labels_only = release.guard.level == "label"
    of_arrays = isinstance(release.preprocessing, Scale)

    def ask(rows: Any) -> Shaped[np.ndarray, "records *classes"]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnknownWordsWarning)  # the notes say it
            if not labels_only:
                return release.predict_proba(rows)
            return np.asarray(release.predict(rows))

    def notes(sides: Sequence[Any]) -> list[str]:
        if not isinstance(release.preprocessing, Columns):
            return []
        unknown: dict[str, Counter[str]] = {}
        for rows in sides:
            for column, words in release.preprocessing.encode(rows).unknown.items():
                unknown.setdefault(column, Counter()).update(words)
        line = unknown_words_line(unknown)
        return [] if line is None else [f"Records hold {line}."]

    return AuditedModel(
        name=f"release {folder}",
        answers="predictions" if labels_only else "probabilities",
        ask=ask,
        inputs=numbers if of_arrays else release.preprocessing,
        classes=classes,
        takes_inputs=of_arrays,
        is_guarded=not isinstance(release.guard, NoGuard),
        top_k=release.guard.top_k,
        prepare=notes,
    )


def of_file(
    path: str,
    network: Mapping[str, Any],
    answers: Answers | None,
    classes: tuple[str, ...] | None = None,
) -> AuditedModel:
    """A model in a file, or what a function of the user's returns.

    Safetensors hold numbers alone; the class is code that the user chose. A `.pt2` file is a program: reading one may
    run code that it holds, so it must be the user's own. An `.onnx` file is a program of onnxruntime's operations
    alone, and a `.skops` file may hold no type but those that skops trusts. Pickles are refused.

    Args:
        path: `.safetensors`, `.pt2`, `.onnx` or `.skops`; or the dotted name of a function.
        network: `_target_` names the class of `.safetensors`, the rest are its settings; unused for others.
        answers: what the model returns; None: logits of a network, probabilities of what has `predict_proba`.
        classes: the words of its classes in the order of its scores; None: those that it names itself, if any.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or does not fit the class.
    """
    file = place("model", path)
    if {*PICKLE_ENDINGS} & {ending.lower() for ending in file.suffixes}:
        raise ValueError(
            f"model={path}: expected no pickle, as reading one runs code that it holds; name a function that loads it"
            " (model=my_module.load), save it by skops.io.dump as .skops, or save its answers for audit=outputs"
        )
    if file.suffix not in MODEL_ENDINGS:
        if file.exists() or not all(part.isidentifier() for part in re.split("[.:]", path)) or file.suffix == "":
            raise ValueError(f"model={path}: {FILE_OR_FUNCTION}; give such as model=my_module.load")
        return of_function(path, answers, classes)
    if not file.is_file():
        raise FileNotFoundError(f"model={path}: {FILE_OR_FUNCTION}, and no such file is there; correct the path")
    if file.suffix == ".onnx":
        return of_onnx(path, file, answers, classes)
    if file.suffix == ".skops":
        return of_skops(path, file, answers, classes)
    return _of_torch(path, file, network, answers or "logits", classes)


def _of_torch(
    path: str, file: Path, network: Mapping[str, Any], level: Answers, classes: tuple[str, ...] | None
) -> AuditedModel:
    import torch

    if file.suffix == ".pt2":  # its program may name the device that it was exported on
        (module, size, dtype), device = _exported(path, file), torch.device("cpu")
    else:
        device = chosen()
        module, size, dtype = _weighted(path, file, network).to(device), None, None

    def ask(rows: Any) -> Shaped[np.ndarray, "records *classes"]:
        return _answers(f"model={path}", module, numbers(rows), size, dtype, device)

    return AuditedModel(name=f"model {path}", answers=level, ask=ask, inputs=numbers, classes=classes)


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
    name: str,
    module: nn.Module,
    rows: Shaped[np.ndarray, "records ..."],
    size: int | None,
    dtype: torch.dtype | None,
    device: torch.device,
) -> Shaped[np.ndarray, "records *classes"]:
    """The answers in batches; one that is too short for a fixed size is filled with copies of its last row."""
    import torch

    if dtype is None:
        dtype = torch.float32 if rows.dtype.kind == "f" else torch.int64
    inputs, step, outputs = torch.from_numpy(np.ascontiguousarray(rows)).to(dtype), size or BATCH_RECORDS, []
    try:
        with torch.inference_mode():
            for start in range(0, len(inputs), step):
                batch = inputs[start : start + step].to(device)
                missing = 0 if size is None else size - len(batch)
                outputs.append(module(torch.cat([batch, batch[-1:].expand(missing, *batch.shape[1:])]))[: len(batch)])
    except (RuntimeError, AssertionError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{name} cannot take features of shape {rows.shape}: {reason}; save them as it takes them"
        ) from None
    return torch.cat(outputs).float().cpu().numpy()
