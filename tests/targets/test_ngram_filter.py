"""The n-gram filter: nothing long comes out, it says who is a member, and capitals walk around it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest

from palisade.attacks import FilterOracle, TokenAnswers, View
from palisade.evaluation.measuring.extraction import Extraction
from palisade.evaluation.measuring.generated import near_verbatim_rows
from palisade.evaluation.statistics.bootstrap import Bootstrap
from palisade.sampling import SamplingLaw
from palisade.targets.generation import generate
from palisade.targets.guards.ngram_filter import BloomNgrams, ExactNgrams, NgramFilter, grams_of

RECORD_COUNT, TEXT_LENGTH, VOCABULARY_SIZE, GRAM_LENGTH = 300, 31, 128, 10
TEXT_ALPHABET = np.array([ord(letter) for letter in "abcdefghijklmnopqrstuvwxyz .,"])


@cache
def corpus() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texts of bytes, some of them sharing long passages with others, and which were trained on."""
    rng = np.random.default_rng(0)
    x = TEXT_ALPHABET[rng.integers(len(TEXT_ALPHABET), size=(RECORD_COUNT, TEXT_LENGTH))]
    shared = rng.choice(RECORD_COUNT, 10, replace=False)
    x[shared[5:], 3:18] = x[shared[:5], 8:23]
    mask = np.arange(TEXT_LENGTH) < rng.integers(GRAM_LENGTH, TEXT_LENGTH + 1, RECORD_COUNT)[:, None]
    return x, mask, rng.random(RECORD_COUNT) < 0.5


@cache
def filters() -> dict[str, NgramFilter]:
    x, mask, member = corpus()
    return {
        "exact": ExactNgrams.of(x[member], mask[member], GRAM_LENGTH),
        "bloom": BloomNgrams.of(x[member], mask[member], GRAM_LENGTH, 1e-3),
    }


by_kind = pytest.mark.parametrize("kind", ["exact", "bloom"])


def memorizer(text: np.ndarray) -> np.ndarray:
    """Logits of a model that knows all its training texts by heart and cares little for capitals."""
    x, mask, member = corpus()
    logits = np.random.default_rng(len(text)).normal(size=VOCABULARY_SIZE)
    folded = lower(text)
    for row, length in zip(x[member], mask[member].sum(axis=1), strict=True):
        if len(text) < length and (row[: len(text)] == folded).all():
            token = row[len(text)]
            upper = 97 <= token <= 122 and (text != folded).any()
            logits[token - 32 if upper else token] += 50
    return logits


def memorizers(texts: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack([memorizer(text) for text in texts])


def lower(text: np.ndarray) -> np.ndarray:
    return np.where((text >= 65) & (text <= 90), text + 32, text)


@by_kind
def test_holds_what_training_texts_hold(kind: str) -> None:
    x, mask, member = corpus()
    barrier, blocked = filters()[kind], filters()[kind].blocked(x, mask)
    assert barrier.holds(grams_of(x[member], mask[member], GRAM_LENGTH)).all()
    ends = np.arange(TEXT_LENGTH) >= GRAM_LENGTH - 1
    np.testing.assert_array_equal(blocked[member], (mask & ends)[member])
    trained = {bytes(gram.astype(np.uint8)) for gram in grams_of(x[member], mask[member], GRAM_LENGTH)}
    others = grams_of(x[~member], mask[~member], GRAM_LENGTH)
    shared = np.array([bytes(gram.astype(np.uint8)) in trained for gram in others])
    extra = blocked[~member].sum() - shared.sum()
    assert shared.sum() > 0 and (extra == 0 if kind == "exact" else 0 <= extra < 0.01 * len(others))


def test_what_may_not_follow_is_that_which_completes_an_ngram() -> None:
    x, _, member = corpus()
    barrier = filters()["exact"]
    for row in (*x[member][:5], *x[~member][:5]):
        for length in (0, GRAM_LENGTH - 2, GRAM_LENGTH - 1, GRAM_LENGTH + 4):
            one_by_one = NgramFilter.refused(barrier, row[:length], VOCABULARY_SIZE)
            np.testing.assert_array_equal(barrier.refused(row[:length], VOCABULARY_SIZE), one_by_one)


def test_rate_on_the_card_is_that_of_other_ngrams() -> None:
    grams = np.random.default_rng(1).integers(VOCABULARY_SIZE, size=(200_000, GRAM_LENGTH))
    x, mask, member = corpus()
    for aim in (0.05, 1e-3):
        barrier = BloomNgrams.of(x[member], mask[member], GRAM_LENGTH, aim)
        seen, said = barrier.holds(grams).mean(), barrier.false_positive_rate
        assert 0.5 * aim < said < 1.5 * aim
        assert abs(seen - said) < 5 * np.sqrt(said / len(grams)) + 0.1 * said
    assert filters()["exact"].false_positive_rate == 0 and not filters()["exact"].holds(grams).any()
    assert "about one in" in filters()["bloom"].words() and "no other" in filters()["exact"].words()


@by_kind
def test_no_ngram_of_a_training_text_is_ever_completed(kind: str) -> None:
    x, _, member = corpus()
    rows, barrier = x[member][:10], filters()[kind]
    prompts = [row[:9] for row in rows]
    free = generate(memorizers, prompts, 22)
    guarded = generate(memorizers, prompts, 22, barrier=barrier)
    drawn = generate(memorizers, prompts, 22, law=SamplingLaw(temperature=1.0), barrier=barrier, seed=3)
    for row, *continuations in zip(rows, guarded, drawn, strict=True):
        for text in continuations:
            whole = np.concatenate([row[:9], text])
            assert not filters()["exact"].blocked(whole[None], np.ones((1, len(whole)), dtype=bool)).any()
    for row, text in zip(rows, free, strict=True):
        np.testing.assert_array_equal(text[:3], row[9:12])


@by_kind
def test_texts_side_by_side_are_continued_as_each_alone(kind: str) -> None:
    x, _, member = corpus()
    prompts, counts = [row[: 3 + place] for place, row in enumerate(x[member][:8])], [5, 0, 20, 20, 1, 9, 20, 20]
    together = generate(memorizers, prompts, counts, barrier=filters()[kind])
    for prompt, count, text in zip(prompts, counts, together, strict=True):
        slow, logits = list(prompt), None
        for _ in range(count):  # by the whole vocabulary
            logits = memorizer(np.array(slow))
            refused = filters()[kind].refused(np.array(slow), VOCABULARY_SIZE)
            slow.append(int(np.where(refused, -np.inf, logits).argmax()))
        assert text.tolist() == slow[len(prompt) :]


def test_generation_is_seeded_and_ends_where_all_is_refused() -> None:
    flat = lambda texts: np.zeros((len(texts), 3))  # noqa: E731
    prompts = [np.array([0]), np.array([0])]
    one, same, other = (generate(flat, prompts, 20, law=SamplingLaw(), seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one[0] != other[0]).any() and (one[0] != one[1]).any()
    np.testing.assert_array_equal(generate(flat, prompts[:1], 20, law=SamplingLaw(), seed=1)[0], one[0])
    barrier = ExactNgrams(n=2, grams=np.array([[0, token] for token in range(3)]))
    for law in (None, SamplingLaw()):
        stopped, other = generate(flat, [np.array([0]), np.array([1])], 20, law=law, barrier=barrier)
        assert len(stopped) == 0 and len(other) > 0


def released(kind: str) -> View:
    x, mask, member = corpus()
    blocked = filters()[kind].blocked(x, mask)[None]
    greedy = np.broadcast_to(member[:, None], x.shape)[None]
    tokens = TokenAnswers(
        log_probabilities=np.where(greedy, -1e-3, -4.0), mask=mask, greedy=greedy.copy(), blocked=blocked
    )
    return View(signals=tokens.rows(), labels=np.zeros(RECORD_COUNT, dtype=int), membership=member[None], tokens=tokens)


@by_kind
def test_nothing_of_ten_tokens_or_more_is_extracted(kind: str) -> None:
    view = released(kind)
    asked = Extraction(prefixes=(1, 4, 9, 15), suffixes=(10, 12), tries=(1, 10**6))
    rows = [r for r in asked.rows(view.tokens, {}, view.membership, Bootstrap()) if r.group == "members"]
    assert len(rows) == 24 and {row.value for row in rows} == {0.0}
    bare = view.tokens.declared(("greedy",), base=False)
    rows = [r for r in asked.rows(bare, {}, view.membership, Bootstrap()) if r.group == "members"]
    assert {row.value for row in rows} == {1.0}, "without the guard all of it comes out"


@by_kind
def test_oracle_finds_members_at_the_false_positive_rate_of_the_overlap(kind: str) -> None:
    view = released(kind)
    scores, member = FilterOracle(n=GRAM_LENGTH).score(view)[0], view.membership[0]
    assert (scores[member] >= 1).mean() >= 0.99
    overlap_share = view.tokens.blocked[0][~member].any(axis=1).mean()
    assert (scores[~member] >= 1).mean() <= overlap_share < 0.1


def test_capitals_walk_around_the_filter() -> None:
    x, mask, member = corpus()
    chosen = np.flatnonzero(mask.all(axis=1))
    texts = ["".join(map(chr, x[record])) for record in chosen]

    def answer(model: int, prompts: Sequence[str], tokens: int) -> list[str]:
        starts = [np.array([ord(letter) for letter in prompt]) for prompt in prompts]
        return ["".join(map(chr, text)) for text in generate(memorizers, starts, tokens, barrier=filters()["exact"])]

    rows = near_verbatim_rows(texts, 12, answer, member[None, chosen], Bootstrap())
    value = {(row.metric, row.group): row.value for row in rows}
    as_it_is, capitals = (f"repeated@12 characters, {style}" for style in ("as it is", "in capitals"))
    assert value[as_it_is, "members"] == 0 and value[capitals, "members"] > 0.9
    assert value[capitals, "nonmembers"] == value[as_it_is, "nonmembers"] == 0
    assert value["edit_similarity@12 characters, in capitals", "members"] > 0.9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExactNgrams(n=1, grams=np.zeros((0, 1), dtype=int)), r"n=1: expected an integer >= 2"),
        (lambda: BloomNgrams.of(*corpus()[:2], 10, 1.0), r"rate=1\.0: expected a number in \(0, 1\)"),
    ],
)
def test_refuses_settings_that_are_wrong(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
