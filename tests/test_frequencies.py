"""Natural frequencies: the counts are those of the rates, in whole people."""

from __future__ import annotations

import pytest

from palisade.frequencies import count, crowd, frequencies


def test_the_sentence_of_the_pages() -> None:
    assert (
        frequencies(0.0764, 0.01)
        == "of 1,000 people who were in, 76 are found while 10 of 1,000 who were not are accused"
    )


def test_interval_limit_and_other_words() -> None:
    text = frequencies(0.05, 0.01, ends=(0.0394, 0.0616), who="records", most=True)
    assert text.startswith(
        "of 1,000 records that were in, at most 50 (39 to 62) are found while 10 of 1,000 that were not"
    )


@pytest.mark.parametrize(("fpr", "size"), [(0.5, 1000), (0.01, 1000), (0.001, 1000), (0.0005, 10_000), (1e-5, 100_000)])
def test_at_least_one_of_the_crowd_is_accused(fpr: float, size: int) -> None:
    assert crowd(fpr) == size and int(count(fpr, size).replace(",", "")) >= 1


def test_one_is_singular_and_little_is_not_nothing() -> None:
    assert frequencies(0.001, 0.001).endswith("1 is found while 1 of 1,000 who were not is accused")
    assert frequencies(0.0002, 0.01).startswith("of 1,000 people who were in, fewer than 1 is found")
    assert (count(0.0, 1000), count(0.0005, 1000), count(1.0, 10_000)) == ("0", "1", "10,000")
