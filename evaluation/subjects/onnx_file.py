"""A model in an ONNX file, asked by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from palisade.evaluation.subjects.answer_forms import named_classes, renamed
from palisade.evaluation.subjects.audited_model import Answers, AuditedModel, numbers
from palisade.evaluation.subjects.raw_rows import form_of_rows, is_table

BATCH_RECORDS = 1024
INPUT_TYPES: dict[str, Any] = {
    **{"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16},
    **{f"tensor({name})": np.dtype(name).type for name in ("int64", "int32", "int16", "int8", "uint8", "bool")},
    "tensor(string)": object,
}
"""Types of inputs, by onnxruntime's names."""
SCORE_TYPES = ("tensor(float)", "tensor(double)", "tensor(float16)")


def of_onnx(path: str, file: Path, answers: Answers | None, classes: tuple[str, ...] | None) -> AuditedModel:
    """A model in an ONNX file. Reading it runs no code but onnxruntime's own.

    It has one input, or one for each column of a table. Scores are its one output, or of several the one that names
    probabilities, a tensor or a map from classes, as skl2onnx writes them beside the predicted class.

    Args:
        path: as the user gave it, for errors.
        file: that is read.
        answers: what scores are; None: probabilities if the output is called so, logits otherwise.
        classes: the words of its classes in the order of its scores; None: those of the map, if there is one.

    Raises:
        ValueError: if onnxruntime is not installed, the file is no such model, or nothing says which output to take.
    """
    setting = f"model={path}"
    try:
        import onnxruntime
    except ImportError:
        raise ValueError(f"{setting}: expected onnxruntime to be installed; call pip install -e '.[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # whatever it stumbles over, the fault is the file's
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{setting}: expected an ONNX model ({reason}); export it anew") from None
    for wanted in session.get_inputs():
        if wanted.type not in INPUT_TYPES:
            raise ValueError(f"{setting}: expected inputs of numbers or words, not {wanted.type}; export such a model")
    output = _output(setting, session.get_outputs(), answers)
    level = answers or ("probabilities" if _is_of_probabilities(output) else "logits")
    asking = OnnxModel(setting, session, output)
    return AuditedModel(
        name=f"model {path}",
        answers=level,
        ask=asking.ask,
        inputs=numbers,
        classes=renamed(setting, named_classes(f"{setting}: classes", asking.classes()), classes),
        takes_tables=len(session.get_inputs()) > 1,
        takes_inputs=True,
    )


def _is_of_probabilities(output: Any) -> bool:
    return "map(" in output.type or "prob" in output.name.lower()


def _output(setting: str, outputs: Sequence[Any], answers: Answers | None) -> Any:
    """The output that holds the answers."""
    if len(outputs) == 1:
        return outputs[0]
    if answers == "predictions":
        fitting = [output for output in outputs if output.type not in SCORE_TYPES and "map(" not in output.type]
    else:
        fitting = [output for output in outputs if output.type in SCORE_TYPES or "map(" in output.type]
        fitting = [output for output in fitting if _is_of_probabilities(output)] or fitting
    if len(fitting) != 1:
        there = ", ".join(f"{output.name} {output.type}" for output in outputs)
        raise ValueError(f"{setting}: expected one output of {answers or 'scores'} among {there}; export it alone")
    return fitting[0]


class OnnxModel:
    """A session of onnxruntime, asked in batches of the size that the model was exported for.

    Args:
        setting: that named the file, for errors.
        session: of onnxruntime.
        output: description of the output that holds the answers.
    """

    def __init__(self, setting: str, session: Any, output: Any) -> None:
        self.setting, self.session, self.output = setting, session, output
        size = session.get_inputs()[0].shape[:1]
        self.size = size[0] if size and isinstance(size[0], int) else None

    def ask(self, rows: Any) -> Shaped[np.ndarray, "records *classes"]:
        """Answers about rows.

        Raises:
            ValueError: if the model does not take them.
        """
        inputs, step, answers = self._inputs(rows), self.size or BATCH_RECORDS, []
        try:
            for start in range(0, len(rows), step):
                batch = {name: values[start : start + step] for name, values in inputs.items()}
                count = len(next(iter(batch.values())))
                if self.size is not None:  # what is missing is filled with copies of the last row
                    places = np.minimum(np.arange(self.size), count - 1)
                    batch = {name: values[places] for name, values in batch.items()}
                answers.append(self._run(batch)[:count])
        except Exception as error:
            raise ValueError(
                f"{self.setting}: expected answers to {form_of_rows(rows)} ({' '.join(str(error).split())[:200]}); save"
                " rows as the model takes them"
            ) from None
        return np.concatenate(answers)

    def classes(self) -> list[Any] | None:
        """The keys of the map that holds scores; None if there is no map, or blank inputs do not reach it."""
        if "map(" not in self.output.type:
            return None
        wanted = self.session.get_inputs()
        if not all(isinstance(length, int) for one in wanted for length in one.shape[1:]):
            return None
        blank = {one.name: _blank(INPUT_TYPES[one.type], (self.size or 1, *one.shape[1:])) for one in wanted}
        try:
            (answers,) = self.session.run([self.output.name], blank)
        except Exception:  # an encoder that knows no such word
            return None
        return list(answers[0])

    def _run(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        (answers,) = self.session.run([self.output.name], batch)
        if "map(" in self.output.type:
            return np.array([list(answer.values()) for answer in answers])
        return np.asarray(answers)

    def _inputs(self, rows: Any) -> dict[str, np.ndarray]:
        wanted = self.session.get_inputs()
        if len(wanted) == 1:
            return {wanted[0].name: numbers(rows).astype(INPUT_TYPES[wanted[0].type])}
        names = [one.name for one in wanted]
        if not is_table(rows):
            raise ValueError(
                f"{self.setting}: expected a table with columns {', '.join(names)}, one for each input; give .csv files"
            )
        if absent := [name for name in names if name not in rows]:
            raise ValueError(f"{self.setting}: column {absent[0]} is in no file, and is an input of it; save it too")
        return {one.name: _column(rows[one.name], INPUT_TYPES[one.type], len(one.shape)) for one in wanted}


def _blank(dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, "" if dtype is object else 0, dtype=dtype)


def _column(values: Any, dtype: Any, dimensions: int) -> np.ndarray:
    column = values.fillna("").astype(str).to_numpy(dtype=object) if dtype is object else values.to_numpy(dtype=dtype)
    return column[:, None] if dimensions > 1 else column
