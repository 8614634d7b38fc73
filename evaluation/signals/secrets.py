"""Exposure of the secrets among a run's documents, exactly: the right code ranked among all that there could be."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import log_softmax

from palisade.data.canaries import Canaries
from palisade.data.document_canaries import SECRET_KIND, SecretText, secrets_of
from palisade.data.sequences import ByteTokens, Sequences
from palisade.evaluation.signals.stored import cached
from palisade.evaluation.statistics.secret_exposure import exposure_of_secrets, log_probabilities_of_codes
from palisade.targets.generation import next_logits_of
from palisade.targets.run import Run

if TYPE_CHECKING:
    from palisade.targets.fleet import Fleet

MAX_WHOLE_CODES = 10_000
"""Codes that are asked about one by one, where digits are no tokens of their own."""


def secrets_in(run: Run) -> list[SecretText]:
    """Secrets among a run's canaries; none where these are of another kind."""
    canary = run.config.get("canary")
    if not canary or canary["kind"] != SECRET_KIND:
        return []
    return secrets_of(Canaries(**canary), int(run.dataset.split.canaries[0]), run.config["seed"])


def secret_membership(run: Run, secrets: Sequence[SecretText]) -> Bool[np.ndarray, "models secrets"]:
    """Membership of secrets in the training set of each model: the copies of one share a coin."""
    pool = run.dataset.split.pool
    places = [int(np.flatnonzero(pool == secret.records[0])[0]) for secret in secrets]
    return np.asarray(run.membership()[:, places])


def secret_exposure(run: Run, secrets: Sequence[SecretText]) -> Float[np.ndarray, "models secrets"] | None:
    """Exposure of each secret in each model in bits, without a guard; None where it cannot be computed.

    That is where weights were removed, or so many codes would have to be asked about one by one.
    """
    tokens, codes = run.dataset.preprocessing, 10 ** max(len(secret.code) for secret in secrets)
    if not run.has_weights() or not (isinstance(tokens, ByteTokens) or codes <= MAX_WHOLE_CODES):
        return None
    return np.asarray(cached(Run(run.folder), "secret_exposure", partial(_exposure, run, secrets)))


def _exposure(run: Run, secrets: Sequence[SecretText]) -> Float[np.ndarray, "models secrets"]:
    from palisade.targets.training import load_fleet

    tokens = run.dataset.preprocessing
    assert isinstance(tokens, Sequences)
    exposure = np.empty((len(run.models()), len(secrets)))
    for place, model in enumerate(run.models()):
        fleet = load_fleet(run.config, run.dataset, run.folder, [model])
        for number, secret in enumerate(secrets):
            log_p = _of_codes(fleet, tokens, secret)
            exposure[place, number] = exposure_of_secrets(log_p, np.array([int(secret.code)]))[0]
    return exposure


def _of_codes(fleet: Fleet, tokens: Sequences, secret: SecretText) -> Float[np.ndarray, "codes"]:
    """log p of every code behind the template, up to a constant."""
    digits = len(secret.code)
    if not isinstance(tokens, ByteTokens):  # a tokenizer may join digits
        labels = tokens.labels([f"{secret.prefix}{code:0{digits}}" for code in range(10**digits)])
        answers = fleet.answers(tokens.inputs_of(labels), labels)[0]
        return np.asarray(np.nansum(answers["log_probability"], axis=1, dtype=np.float64))
    prefix, numbers = tokens.encode(secret.prefix), np.array([tokens.encode(str(digit))[0] for digit in range(10)])
    next_logits = next_logits_of(lambda x: fleet.predict(x)[0], tokens.begin)

    def next_digit(beginnings: Int[np.ndarray, "prefixes digits"]) -> Float[np.ndarray, "prefixes 10"]:
        logits = next_logits([np.append(prefix, numbers[beginning]) for beginning in beginnings])
        return np.asarray(log_softmax(logits.astype(np.float64), axis=1)[:, numbers])

    return log_probabilities_of_codes(next_digit, digits)
