"""Extraction without generation against generation itself; exposure against all codes; both sides beside each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from palisade.attacks import TokenAnswers
from palisade.evaluation.figures.extraction import exposure_over_copies, extraction_over_prefix
from palisade.evaluation.measuring.extraction import Extraction, exposure_rows, most_extractable
from palisade.evaluation.statistics.bootstrap import Bootstrap
from palisade.evaluation.statistics.extraction import (
    Span,
    extractable,
    extracted_greedily,
    sufficient_prefix,
    suffix_log_probability,
    tries_needed,
)
from palisade.evaluation.statistics.near_verbatim import overlap
from palisade.evaluation.statistics.secret_exposure import exposure_of_secrets, log_probabilities_of_codes
from palisade.sampling import SamplingLaw

VOCABULARY_SIZE, TEXT_LENGTH = 5, 7


class Chain:
    """A language model whose next token depends on the last two."""

    def __init__(self, seed: int, sharpness: float = 1.5) -> None:
        self.logits = np.random.default_rng(seed).normal(
            0, sharpness, (VOCABULARY_SIZE, VOCABULARY_SIZE, VOCABULARY_SIZE)
        )

    def next(self, context: np.ndarray) -> np.ndarray:
        padded = np.concatenate([[0, 0], context])
        return np.asarray(self.logits[padded[-2], padded[-1]])

    def along(self, x: np.ndarray) -> np.ndarray:
        """Logits at every position of texts (records, tokens)."""
        return np.stack([[self.next(row[:t]) for t in range(len(row))] for row in x])

    def generate(
        self, prompt: np.ndarray, tokens: int, rng: np.random.Generator | None, law: SamplingLaw
    ) -> np.ndarray:
        text = list(prompt)
        for _ in range(tokens):
            logits = self.next(np.array(text))
            if rng is None:
                text.append(int(logits.argmax()))
                continue
            log_q = law.log_probabilities(np.tile(logits, (VOCABULARY_SIZE, 1)), np.arange(VOCABULARY_SIZE))
            text.append(int(rng.choice(VOCABULARY_SIZE, p=np.exp(log_q))))
        return np.array(text)


def texts(seed: int, records: int = 20) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).integers(VOCABULARY_SIZE, size=(records, TEXT_LENGTH))
    return x, np.ones(x.shape, dtype=bool)


@pytest.mark.parametrize("law", [SamplingLaw(), SamplingLaw(temperature=0.6), SamplingLaw(temperature=1.3, top_k=3)])
def test_probability_of_a_suffix_is_the_share_of_samples_that_hold_it(law: SamplingLaw) -> None:
    """10⁴ samples for each of 20 texts, within 3 standard errors."""
    model, rng, span, samples = Chain(0), np.random.default_rng(2), Span(prefix=3, suffix=2), 10_000
    x, mask = texts(0)
    log_p = suffix_log_probability(law.log_probabilities(model.along(x), x)[None], mask, span)[0]
    for row, log_own in zip(x, log_p, strict=True):
        first, second = row[3], row[4]
        laws = [np.exp(law.log_probabilities(np.tile(model.next(row[:t]), (5, 1)), np.arange(5))) for t in (3, 4)]
        drawn = (rng.choice(5, size=samples, p=laws[0]) == first) & (rng.choice(5, size=samples, p=laws[1]) == second)
        error = np.sqrt(max(np.exp(log_own) * (1 - np.exp(log_own)), 1e-12) / samples)
        assert abs(drawn.mean() - np.exp(log_own)) <= 3 * error + 1e-12


def test_samples_of_the_model_itself_agree_too() -> None:
    model, rng, law = Chain(3, sharpness=3.0), np.random.default_rng(0), SamplingLaw()
    x, mask = texts(3, 1)
    x[0, 3:5] = model.generate(x[0, :3], 2, None, law)[3:]
    log_p = suffix_log_probability(law.log_probabilities(model.along(x), x)[None], mask, Span(prefix=3, suffix=2))
    drawn = [(model.generate(x[0, :3], 2, rng, law) == x[0, :5]).all() for _ in range(2000)]
    assert abs(np.mean(drawn) - np.exp(log_p[0, 0])) < 3 * np.sqrt(0.25 / 2000)


def test_greedy_extraction_is_what_greedy_decoding_gives() -> None:
    model, span, law = Chain(2), Span(prefix=2, suffix=2), SamplingLaw()
    x, mask = texts(2, 200)
    greedy = model.along(x).argmax(axis=-1) == x
    extracted = extracted_greedily(greedy[None], mask, span)[0]
    generated = np.stack([model.generate(row[:2], 2, None, law) for row in x])
    np.testing.assert_array_equal(extracted == 1, (generated == x[:, :4]).all(axis=1))
    assert 0 < extracted.mean() < 0.5


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 9))
def test_shortest_prefix_is_that_of_the_loop(seed: int, suffix: int, length: int) -> None:
    rng = np.random.default_rng(seed)
    greedy, mask = rng.random((2, 3, length)) < 0.6, np.arange(length) < rng.integers(1, length + 1, 3)[:, None]
    prefix = sufficient_prefix(greedy, mask, suffix)
    for k, x in np.ndindex(2, 3):
        possible = [
            start
            for start in range(1, length - suffix + 1)
            if mask[x, start + suffix - 1] and greedy[k, x, start : start + suffix].all()
        ]
        assert (prefix[k, x] == possible[0]) if possible else np.isnan(prefix[k, x])


def test_tries_are_counted_in_log_space() -> None:
    """p_z = 1e-40: 1 − p_z is 1 in float64, and a product of (1 − p_z) never moves."""
    log_p = np.log(10) * np.array([[-40.0, -3.0, -400.0]])
    np.testing.assert_array_equal(extractable(log_p, 10**41, 0.5), [[1, 1, 0]])
    np.testing.assert_array_equal(extractable(log_p, 500, 0.5), [[0, 0, 0]])
    np.testing.assert_array_equal(extractable(log_p, 700, 0.5), [[0, 1, 0]])
    np.testing.assert_array_equal(extractable(np.array([[0.0, -np.inf, np.nan]]), 1, 0.999), [[1, 0, np.nan]])
    needed = tries_needed(log_p, 0.5)
    np.testing.assert_allclose(needed[0, :2], [np.log(2) * 1e40, np.log(0.5) / np.log1p(-1e-3)], rtol=1e-9)
    assert np.isinf(needed[0, 2])
    with pytest.raises(ValueError, match=r"n=0, p=0\.5: expected an integer >= 1"):
        extractable(log_p, 0, 0.5)


def test_short_texts_count_nowhere() -> None:
    mask = np.arange(7) < np.array([3, 7])[:, None]
    for values in (
        extracted_greedily(np.ones((1, 2, 7), dtype=bool), mask, Span(prefix=2, suffix=2)),
        suffix_log_probability(np.zeros((1, 2, 7)), mask, Span(prefix=2, suffix=2)),
    ):
        assert np.isnan(values[0, 0]) and np.isfinite(values[0, 1])


# Exposure.


def test_prefix_tree_gives_the_law_of_all_thousand_codes() -> None:
    tables = [np.random.default_rng(seed).normal(size=(10**seed, 10)) for seed in range(3)]
    asked: list[int] = []

    def next_digit(beginnings: np.ndarray) -> np.ndarray:
        asked.append(len(beginnings))
        numbers = (beginnings * 10 ** np.arange(beginnings.shape[1])[::-1]).sum(axis=1)
        return np.asarray(log_softmax(tables[beginnings.shape[1]], axis=1)[numbers])

    log_p = log_probabilities_of_codes(next_digit, 3)
    assert sum(asked) == (10**3 - 1) // 9 == 111
    laws = [log_softmax(table, axis=1) for table in tables]
    brute = [laws[0][0, c // 100] + laws[1][c // 100, c // 10 % 10] + laws[2][c // 10, c % 10] for c in range(1000)]
    np.testing.assert_allclose(log_p, brute, rtol=1e-12)
    np.testing.assert_allclose(np.exp(log_p).sum(), 1)
    ranks = [1 + sum(other > own for other in brute) for own in brute]
    np.testing.assert_allclose(exposure_of_secrets(log_p, np.arange(1000)), np.log2(1000) - np.log2(ranks), rtol=1e-12)


def test_ties_of_codes_count_half() -> None:
    """A model to which all codes are alike exposes none, whatever their numbers."""
    exposure = exposure_of_secrets(np.zeros((2, 1000)), np.array([0, 999]))
    np.testing.assert_allclose(exposure, np.log2(1000 / 500.5))
    np.testing.assert_allclose(exposure_of_secrets(np.array([0.0, 0.0, -1.0, 1.0]), np.array([0])), np.log2(4 / 2.5))


def test_exposure_of_secrets_that_were_not_learnt_is_that_of_others() -> None:
    rng = np.random.default_rng(0)
    exposure = exposure_of_secrets(rng.normal(size=(16, 1000)), rng.integers(1000, size=400))
    member = rng.random(exposure.shape) < 0.5
    rows = list(exposure_rows(exposure, member, np.repeat([1, 4], 200), Bootstrap()))
    assert [(row.metric, row.group) for row in rows] == [
        (f"secret_exposure@{count} copies", side) for count in (1, 4) for side in ("members", "nonmembers")
    ]
    values = [row.value for row in rows]
    np.testing.assert_allclose(values, np.log2(np.e), atol=0.15)
    assert all(row.low <= row.value <= row.high for row in rows)


# Rows, lists and pictures.


def learnt(seed: int = 0) -> tuple[TokenAnswers, np.ndarray]:
    """Members come out, a third of the non-members do too, as they hold what anybody knows."""
    rng = np.random.default_rng(seed)
    member, common = rng.random((8, 60)) < 0.5, rng.random(60) < 0.3
    greedy = (rng.random((8, 60, 30)) < 0.3) | member[:, :, None] | common[:, None]
    return TokenAnswers(
        log_probabilities=np.where(greedy, -0.01, -3.0), mask=np.ones((60, 30), dtype=bool), greedy=greedy
    ), member


def test_members_and_others_stand_beside_each_other() -> None:
    tokens, member = learnt()
    asked = Extraction(prefixes=(4, 8, 25), suffixes=(10,))
    rows = list(asked.rows(tokens, {}, member, Bootstrap(persons=np.arange(60) // 3)))
    greedy = {row.group: row for row in rows if row.metric == "extracted_greedy@4+10"}
    assert greedy["members"].value == 1.0 and 0.2 < greedy["nonmembers"].value < 0.4
    assert greedy["members"].members == member.sum() and greedy["nonmembers"].nonmembers == (~member).sum()
    assert not [row for row in rows if "@25+10" in row.metric], "no text is that long"
    sampled = {row.metric: row.value for row in rows if row.group == "members" and "n_p@4+10" in row.metric}
    assert sampled == {f"extracted_n_p@4+10,n={n},p=0.5,T=1": 1.0 for n in (1, 100)}
    by_person = greedy["nonmembers"]
    alone = next(row for row in asked.rows(tokens, {}, member, Bootstrap()) if row.group == "nonmembers")
    assert by_person.high - by_person.low != alone.high - alone.low


def test_schemes_that_are_not_there_have_no_row() -> None:
    tokens, member = learnt()
    hot = SamplingLaw(temperature=2.0)
    asked = Extraction(prefixes=(4,), schemes=(SamplingLaw(), hot))
    assert not [row for row in asked.rows(tokens, {}, member, Bootstrap()) if hot.name in row.metric]
    rows = asked.rows(tokens, {hot: tokens.log_probabilities - 1}, member, Bootstrap())
    assert [row.value for row in rows if hot.name in row.metric and row.group == "members"] == [0.0, 0.0]


def test_most_extractable_texts_come_first_with_the_prefix_that_suffices() -> None:
    tokens, member = learnt()
    listed = most_extractable(tokens, member, 10)
    assert len(listed) == (member.any(axis=0)).sum()
    assert listed[0].prefix == 1 and listed[0].extracted == listed[0].models
    completed = {text.record: text.completed for text in listed}
    assert {value == 1.0 for value in completed.values()} == {True, False}
    assert len(most_extractable(tokens, member, 10, most=3)) == 3


def test_pictures_hold_both_sides() -> None:
    tokens, member = learnt()
    rows = {"none": list(Extraction(prefixes=(2, 4, 8)).rows(tokens, {}, member, Bootstrap()))}
    axes = extraction_over_prefix(rows, 10).axes[0]
    assert [line.get_label() for line in axes.lines] == ["none, in the training set", "none, not in it"]
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [2, 4, 8])
    exposure = np.ones((4, 9))
    secrets = list(exposure_rows(exposure, np.eye(4, 9, dtype=bool), np.array([1, 4, 16] * 3), Bootstrap()))
    lines = exposure_over_copies({"none": secrets, "dp_sgd": secrets}).axes[0].lines
    assert len(lines) == 4 + 1  # two sides of two runs, and what a code has that was never seen
    with pytest.raises(ValueError, match="rows hold none of"):
        exposure_over_copies(rows)


# Near-verbatim.


def test_overlap_of_generated_text() -> None:
    same = overlap("the secret code is 123", "the secret code is 123")
    assert (same.substring, same.similarity, same.words) == (22, 1.0, 1.0)
    near = overlap("THE secret code was 123", "the secret code is 123")
    assert near.substring == len(" secret code ") and 0.7 < near.similarity < 0.8 and near.words == 3 / 5
    assert overlap("a a", "a a a").words == 2 / 3 and overlap("anything", "").words == 0.0
    assert overlap("x" * 300 + "needle", "needle" + "y" * 300).substring == 6
