"""Extraction of a fleet's texts: how many come out word by word, of members and of others beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from palisade.attacks import TokenAnswers
from palisade.evaluation.measuring.leakage import numbers
from palisade.evaluation.result import MEMBER_GROUP, NONMEMBER_GROUP, Row
from palisade.evaluation.statistics.bootstrap import Bootstrap, fleet_mean
from palisade.evaluation.statistics.extraction import (
    Span,
    extractable,
    extracted_greedily,
    sufficient_prefix,
    suffix_log_probability,
)
from palisade.fields import CheckedFields, Count, Fraction
from palisade.sampling import SamplingLaw

EXTRACTED_GREEDY, EXTRACTED_SAMPLED = "extracted_greedy", "extracted_n_p"
SECRET_EXPOSURE, SECRET_EXTRACTED, SECRET_LIMIT = "secret_exposure", "secret_extracted", "secret_exposure_limit"
REFUSED_TEXTS, REFUSED_TOKENS = "texts_refused", "tokens_refused"
"""Names of metrics: share of texts of which a guard refuses a token, and of their tokens."""
EXPOSED_SUFFIX = 10
"""Tokens that must follow for a text to count as one that comes out."""
SamplingAnswers = Mapping[SamplingLaw, Float[np.ndarray, "models records tokens"]]
"""log q of every token under sampling schemes, as `SamplingLaw.log_probabilities` gives it; −inf where never drawn."""


@dataclass(frozen=True, kw_only=True)
class Extraction(CheckedFields):
    """Questions to a fleet of language models: after which prefixes, which suffixes, in how many tries.

    Args:
        prefixes: tokens that are given.
        suffixes: tokens that must follow.
        tries: n of (n, p): samples that are drawn.
        probability: p of (n, p), in (0, 1): that one of them is the suffix.
        schemes: sampling laws.

    Raises:
        ValueError: if a setting is out of range.
    """

    prefixes: tuple[Count, ...] = (4, 8, 16)
    suffixes: tuple[Count, ...] = (10,)
    tries: tuple[Count, ...] = (1, 100)
    probability: Fraction = 0.5
    schemes: tuple[SamplingLaw, ...] = (SamplingLaw(),)

    @property
    def spans(self) -> tuple[Span, ...]:
        """Every prefix with every suffix."""
        return tuple(Span(prefix=prefix, suffix=suffix) for suffix in self.suffixes for prefix in self.prefixes)

    def rows(
        self, tokens: TokenAnswers, sampled: SamplingAnswers, membership: Bool[np.ndarray, "models records"],
        bootstrap: Bootstrap,
    ) -> Iterator[Row]:  # fmt: skip
        """Share of members and of non-members that are extracted, for every span; intervals draw persons whole.

        Non-members stand beside members always: what a model completes that never saw the text is no memorization. A
        span that no text is long enough for has no row.

        Where a guard refuses a text's own token, nothing beyond it comes out.

        Args:
            tokens: answers; greedy extraction needs to know whether the most likely token is the text's.
            sampled: log q of the `schemes`; those that are not there are left out. `SamplingLaw()` is ℓ itself.
            membership: which model was trained on which record.
            bootstrap: how to resample.
        """
        sampled = {SamplingLaw(): tokens.log_probabilities, **sampled}
        if tokens.blocked is not None:
            sampled = {law: np.where(tokens.blocked, -np.inf, log_q) for law, log_q in sampled.items()}
        for span in self.spans:
            if not span.fits(tokens.mask).any():
                continue
            if tokens.greedy is not None:
                values = extracted_greedily(let_through(tokens), tokens.mask, span)
                yield from of_sides(f"{EXTRACTED_GREEDY}@{span.name}", values, membership, bootstrap)
            for scheme in (scheme for scheme in self.schemes if scheme in sampled):
                log_p = suffix_log_probability(sampled[scheme], tokens.mask, span)
                for tries in self.tries:
                    name = f"{EXTRACTED_SAMPLED}@{span.name},n={tries},p={self.probability:g},{scheme.name}"
                    values = extractable(log_p, tries, self.probability)
                    yield from of_sides(name, values, membership, bootstrap)


def exposure_rows(
    exposure: Float[np.ndarray, "models secrets"],
    membership: Bool[np.ndarray, "models secrets"],
    copies: Int[np.ndarray, "secrets"],
    bootstrap: Bootstrap,
) -> Iterator[Row]:
    """Mean exposure in bits of secrets that models were trained on, IN beside OUT, for each number of copies.

    Args:
        exposure: of each secret in each model, as `secret_exposure.exposure_of_secrets` gives it.
        membership: which model was trained on which secret.
        copies: how often each secret stands in a training set that holds it.
        bootstrap: how to resample.
    """
    for count in np.unique(copies):
        own = np.where(copies == count, exposure, np.nan)
        yield from of_sides(f"{SECRET_EXPOSURE}@{count} copies", own, membership, bootstrap)


def shortest_prefixes(
    tokens: TokenAnswers, membership: Bool[np.ndarray, "models records"], suffix: int
) -> list[int | None]:
    """For each text the fewest tokens after which a model that was trained on it gives the next ones; None: none does.

    Args:
        tokens: answers with `greedy`.
        membership: which model was trained on which record.
        suffix: tokens that must follow.
    """
    listed = {text.record: text.prefix for text in most_extractable(tokens, membership, suffix)}
    return [listed.get(record) for record in range(membership.shape[1])]


def let_through(tokens: TokenAnswers) -> Bool[np.ndarray, "models records tokens"]:
    """Tokens that greedy decoding gives, unless a guard refuses them."""
    assert tokens.greedy is not None
    return tokens.greedy if tokens.blocked is None else tokens.greedy & ~tokens.blocked


def of_sides(
    metric: str,
    values: Float[np.ndarray, "models records"],
    membership: Bool[np.ndarray, "models records"],
    bootstrap: Bootstrap,
) -> Iterator[Row]:
    """Mean over members, and beside it over non-members, with intervals; no row for a side without a value."""
    for group, side in ((MEMBER_GROUP, membership), (NONMEMBER_GROUP, ~membership)):
        own = np.where(side, values, np.nan)
        if (count := int((~np.isnan(own)).sum())) == 0:
            continue
        counted: dict[str, Any] = {"members" if group == MEMBER_GROUP else "nonmembers": count}
        yield Row(metric=metric, group=group, **counted, **numbers(fleet_mean(own, bootstrap)))


class Extractable(NamedTuple):
    """A text that comes out of the models that were trained on it.

    Args:
        record: its place among the audited ones.
        models: trained on it and long enough to tell.
        extracted: in how many of these greedy decoding gives the suffix after some prefix.
        prefix: fewest tokens after which it does, in the model that needs fewest.
        completed: share of the models *not* trained on it that complete it, too; NaN without such a model.
    """

    record: int
    models: int
    extracted: int
    prefix: int
    completed: float


def most_extractable(
    tokens: TokenAnswers, membership: Bool[np.ndarray, "models records"], suffix: int, most: int | None = None
) -> Sequence[Extractable]:
    """Texts that greedy decoding gives back, the most extractable first: by share of models, then by short prefixes.

    Args:
        tokens: answers with `greedy`.
        membership: which model was trained on which record.
        suffix: tokens that must follow the prefix.
        most: how many at most; None: all that come out.
    """
    prefix = sufficient_prefix(let_through(tokens), tokens.mask, suffix)
    out, inside, outside = ~np.isnan(prefix), membership.sum(axis=0), (~membership).sum(axis=0)
    hits = (out & membership).sum(axis=0)
    others = (out & ~membership).sum(axis=0)
    fewest = np.min(np.where(membership & out, prefix, np.inf), axis=0)
    share = hits / np.maximum(inside, 1)
    order = np.lexsort((np.arange(len(hits)), fewest, -share))
    chosen = [int(record) for record in order if hits[record]][:most]
    return [
        Extractable(
            record=record,
            models=int(inside[record]),
            extracted=int(hits[record]),
            prefix=int(fewest[record]),
            completed=float(others[record] / outside[record]) if outside[record] else float("nan"),
        )
        for record in chosen
    ]
