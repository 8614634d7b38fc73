"""Texts of an audit: per-token answers in one form, and what tells texts apart without a model."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from palisade.attacks import TokenAnswers
from palisade.data.sequences import LEAST_LOGPROB
from palisade.evaluation.signals.grant import Grant

MOMENT_FIELDS = ("token_means", "token_variances")
"""Mean and variance of log p over the vocabulary at every token, as arrays are called."""
WORD_COLUMNS = 2**9
"""Numbers that count the words and pairs of words of a text, several of them sharing one."""


def tokens_of(name: str, arrays: Mapping[str, np.ndarray], texts: Shaped[np.ndarray, "records"] | None) -> TokenAnswers:
    """Per-token answers of one model, as inference servers return them.

    A first token without a value, which nothing precedes, is left out of every text; NaN at the end is padding. What a
    filter refuses, which services write as −9999, is what it knows from training: it counts as foretold for certain.

    Args:
        name: of the file or the endpoint, for errors.
        arrays: `token_logprobs` (records, tokens) in nats, and `base_logprobs`, `token_greedy`, and the mean and the
            variance of log p over the vocabulary, `token_means` and `token_variances`, of the same shape.
        texts: the texts themselves, for their packed length; None: unknown.

    Raises:
        ValueError: if shapes disagree, a text has no token, or a number is no log-probability.
    """
    log_p = arrays["token_logprobs"]
    if log_p.ndim != 2 or log_p.dtype.kind != "f":
        raise ValueError(
            f"{name}: token_logprobs are {log_p.dtype} of shape {log_p.shape}; save floats (records, tokens), NaN where"
            " a text has no token"
        )
    for key, array in arrays.items():
        if array.shape != log_p.shape:
            raise ValueError(f"{name}: {key} have shape {array.shape}; save {log_p.shape}, as token_logprobs have")
    start = int(log_p.shape[1] > 1 and bool(np.isnan(log_p[:, 0]).all()))
    log_p = log_p[:, start:]
    mask = ~np.isnan(log_p)
    refused = mask & (log_p <= LEAST_LOGPROB)
    base = arrays.get("base_logprobs")
    if base is not None and not np.array_equal(np.isnan(base[:, start:]), ~mask):
        raise ValueError(
            f"{name}: base_logprobs have values at other places than token_logprobs; save those of a base that cuts"
            " texts into the same tokens"
        )
    greedy = arrays.get("token_greedy")
    moments = {
        name.removeprefix("token_"): np.where(mask, arrays[name][:, start:], 0.0)[None]
        for name in MOMENT_FIELDS
        if name in arrays
    }
    packed = None if texts is None else np.array([len(zlib.compress(str(text).encode())) for text in texts])
    try:
        return TokenAnswers(
            log_probabilities=np.where(mask & ~refused, log_p, 0.0)[None],
            mask=mask,
            blocked=refused[None],
            greedy=None if greedy is None else greedy[None, :, start:].astype(bool),
            base_log_probabilities=None if base is None else np.where(mask, base[:, start:], 0.0),
            zlib_bytes=packed,
            **moments,
        )
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def released(tokens: TokenAnswers, grant: Grant, prefix: str) -> dict[str, Any]:
    """Per-token answers and the signals of texts that follow from them, as fields of a view.

    Args:
        tokens: of one model.
        grant: what attackers see.
        prefix: of the names of the fields.

    Raises:
        ValueError: if less than probabilities is granted, or they are cut.
    """
    for name, value, granted in (
        ("outputs", grant.outputs, grant.outputs != "label"), ("decimals", grant.decimals, grant.decimals is None),
        ("top_k", grant.top_k, grant.top_k is None),
    ):  # fmt: skip
        if not granted:
            raise ValueError(
                f"threat.{name}={value}: expected the probabilities of tokens, uncut, of a language model; leave it out"
            )
    if not tokens.refuses:  # nothing says that a filter stands before it
        tokens = replace(tokens, blocked=None)
    return {f"{prefix}signals": tokens.rows(), f"{prefix}tokens": tokens}


def arrays_of(answers: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Answers about single texts, lists by name, as arrays padded with NaN.

    Args:
        answers: of each text `token_logprobs`, and perhaps `base_logprobs` and `token_greedy`.
    """
    longest = max(len(answer["token_logprobs"]) for answer in answers)
    arrays: dict[str, np.ndarray] = {}
    for key in answers[0]:
        padded = np.full((len(answers), longest), np.nan)
        for row, answer in zip(padded, answers, strict=True):
            row[: len(answer[key])] = answer[key]
        arrays[key] = np.nan_to_num(padded).astype(bool) if key == "token_greedy" else padded
    return arrays


def word_counts(texts: Shaped[np.ndarray, "records"]) -> Float32[np.ndarray, "records columns"]:
    """Hashed counts of words and pairs of words, and the length: what a classifier sees that never asks the model."""
    from sklearn.feature_extraction.text import HashingVectorizer

    counted = HashingVectorizer(n_features=WORD_COLUMNS, ngram_range=(1, 2), alternate_sign=False, norm="l2")
    words = counted.transform([str(text) for text in texts]).toarray()
    lengths = np.log1p([len(str(text)) for text in texts])
    return np.column_stack([words, lengths]).astype(np.float32)
