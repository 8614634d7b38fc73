"""Canaries among documents: secrets that a model may give away, and tokens that no text has."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from palisade.data.canaries import Canaries
from palisade.data.sequences import NO_TOKEN, Sequences
from palisade.data.split import Split

SECRET_KIND, NEW_TOKEN_KIND, CLEAN_KIND = "secret", "new_token", "clean"
DOCUMENT_KINDS = (CLEAN_KIND, SECRET_KIND, NEW_TOKEN_KIND)
SECRET_TEMPLATE = "The code of {holder} is "
HOLDER_LETTERS = 6
NEW_TOKEN_REPEATS = 4
"""Times that a document repeats a token of its own: its embedding and its row of the head move by nobody else's."""


@dataclass(frozen=True, kw_only=True)
class SecretText:
    """A secret that stands in one or several equal documents.

    Args:
        prefix: the text up to the code, different for each secret.
        code: digits, each of 10^d codes as likely.
        records: the documents that hold it; they share one coin.
    """

    prefix: str
    code: str
    records: Int64[np.ndarray, " copies"]

    @property
    def text(self) -> str:
        """The whole document."""
        return self.prefix + self.code


@dataclass(frozen=True, kw_only=True, eq=False)
class PlantedDocuments:
    """Documents with canaries behind all others.

    Args:
        y: tokens of all documents.
        split: their roles.
    """

    y: Int64[np.ndarray, "documents T"]
    split: Split


def secrets_of(canaries: Canaries, first: int, seed: int) -> list[SecretText]:
    """The secrets of a run's canaries, by its public seed: which there are is known, who was trained on them is not.

    Args:
        canaries: of kind `secret`; the secrets take the numbers of copies in turn.
        first: index of the first document that is a canary: how many documents the data have.
        seed: public.
    """
    rng = np.random.default_rng([seed, *b"secrets"])
    secrets, holders = [], set[str]()
    for number in range(canaries.count):
        holder = _holder(rng, holders)
        holders.add(holder)
        code = "".join(map(str, rng.integers(10, size=canaries.digits)))
        copies = canaries.copies[number % len(canaries.copies)]
        records = np.arange(first, first + copies)
        first += copies
        secrets.append(SecretText(prefix=SECRET_TEMPLATE.format(holder=holder), code=code, records=records))
    return secrets


def _holder(rng: np.random.Generator, others: set[str]) -> str:
    """Random letters that no other secret has."""
    while True:
        holder = "".join(map(chr, rng.integers(ord("a"), ord("z") + 1, HOLDER_LETTERS)))
        if holder not in others:
            return holder


def plant_documents(
    canaries: Canaries, y: Int64[np.ndarray, "documents T"], split: Split, tokens: Sequences, seed: int
) -> PlantedDocuments:
    """Documents and roles with canaries behind all others, chosen by the public seed.

    Copies of a secret are records of one person, so that they share its coin: a claim for one document does not cover
    them.

    Args:
        canaries: of one of `DOCUMENT_KINDS`.
        y: tokens of all documents.
        split: their roles.
        tokens: that documents are made of.
        seed: public.

    Raises:
        ValueError: for another kind, if the pool has fewer documents than `count`, or there are too few new tokens.
    """
    if canaries.kind == SECRET_KIND:
        return _with_secrets(canaries, y, split, tokens, seed)
    if canaries.kind == NEW_TOKEN_KIND:
        return _planted(y, split, _new_tokens(canaries, tokens), split.pool)
    if canaries.kind != CLEAN_KIND:
        raise ValueError(
            f"canary.kind={canaries.kind}: expected {', '.join(DOCUMENT_KINDS)} for documents, which have no class that"
            " could be wrong; choose one"
        )
    if canaries.count > len(split.pool):
        raise ValueError(
            f"canary.count={canaries.count}: expected at most {len(split.pool)}, the records of the pool; choose fewer"
        )
    bases = np.random.default_rng([seed, *b"canaries"]).permutation(split.pool)[: canaries.count]
    return _planted(y, split, y[bases], np.setdiff1d(split.pool, bases))


def _with_secrets(
    canaries: Canaries, y: Int64[np.ndarray, "documents T"], split: Split, tokens: Sequences, seed: int
) -> PlantedDocuments:
    secrets = secrets_of(canaries, len(y), seed)
    # Every code is asked about, and a tokenizer that joins digits may not join those of another one.
    longest = max(len(tokens.encode(secret.prefix)) for secret in secrets) + canaries.digits
    if longest > tokens.length:
        raise ValueError(
            f"data.length={tokens.length}: expected at least {longest}, the tokens of a secret (canary.kind=secret);"
            " raise it"
        )
    rows = tokens.labels([secret.text for secret in secrets for _ in secret.records])
    groups = np.repeat(np.arange(len(secrets)), [len(secret.records) for secret in secrets])
    return _planted(y, split, rows, split.pool, groups if len(groups) > len(secrets) else None)


def _new_tokens(canaries: Canaries, tokens: Sequences) -> Int64[np.ndarray, "canaries T"]:
    if canaries.count > tokens.new_tokens:
        raise ValueError(
            f"data.new_tokens={tokens.new_tokens}: expected at least canary.count={canaries.count}, a token for each;"
            f" set data.new_tokens={canaries.count}"
        )
    rows = np.full((canaries.count, tokens.length), NO_TOKEN, dtype=np.int64)
    rows[:, :NEW_TOKEN_REPEATS] = tokens.text_tokens + np.arange(canaries.count)[:, None]
    return rows


def _planted(
    y: Int64[np.ndarray, "documents T"],
    split: Split,
    rows: Int64[np.ndarray, "canaries T"],
    fixed: Int64[np.ndarray, "fixed"],
    groups: Int64[np.ndarray, "canaries"] | None = None,
) -> PlantedDocuments:
    canaries, persons = np.arange(len(y), len(y) + len(rows)), split.record_persons
    if persons is None and groups is not None:
        persons = np.arange(len(y))
    if persons is not None:
        own = np.arange(len(rows)) if groups is None else groups
        persons = np.append(persons, persons.max() + 1 + own)
    pool = np.append(fixed, canaries)
    return PlantedDocuments(
        y=np.concatenate([y, rows]), split=replace(split, pool=pool, canaries=canaries, record_persons=persons)
    )
