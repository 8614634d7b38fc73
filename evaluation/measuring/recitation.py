"""Rows on what language models give back: texts word by word, near-verbatim copies, secrets, refusals of a guard."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

from palisade.attacks import View
from palisade.data.document_canaries import CLEAN_KIND
from palisade.data.sequences import Sequences
from palisade.evaluation.measuring.extraction import (
    REFUSED_TEXTS,
    REFUSED_TOKENS,
    SECRET_EXTRACTED,
    SECRET_LIMIT,
    Extraction,
    exposure_rows,
    let_through,
    of_sides,
)
from palisade.evaluation.measuring.generated import near_verbatim_rows, prompt_length
from palisade.evaluation.result import Row
from palisade.evaluation.signals.documents import texts_of
from palisade.evaluation.signals.secrets import secret_exposure, secret_membership, secrets_in
from palisade.evaluation.signals.signals import continuation
from palisade.evaluation.statistics.bootstrap import Bootstrap
from palisade.targets.run import Run


def recitation_rows(run: Run, seen: View, bootstrap: Bootstrap) -> Iterator[Row]:
    """Texts that models give back of audited documents; of canaries only where somebody wrote them, and secrets.

    Args:
        run: on documents; others have no rows.
        seen: what attackers see of it.
        bootstrap: how to resample documents.
    """
    tokens, canary = seen.tokens, run.config.get("canary")
    if tokens is None:
        return
    if secrets_in(run):
        yield from secret_rows(run, seen, bootstrap)
    elif not canary or canary["kind"] == CLEAN_KIND:
        yield from Extraction().rows(tokens, {}, seen.membership, bootstrap)
        if (generate := continuation(run)) is not None:
            data = run.dataset
            assert isinstance(data.preprocessing, Sequences)
            texts = [text.decode("utf-8", "ignore") for text in texts_of(data, data.y[data.split.audited])]
            prompt = prompt_length(data.preprocessing.length)
            yield from near_verbatim_rows(texts, prompt, generate, seen.membership, bootstrap)
    if tokens.blocked is not None:
        blocked = np.where(tokens.mask, tokens.blocked, False)
        yield from of_sides(REFUSED_TEXTS, blocked.any(axis=-1).astype(float), seen.membership, bootstrap)
        yield from of_sides(REFUSED_TOKENS, blocked.sum(axis=-1) / tokens.lengths, seen.membership, bootstrap)


def secret_scores(run: Run) -> tuple[Float[np.ndarray, "secrets"], Bool[np.ndarray, "secrets"]] | None:
    """Exposure of secrets in model 0 and which of them it was trained on, for a bound on ε; None where there are none.

    A claim for one document is about secrets that stand in one: copies are a group, which it does not cover. One for
    persons covers all copies.

    Args:
        run: with or without secrets.
    """
    secrets, alone = secrets_in(run), run.statement.unit != "person"
    own = [number for number, secret in enumerate(secrets) if len(secret.records) == 1 or not alone]
    if not own or (exposure := secret_exposure(run, secrets)) is None:
        return None
    return exposure[0, own], secret_membership(run, secrets)[0, own]


def secret_rows(run: Run, seen: View, bootstrap: Bootstrap) -> Iterator[Row]:
    """Exposure of secrets by their copies, how often their code comes out greedily, and the most that can be exposed.

    Exposure is that of the models without their guard, as all log-probabilities are.

    Args:
        run: with secrets among its documents.
        seen: what attackers see of it.
        bootstrap: whose seed and groups of models hold here, too; a secret is drawn with all of its copies.
    """
    secrets, data, tokens = secrets_in(run), run.dataset, seen.tokens
    assert tokens is not None and isinstance(data.preprocessing, Sequences)
    members = secret_membership(run, secrets)
    copies = np.array([len(secret.records) for secret in secrets])
    alone = Bootstrap(seed=bootstrap.seed, groups=bootstrap.groups)
    if (exposure := secret_exposure(run, secrets)) is not None:
        yield from exposure_rows(exposure, members, copies, alone)
        yield Row(metric=SECRET_LIMIT, value=len(secrets[0].code) * math.log2(10))
    if tokens.greedy is None:
        return
    out = np.empty(members.shape)
    greedy = let_through(tokens)
    for number, secret in enumerate(secrets):
        place = int(np.flatnonzero(data.split.audited == secret.records[0])[0])
        whole, template = data.preprocessing.encode(secret.text), data.preprocessing.encode(secret.prefix)
        start = next((t for t, (a, b) in enumerate(zip(whole, template, strict=False)) if a != b), len(template))
        out[:, number] = greedy[:, place, start : len(whole)].all(axis=-1)
    for count in np.unique(copies):
        own = np.where(copies == count, out, np.nan)
        yield from of_sides(f"{SECRET_EXTRACTED}@{count} copies", own, members, alone)
