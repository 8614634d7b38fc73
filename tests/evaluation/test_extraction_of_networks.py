"""Extraction and exposure of a real network, by its answers under teacher forcing, against brute force."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from palisade.data.sequences import ByteTokens
from palisade.evaluation.statistics.extraction import Span, extracted_greedily, suffix_log_probability
from palisade.evaluation.statistics.secret_exposure import exposure_of_secrets, log_probabilities_of_codes
from palisade.targets.fleet import Fleet
from palisade.targets.gpt import GPT

TEXT_LENGTH, TEXT_VOCABULARY = 12, ByteTokens(length=12)
SECRET_PREFIX = "code "


@cache
def fleet() -> Fleet:
    """Of one network whose answers are sure of few tokens, as after training."""
    torch.manual_seed(0)
    network = GPT(shape=(TEXT_LENGTH,), classes=257, width=16, depth=1, heads=2)
    with torch.no_grad():
        for weight in (network.tokens.weight, network.places.weight):
            weight.normal_(std=1)
        network.head.weight.normal_(std=0.3)
    return Fleet(network, [network.state_dict()])


def next_laws(texts: np.ndarray) -> np.ndarray:
    """log p of every token after texts (records, tokens), by a pass that knows no label."""
    x = np.concatenate([np.zeros((len(texts), 1), dtype=np.int64), texts], axis=1)
    logits = torch.from_numpy(fleet().predict(x)[0][:, -1])
    return np.asarray(logits.double().log_softmax(-1))


def teacher_forced(y: np.ndarray) -> np.ndarray:
    return fleet().answers(TEXT_VOCABULARY.inputs_of(y), y)


def continued(texts: np.ndarray, tokens: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Greedy decoding, or with a generator samples, one token after the other."""
    for _ in range(tokens):
        log_p = next_laws(texts)
        noise = 0 if rng is None else rng.gumbel(size=log_p.shape)
        texts = np.concatenate([texts, (log_p + noise).argmax(axis=1)[:, None]], axis=1)
    return texts


def test_greedy_extraction_is_generation_token_by_token() -> None:
    rng, span = np.random.default_rng(0), Span(prefix=3, suffix=4)
    y = rng.integers(1, 257, (40, 7))
    y[:20] = continued(y[:20, :3], 4)
    y[10:20, 5] = 1 + y[10:20, 5] % 256  # these leave what would be generated
    generated = (continued(y[:, :3], 4) == y).all(axis=1)
    extracted = extracted_greedily(teacher_forced(y)["greedy"], np.ones(y.shape, dtype=bool), span)[0]
    np.testing.assert_array_equal(extracted == 1, generated)
    assert generated[:10].all() and not generated[10:20].any()


def test_probability_of_a_suffix_is_the_share_of_ten_thousand_samples() -> None:
    """Of 20 documents, within 3 standard errors; half of their suffixes are the likeliest, half are sampled in part."""
    rng, span, samples = np.random.default_rng(1), Span(prefix=2, suffix=2), 10_000
    y = continued(rng.integers(1, 257, (20, 2)), 2)
    y[10:] = continued(continued(y[10:, :2], 1, rng), 1)
    log_p = suffix_log_probability(teacher_forced(y)["log_probability"], np.ones(y.shape, dtype=bool), span)[0]
    first, second = next_laws(y[:, :2]), next_laws(y[:, :3])
    for row, (one, two, own) in enumerate(zip(first, second, log_p, strict=True)):
        drawn = [rng.choice(257, size=samples, p=np.exp(law)) for law in (one, two)]
        share = ((drawn[0] == y[row, 2]) & (drawn[1] == y[row, 3])).mean()
        assert abs(share - np.exp(own)) <= 3 * np.sqrt(np.exp(own) / samples) + 1e-9


def test_exposure_is_exact_over_all_thousand_codes() -> None:
    prefix, digits = TEXT_VOCABULARY.encode(SECRET_PREFIX), 1 + np.arange(ord("0"), ord("9") + 1)

    def next_digit(beginnings: np.ndarray) -> np.ndarray:
        texts = np.concatenate([np.tile(prefix, (len(beginnings), 1)), digits[beginnings]], axis=1)
        return next_laws(texts)[:, digits]

    by_tree = log_probabilities_of_codes(next_digit, 3)
    codes = TEXT_VOCABULARY.labels([f"{SECRET_PREFIX}{code:03}" for code in range(1000)])[:, : len(prefix) + 3]
    whole = teacher_forced(codes)["log_probability"][0][:, len(prefix) :].astype(np.float64).sum(axis=1)
    np.testing.assert_allclose(by_tree, whole, rtol=1e-5)
    ranks = 1 + (by_tree[None] > by_tree[:, None]).sum(axis=1)
    np.testing.assert_allclose(exposure_of_secrets(by_tree, np.arange(1000)), np.log2(1000) - np.log2(ranks))
