"""Models as scikit-learn, XGBoost and LightGBM have them: objects with `predict_proba`, and functions of rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from palisade.data.settings import import_object
from palisade.evaluation.subjects.answer_forms import named_classes, renamed
from palisade.evaluation.subjects.audited_model import Answers, AuditedModel, numbers
from palisade.evaluation.subjects.raw_rows import form_of_rows, is_table

METHODS_BY_LEVEL = {"probabilities": "predict_proba", "logits": "decision_function", "predictions": "predict"}
"""The method that gives each level of answers, as scikit-learn names them."""
MAX_REASON_LETTERS = 300


def of_function(name: str, answers: Answers | None, classes: tuple[str, ...] | None) -> AuditedModel:
    """The model that a function of the user's returns.

    Args:
        name: dotted name of the function, which takes nothing.
        answers: what the model returns; None: probabilities.
        classes: the words of its classes in the order of its scores; None: those that it names itself.

    Raises:
        ValueError: if the function cannot be imported, raises an error, or returns no model.
    """
    setting = f"model={name}"
    load = import_object(name, setting="model")
    try:
        model = load()
    except Exception as error:  # whatever the user's code raises
        raise ValueError(
            f"{setting}: expected a function that returns a model ({_reason(error)}); let it load one"
        ) from error
    return of_estimator(setting, model, answers, classes)


def of_skops(path: str, file: Path, answers: Answers | None, classes: tuple[str, ...] | None) -> AuditedModel:
    """A model that skops saved, if it holds no types but those that skops trusts; none of its code runs.

    Args:
        path: as the user gave it, for errors.
        file: that is read.
        answers: what the model returns; None: probabilities.
        classes: the words of its classes in the order of its scores; None: those that it names itself.

    Raises:
        ValueError: if skops is not installed, the file cannot be read, or it holds other types.
    """
    setting = f"model={path}"
    try:
        from skops.io import get_untrusted_types, load
    except ImportError:
        raise ValueError(f"{setting}: expected skops to be installed; call pip install -e '.[skops]'") from None
    try:
        untrusted = get_untrusted_types(file=file)
        model = None if untrusted else load(file)
    except Exception as error:  # whatever it stumbles over, the fault is the file's
        raise ValueError(
            f"{setting}: expected a file that skops wrote ({_reason(error)}); save it by skops.io.dump"
        ) from None
    if untrusted:
        raise ValueError(
            f"{setting}: expected types that skops trusts, not {', '.join(sorted(untrusted)[:3])}; load it by a"
            " function of yours, model=my_module.load, or save its answers for audit=outputs"
        )
    return of_estimator(setting, model, answers, classes)


def of_estimator(setting: str, model: Any, answers: Answers | None, classes: tuple[str, ...] | None) -> AuditedModel:
    """A model that is asked about raw rows: an object with `predict_proba`, or a function of rows.

    Args:
        setting: that named it, such as `model=my_module.load`, for errors.
        model: the object or function; a table goes in as it is, or with the columns that `feature_names_in_` names.
        answers: what it returns; None: probabilities.
        classes: the words of its classes; None: those of its `classes_`. Both may be there if these are renamed.

    Raises:
        ValueError: if it is neither, lacks the method that `answers` asks for, or names other classes.
    """
    level = answers or "probabilities"
    method = _method(setting, model, level)
    own = getattr(model, "classes_", None)
    known = named_classes(f"{setting}: classes_", own if own is None else np.asarray(own))

    def ask(rows: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of names of columns and versions; errors are what counts
                return np.asarray(method(_as_fitted(setting, model, rows)))
        except Exception as error:
            if isinstance(error, ValueError) and str(error).startswith(setting):
                raise
            raise ValueError(
                f"{setting}: expected answers to {form_of_rows(rows)} ({_reason(error)}); save rows as the model takes"
                " them"
            ) from error

    return AuditedModel(
        name=setting.replace("=", " ", 1),
        answers=level,
        ask=ask,
        inputs=numbers,
        classes=renamed(setting, known, classes),
        takes_tables=True,
    )


def _method(setting: str, model: Any, level: str) -> Callable[[Any], Any]:
    if not any(hasattr(model, method) for method in METHODS_BY_LEVEL.values()):
        if callable(model) and not isinstance(model, type):
            return model
        raise ValueError(
            f"{setting}: expected an object with predict_proba, or a function of rows, not {type(model).__name__}; let"
            " it return one"
        )
    if callable(method := getattr(model, METHODS_BY_LEVEL[level], None)):
        return method
    others = [f"answers={other}" for other, name in METHODS_BY_LEVEL.items() if hasattr(model, name)]
    raise ValueError(
        f"{setting}: expected {METHODS_BY_LEVEL[level]} for answers={level}, and {type(model).__name__} has none; set"
        f" {' or '.join(others)}, or let my_module.load return a function of rows"
    )


def _as_fitted(setting: str, model: Any, rows: Any) -> Any:
    """A table with the columns on which a model was fitted, or their numbers alone if it knows no names of columns.

    It is a copy: the user's code may change it.
    """
    if not is_table(rows):
        return rows
    fitted = getattr(model, "feature_names_in_", None)
    if fitted is None:
        is_nameless = hasattr(model, "n_features_in_") and all(dtype.kind in "biuf" for dtype in rows.dtypes)
        return rows.to_numpy(copy=True) if is_nameless else rows.copy()
    absent = [str(name) for name in fitted if name not in rows]
    if len(absent) == len(fitted):  # names such as Column_0, of a model that was fitted on an array
        return rows.copy()
    if absent:
        raise ValueError(f"{setting}: column {absent[0]} is in no file, and the model was fitted on it; save it too")
    return rows[list(fitted)]


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:MAX_REASON_LETTERS]
