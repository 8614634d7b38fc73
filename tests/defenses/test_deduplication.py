"""Of several like records a model sees the first, and what is claimed for the rest still holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palisade.data.dataset import Dataset
from palisade.data.sequences import NO_TOKEN
from palisade.data.split import Split
from palisade.defenses.deduplication import RECORDS_PER_BLOCK, Deduplication, _content, unlike
from palisade.defenses.l2 import L2
from palisade.defenses.none import NoDefense
from palisade.targets.statement import Statement

NO_RECORDS = np.array([], dtype=np.int64)


def dataset_of(x: Any, y: Any, persons: np.ndarray | None = None) -> Dataset:
    x = np.asarray(x, dtype=np.float32)
    split = Split(
        pool=np.arange(len(x)),
        validation=NO_RECORDS,
        reference=NO_RECORDS,
        population=NO_RECORDS,
        test=NO_RECORDS,
        record_persons=persons,
    )
    return Dataset(
        name="small",
        x=x,
        y=np.asarray(y, dtype=np.int64),
        classes=("a", "b"),
        split=split,
        preprocessing=None,  # type: ignore[arg-type]
        fingerprint="",
        published=None,
    )


def distinct_members(dataset: Dataset, members: Any, threshold: float | None = None) -> np.ndarray:
    return Deduplication(base=NoDefense(), threshold=threshold).distinct_members(
        dataset, dataset.split, np.asarray(members)
    )


records = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=12)


@settings(deadline=None, max_examples=50)
@given(contents=records, chosen=st.integers(0, 2**12 - 1))
def test_keeps_the_first_of_each_content(contents: list[tuple[int, int]], chosen: int) -> None:
    x, y = [[value] for value, _ in contents], [label for _, label in contents]
    members = [bool(chosen >> i & 1) for i in range(len(contents))]
    first: set[tuple[int, int]] = set()
    expected = []
    for content, member in zip(contents, members, strict=True):
        expected.append(member and content not in first)
        first |= {content} if member else set()
    assert distinct_members(dataset_of(x, y), [members])[0].tolist() == expected


@settings(deadline=None, max_examples=50)
@given(contents=records, removed=st.integers(0, 11))
def test_one_record_less_changes_one_content_at_most(contents: list[tuple[int, int]], removed: int) -> None:
    dataset = dataset_of([[value] for value, _ in contents], [label for _, label in contents])
    members = np.ones((2, len(contents)), dtype=bool)
    members[1, removed % len(contents)] = False
    one, other = (
        Counter(np.array(contents)[row].tobytes() for row in rows)
        for rows in map(_indices, distinct_members(dataset, members))
    )
    assert ((one - other) + (other - one)).total() <= 1


def _indices(row: np.ndarray) -> list[list[int]]:
    return [[i] for i in np.flatnonzero(row)]


def test_labels_and_persons_are_part_of_the_content() -> None:
    everyone = np.ones((1, 4), dtype=bool)
    x = [[1.0]] * 4
    assert distinct_members(dataset_of(x, [0, 1, 0, 1]), everyone)[0].tolist() == [True, True, False, False]
    assert distinct_members(dataset_of(x, [0] * 4, np.array([7, 7, 8, 8])), everyone)[0].tolist() == [
        True,
        False,
        True,
        False,
    ]


def test_each_model_by_itself() -> None:
    dataset = dataset_of([[1.0], [1.0], [2.0]], [0, 0, 0])
    membership = np.array([[True, True, True], [False, True, True], [False, False, False]])
    assert distinct_members(dataset, membership).tolist() == [
        [True, False, True],
        [False, True, True],
        [False, False, False],
    ]


@pytest.mark.parametrize("threshold", [0.3, 0.9, 0.99])
def test_similar_records_go_in_order(threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palisade.defenses.deduplication.RECORDS_PER_BLOCK", 16)
    assert RECORDS_PER_BLOCK > 16
    x = np.random.default_rng(0).normal(size=(100, 2, 2)).astype(np.float32)
    x[7] = 0.0
    expected: list[int] = []
    for i, row in enumerate(x.reshape(100, 4)):
        norms = [np.linalg.norm(row) * np.linalg.norm(x[j]) for j in expected]
        alike = [row @ x[j].ravel() >= threshold * norm for j, norm in zip(expected, norms, strict=True) if norm]
        if not any(alike):
            expected.append(i)
    assert unlike(x, threshold).tolist() == expected
    assert 0 < len(expected) < 100


def test_base_trains_on_what_is_left(compose, fitting) -> None:
    job = fitting(compose("data=digits", "defense=deduplication", "trainer.epochs=1"), [0, 1], at_once=2)
    x = job.dataset.x.copy()
    x[job.split.pool[1::2]] = x[job.split.pool[::2]]
    y = job.dataset.y.copy()
    y[job.split.pool[1::2]] = y[job.split.pool[::2]]
    memberships: list[np.ndarray] = []

    class Watched(NoDefense):
        def fit(self, fitter, split, membership):
            memberships.append(membership)
            return super().fit(fitter, split, membership)

    job.fitter = replace(job.fitter, dataset=replace(job.dataset, x=x, y=y), defense=Deduplication(base=Watched()))
    assert len(job.fit()) == 2
    (left,) = memberships
    pairs = left[:, : len(job.split.pool) // 2 * 2].reshape(2, -1, 2)
    were = job.membership[:, : len(job.split.pool) // 2 * 2].reshape(2, -1, 2)
    assert (pairs.sum(axis=2) == were.any(axis=2)).all()


def test_exact_duplicates_keep_the_claim_and_similar_ones_lose_it() -> None:
    private = Statement(guarantee=True, epsilon=1.0, delta=1e-5, noise_multiplier=1.0)

    class Private(NoDefense):
        def statement(self, fleet):
            return private

    assert Deduplication(base=Private()).statement(None) == private
    similar = Deduplication(base=Private(), threshold=0.9).statement(None)
    assert similar.sentence() == "no formal guarantee" and similar.epsilon is None
    assert similar.warnings == (
        "records were removed by similarity: one record less may bring others back, so the base's ε does not hold",
    )
    assert Deduplication(base=NoDefense(), threshold=0.9).statement(None) == Statement.none()


def test_takes_over_what_its_base_is() -> None:
    base = L2(weight_decay=0.5)
    assert Deduplication(base=base).strength == 0.5 and Deduplication(base=base, threshold=0.8).strength == 0.8
    assert Deduplication(base=base).stackable and not Deduplication(base=base).roles


@pytest.mark.parametrize("threshold", [0.0, 1.5, -0.1])
def test_refuses_what_is_no_similarity(threshold: float) -> None:
    with pytest.raises(ValueError, match=rf"threshold={threshold}"):
        Deduplication(base=NoDefense(), threshold=threshold)


def runs(row: np.ndarray) -> set[tuple[int, ...]]:
    tokens = row[row != 0].tolist()
    return {tuple(tokens[start : start + 5]) for start in range(max(1, len(tokens) - 4))}


@pytest.mark.parametrize("threshold", [0.2, 0.6, 1.0])
def test_similar_texts_go_in_order(threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palisade.defenses.deduplication.RECORDS_PER_BLOCK", 7)
    rng = np.random.default_rng(0)
    texts = rng.integers(1, 9, (6, 12))[rng.integers(0, 6, 40)]
    edited = np.where(rng.random(texts.shape) < 0.05, 1, texts)
    x = edited * (np.arange(12) < rng.integers(0, 13, (40, 1)))  # padded, one empty
    expected: list[int] = []
    for number, row in enumerate(x):
        own = runs(row)
        if all(len(own & other) / len(own | other) < threshold for other in (runs(x[k]) for k in expected)):
            expected.append(number)
    assert unlike(x, threshold).tolist() == expected and 1 < len(expected) < 40


def test_padding_of_documents_is_no_likeness_whatever_number_pads() -> None:
    """Of a tokenizer, another number than 0 begins documents and pads inputs, and 0 is a token."""
    y = np.full((3, 40), NO_TOKEN)
    y[0, :2], y[1, :2], y[2, :2] = (0, 0), (5, 6), (5, 6)
    data = SimpleNamespace(positional=True, y=y, x=np.where(y == NO_TOKEN, 7, y))
    assert unlike(_content(data, np.arange(3)), 0.8).tolist() == [0, 1]
