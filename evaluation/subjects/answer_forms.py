"""Forms of answers and labels: what means one thing only becomes scores of each class, and classes by number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from palisade.data.cells import TRUTH_VALUES, key_of
from palisade.data.labels import numbered
from palisade.data.settings import MAX_INT64
from palisade.fields import as_written

MIN_CLASSES = 2
ROUNDED_TO_ZERO = 1e-5
"""Probabilities below zero by less are zero."""
TRUTH_NUMBERS = {word: str(int(number)) for word, number in TRUTH_VALUES.items()}
"""The class that true and false are, where classes are 0 and 1."""


def named_classes(setting: str, classes: Any) -> tuple[str, ...] | None:
    """The words of classes, by number.

    Args:
        setting: that names them, such as `classes`, for errors.
        classes: a list or an array of words, numbers or truth values; None: nothing names them.

    Raises:
        ValueError: if they are something else, fewer than two, or two of them are alike.
    """
    if classes is None:
        return None
    listed = classes.tolist() if isinstance(classes, np.ndarray) else classes
    if isinstance(listed, list | tuple) and all(isinstance(word, str | bool | int | float) for word in listed):
        words = tuple(str(word).strip() for word in listed)
        if len(words) >= MIN_CLASSES and len({_key(word) for word in words}) == len(words):
            return words
    raise ValueError(
        f"{setting}={as_written(listed)}: expected at least 2 classes, each once, in the order of the scores; give such"
        " as classes=[no,yes]"
    )


def renamed(setting: str, own: tuple[str, ...] | None, named: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The classes that `classes=[…]` names, if the model's own have other names; the model's own without.

    Args:
        setting: that named the model, for errors.
        own: the classes that the model names, if any.
        named: those of the setting.

    Raises:
        ValueError: if some are the same: then these would be in two orders.
    """
    if own is None or named is None or own == named:
        return named or own
    if len(own) != len(named) or {*own} & {*named}:
        raise ValueError(
            f"classes={as_written(list(named))}: expected null, as {setting} names {', '.join(own)}; leave it out, or"
            " rename all of them"
        )
    return named


def class_scores(
    name: str, level: str, answers: Any, classes: Sequence[str] | None
) -> Shaped[np.ndarray, "n *classes"]:
    """Answers of any model in one form: (n, classes) scores, or (n,) classes by number.

    One probability a record, of shape (n,) or (n, 1), is that of the second of two classes, as a sigmoid gives it; one
    logit is its log-odds. Predicted classes may be whatever labels may be.

    Args:
        name: of the file or the model, for errors.
        level: `logits`, `probabilities` or `predictions`.
        answers: what was saved, or what the model returned.
        classes: the words of the classes, in the order of scores; None where nothing names them.

    Raises:
        ValueError: if they can mean nothing, or more than one thing.
    """
    named = f"{name}: {level}"
    try:
        array = np.asarray(answers)
    except Exception:  # ragged lists; what a user's object raises on its way to an array
        raise ValueError(f"{named} are no array; save (records, classes) numbers") from None
    if level == "predictions":
        return class_numbers(name, array, classes, "predictions")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    kinds = "f" if array.ndim == 1 else "fiu"
    if array.ndim not in (1, 2) or array.dtype.kind not in kinds:
        instead = ", or save predicted classes as predictions" if array.ndim == 1 or array.dtype.kind == "b" else ""
        raise ValueError(f"{named} are {array.dtype} of shape {array.shape}; save (records, classes) numbers{instead}")
    if array.ndim == 2 and array.shape[1] < MIN_CLASSES:
        raise ValueError(f"{named} have shape {array.shape}; a classifier has at least 2 classes, score each")
    if level == "probabilities" and array.dtype.kind == "f":  # in float64, as JSON has them: alike in ties
        array = np.where((array < 0) & (array > -ROUNDED_TO_ZERO), 0, array).astype(np.float64)
    if array.ndim == 1:
        array = _of_two_classes(named, level, array)
    if classes is not None and array.shape[1] != len(classes):
        raise ValueError(
            f"{named} are of {array.shape[1]} classes, and {len(classes)} are named ({', '.join(classes)}); give a"
            " score for each of them"
        )
    return array


def _of_two_classes(named: str, level: str, second: Shaped[np.ndarray, "n"]) -> Shaped[np.ndarray, "n 2"]:
    if level == "logits":
        return np.stack([np.zeros_like(second), second], axis=1)
    if len(second) and (second.min() < 0 or second.max() > 1):
        raise ValueError(f"{named} span {second.min():g}..{second.max():g}; they lie in 0..1, or save them as logits")
    return np.stack([1 - second, second], axis=1)


def is_of_second_class(level: str, answers: Shaped[np.ndarray, "n ..."]) -> bool:
    """True where scores are one number a record, that of the second of two classes."""
    return level != "predictions" and (answers.ndim == 1 or answers.shape[1] == 1)


def plain_labels(name: str, labels: np.ndarray, noun: str = "labels") -> Shaped[np.ndarray, "n *classes"]:
    """Labels as (n,) integers, truth values or words; one-hot ones stay (n, classes).

    Args:
        name: of the file, for errors.
        labels: whole numbers of any type, truth values, words, or one of them a record in a column; one-hot.
        noun: what they are.

    Raises:
        ValueError: if they are something else, such as numbers with a fraction, or two hot ones in a row.
    """
    plain = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if plain.dtype.kind == "f" and np.isfinite(plain).all() and (plain == np.round(plain)).all():
        plain = plain.astype(np.int64) if (np.abs(plain) < MAX_INT64).all() else plain
    if plain.dtype.kind == "O" and all(isinstance(label, str) for label in plain.ravel()):
        plain = plain.astype(str)
    is_one_hot = plain.ndim == 2 and plain.dtype.kind in "biu" and ((plain == 0) | (plain == 1)).all()
    if is_one_hot and (plain.sum(axis=1) == 1).all():
        return plain.astype(np.int64)
    if plain.ndim != 1 or plain.dtype.kind not in "biuU":
        form = "one whole number, truth value or word for each record, or one-hot"
        if noun == "predictions":
            form = "(records,) whole numbers, or scores as probabilities or logits"
        raise ValueError(f"{name}: {noun} are {labels.dtype} of shape {labels.shape}; save {form}")
    if plain.dtype.kind == "u":
        if len(plain) and plain.max() > MAX_INT64:
            raise ValueError(f"{name}: label {plain.max()} is no class; number the classes from 0")
        plain = plain.astype(np.int64)
    return plain


def class_numbers(
    name: str, labels: np.ndarray, classes: Sequence[str] | None, noun: str = "labels"
) -> Int64[np.ndarray, "n"]:
    """Labels as numbers of classes from 0.

    Where classes are named, labels are these names, be they spelled as 1, 1.0 or "1"; true and false are 1 and 0. If
    the names are words, whole numbers number them from 0. Where nothing names them, labels are the numbers themselves.

    Args:
        name: of the file or the model, for errors.
        labels: in any form that `plain_labels` takes.
        classes: the words of the classes, by number; None where nothing names them.
        noun: what they are.

    Raises:
        ValueError: if a label is neither a class nor a number of one.
    """
    plain = plain_labels(name, labels, noun)
    if plain.ndim == 2:
        if classes is not None and plain.shape[1] != len(classes):
            raise ValueError(
                f"{name}: one-hot {noun} of {plain.shape[1]} classes, and {len(classes)} are named; save one a class"
            )
        return plain.argmax(axis=1).astype(np.int64)
    if classes is None:
        return _numbers(name, plain)
    words, classes = _alike(plain.astype(str), classes)
    if plain.dtype.kind == "i" and not any(isinstance(key_of(word), int | float) for word in classes):
        if len(plain) and (plain.min() < 0 or plain.max() >= len(classes)):
            raise ValueError(
                f"{name}: labels={plain.min()}..{plain.max()}; they must be from 0 on and at most {len(classes) - 1},"
                f" numbers of {', '.join(classes)}, or these words"
            )
        return plain.astype(np.int64)
    return numbered(name, words, classes)


def _numbers(name: str, plain: Shaped[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    if plain.dtype.kind in "bi":
        return plain.astype(np.int64)
    numbers = [key_of(TRUTH_NUMBERS.get(label.lower(), label)) for label in plain.tolist()]
    if not all(isinstance(number, int) and 0 <= number <= MAX_INT64 for number in numbers):
        raise ValueError(
            f"{name}: labels are words, and nothing says in which order; number them from 0, or name it, such as"
            " classes=[no,yes]"
        )
    return np.array(numbers, dtype=np.int64)


def _alike(words: Shaped[np.ndarray, "n"], classes: Sequence[str]) -> tuple[Shaped[np.ndarray, "n"], Sequence[str]]:
    """Labels and classes, with true and false as 1 and 0 where one of them has the words and the other the numbers."""
    distinct, places = np.unique(words, return_inverse=True)
    sides = ({_key(word) for word in distinct.tolist()}, {_key(word) for word in classes})
    truth, numbers = set(TRUTH_NUMBERS), {0, 1}
    if (sides[0] <= truth and sides[1] == numbers) or (sides[0] <= numbers and sides[1] == truth):
        as_numbers = np.array([TRUTH_NUMBERS.get(word.lower(), word) for word in distinct.tolist()], dtype=str)
        return as_numbers[places], [TRUTH_NUMBERS.get(word.lower(), word) for word in classes]
    return words, classes


def _key(word: str) -> Any:
    return word if (key := key_of(word)) is None else key
