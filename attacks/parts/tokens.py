"""Answers of language models: the probability of every token of every audited text, and what goes with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from palisade.attacks.parts.answers import Places
from palisade.attacks.parts.blocks import blocks
from palisade.attacks.parts.signals import token_rows

TokenPart = Literal["log_probabilities", "moments", "greedy", "bytes", "neighbors", "blocked"]
"""Parts that an attack declares: log p, its mean and variance, the most likely token, lengths, copies, refusals."""
MAX_LOG_PROBABILITY = 1e-5
"""How far a log-probability in float32 may lie above 0 by rounding."""
BY_TOKEN = ("log_probabilities", "means", "variances", "greedy")
BASE_BY_TOKEN = tuple(f"base_{name}" for name in BY_TOKEN)
FIELDS_OF_PARTS: dict[TokenPart, tuple[str, ...]] = {
    "log_probabilities": ("log_probabilities",),
    "moments": ("means", "variances"),
    "greedy": ("greedy",),
    "bytes": ("zlib_bytes",),
    "neighbors": ("neighbor_losses",),
    "blocked": ("blocked",),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenAnswers:
    """Per-token answers of a fleet of language models, in nats, under one teacher-forced pass over each text.

    A text is its tokens x_1..x_T after the beginning mark; what is padded counts nowhere. What a serving program does
    not return, such as the moments, may be left out: attacks that need it are skipped.

    Args:
        log_probabilities: ℓ_t = log p(x_t | x_<t), at most 0.
        means: μ_t = Σ_v p_v log p_v over the vocabulary, at most 0: the negative entropy.
        variances: σ_t² = Σ_v p_v log² p_v − μ_t², at least 0.
        greedy: the most likely token is x_t.
        mask: where a text has a token; from the first position on, without gaps, at least one.
        base_log_probabilities: ℓ_t under the public model that training began with.
        base_means: likewise.
        base_variances: likewise.
        base_greedy: likewise.
        zlib_bytes: length of each text after zlib, in bytes.
        blocked: a guard refuses x_t after x_<t; ℓ_t is then what it was without, or 0 where nobody sees that.
        neighbor_losses: mean −ℓ_t of edited copies of each text, in nats a token.

    Raises:
        ValueError: if shapes disagree, or a number on a real token is out of range, NaN or infinite.
    """

    log_probabilities: Float[np.ndarray, "models records tokens"]
    mask: Bool[np.ndarray, "records tokens"]
    means: Float[np.ndarray, "models records tokens"] | None = None
    variances: Float[np.ndarray, "models records tokens"] | None = None
    greedy: Bool[np.ndarray, "models records tokens"] | None = None
    base_log_probabilities: Float[np.ndarray, "records tokens"] | None = None
    base_means: Float[np.ndarray, "records tokens"] | None = None
    base_variances: Float[np.ndarray, "records tokens"] | None = None
    base_greedy: Bool[np.ndarray, "records tokens"] | None = None
    zlib_bytes: Int[np.ndarray, "records"] | None = None
    blocked: Bool[np.ndarray, "models records tokens"] | None = None
    neighbor_losses: Float[np.ndarray, "models records copies"] | None = None

    def __post_init__(self) -> None:
        shape = self.log_probabilities.shape
        if len(shape) != 3 or 0 in shape:
            raise ValueError(
                f"tokens.log_probabilities.shape={shape}: expected (models, records, tokens), none of them 0; pass one"
                " number per model, record and position"
            )
        expected = {
            **dict.fromkeys((*BY_TOKEN, "blocked"), shape),
            **dict.fromkeys(("mask", *BASE_BY_TOKEN), shape[1:]),
            "zlib_bytes": shape[1:2],
            "neighbor_losses": shape[:2],
        }
        for name, wanted in expected.items():
            array = getattr(self, name)
            own = None if array is None else array.shape[:2] if name == "neighbor_losses" else array.shape
            if own not in (None, wanted):
                raise ValueError(
                    f"tokens.{name}.shape={own}: expected {wanted}, as in log_probabilities; pass that shape"
                )
        if not self.mask[:, 0].all() or (self.mask[:, 1:] > self.mask[:, :-1]).any():
            raise ValueError(
                "tokens.mask: expected every text's tokens from the first position on, without gaps; pad at the end"
                " and leave empty texts out"
            )
        self._check_values()

    @property
    def models(self) -> int:
        """Number of models that answered."""
        return len(self.log_probabilities)

    @property
    def records(self) -> int:
        """Number of texts."""
        return len(self.mask)

    @cached_property
    def lengths(self) -> Int[np.ndarray, "records"]:
        """Tokens of each text."""
        return np.asarray(self.mask.sum(axis=1))

    @property
    def refuses(self) -> bool:
        """True where a guard refuses some text's own token."""
        return self.blocked is not None and bool(self.blocked.any())

    def mean(self, values: Float[np.ndarray, "... records tokens"]) -> Float[np.ndarray, "... records"]:
        """Mean over each text's own tokens, in float64.

        Args:
            values: of all records.
        """
        sums = np.sum(values, axis=-1, where=self.mask, dtype=np.float64)
        means: np.ndarray = sums / self.lengths
        return means

    def blocks(self) -> Iterator[slice]:
        """Slices of the records, so narrow that one number of all their tokens fits into little memory."""
        return blocks(self.models * self.mask.shape[1], self.records)

    def about(self, places: Places) -> TokenAnswers:
        """Part of the texts, by a mask, indices or a slice."""
        return self._cut(lambda name, array: array[:, places] if _of_models(name) else array[places])

    def beside(self, others: TokenAnswers) -> TokenAnswers:
        """Answers of these models and then those of others about the same texts; the base is that of these.

        Fields that either lacks are left out.
        """
        pairs = {name: (getattr(self, name), getattr(others, name)) for name in _names(self) if _of_models(name)}
        parts: dict[str, Any] = {
            name: np.concatenate(pair) if all(array is not None for array in pair) else None
            for name, pair in pairs.items()
        }
        return replace(self, **parts)

    def followed_by(self, others: TokenAnswers) -> TokenAnswers:
        """Answers about these texts and then those about others, by the same models; the shorter are padded.

        Fields that either lacks are left out.
        """
        longest = max(self.mask.shape[1], others.mask.shape[1])

        def joined(name: str) -> Any:
            pair: tuple[Any, ...] = getattr(self, name), getattr(others, name)
            if any(array is None for array in pair):
                return None
            if name not in ("zlib_bytes", "neighbor_losses"):
                missing = (longest - array.shape[-1] for array in pair)
                pair = tuple(
                    np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, count)])
                    for array, count in zip(pair, missing, strict=True)
                )
            return np.concatenate(pair, axis=1 if _of_models(name) else 0)

        return TokenAnswers(**{name: joined(name) for name in _names(self)})

    def declared(self, parts: tuple[TokenPart, ...], base: bool) -> TokenAnswers:
        """Answers as an attack may see them.

        Args:
            parts: that it declared; log p and the mask always come along.
            base: whether those under the base are among them.
        """
        allowed = {"mask", "log_probabilities", *(name for part in parts for name in FIELDS_OF_PARTS[part])}
        if base:
            allowed |= {f"base_{name}" for name in allowed}
        return self._cut(lambda name, array: array if name in allowed else None)

    def lacking(self, parts: tuple[TokenPart, ...], base: bool) -> str | None:
        """The first field that is not there of those which parts need; None if all are."""
        names = [name for part in parts for name in FIELDS_OF_PARTS[part]]
        if base:
            names.append("base_log_probabilities")
        return next((name for name in names if getattr(self, name) is None), None)

    def rows(self) -> Shaped[np.ndarray, "models records"]:
        """Ordinary signals of each text (`signals.token_rows`), so that attacks on classifiers run as they are."""
        return token_rows(self.mean(self.log_probabilities))

    def __len__(self) -> int:
        return self.models

    def __getitem__(self, models: slice) -> TokenAnswers:
        """Some of the models."""
        return self._cut(lambda name, array: array[models] if _of_models(name) else array)

    def _cut(self, change: Any) -> TokenAnswers:
        """Answers whose fields follow from checked ones: nothing is read to be checked again."""
        cut = object.__new__(TokenAnswers)
        for name in _names(self):
            array = getattr(self, name)
            object.__setattr__(cut, name, None if array is None else change(name, array))
        return cut

    def _check_values(self) -> None:
        limits = {
            "log_probabilities": (-np.inf, MAX_LOG_PROBABILITY),
            "means": (-np.inf, MAX_LOG_PROBABILITY),
            "variances": (-MAX_LOG_PROBABILITY, np.inf),
        }
        for name in (*BY_TOKEN, *BASE_BY_TOKEN):
            if (array := getattr(self, name)) is None or array.dtype == np.bool_:
                continue
            least, most = limits[name.removeprefix("base_")]
            for block in self.blocks():
                own = array[..., block, :][..., self.mask[block]]
                if not np.isfinite(own).all() or own.min() < least or own.max() > most:
                    raise ValueError(
                        f"tokens.{name}: expected finite numbers in [{least:g}, {most:g}] on every token; pass natural"
                        " logarithms, and leave out models that diverged"
                    )
        if self.zlib_bytes is not None and self.zlib_bytes.min() < 1:
            raise ValueError("tokens.zlib_bytes: expected at least 1 for each text; pass len(zlib.compress(text))")
        if (copies := self.neighbor_losses) is not None and not (copies.ndim == 3 and np.isfinite(copies).all()):
            raise ValueError(
                "tokens.neighbor_losses: expected finite numbers (models, records, copies); leave out models that"
                " diverged"
            )


def _names(tokens: TokenAnswers) -> list[str]:
    return [field.name for field in fields(tokens)]


def _of_models(name: str) -> bool:
    return name in (*BY_TOKEN, "blocked", "neighbor_losses")
