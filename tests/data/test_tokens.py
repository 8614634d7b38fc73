import json
import zlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palisade.data.preprocessing import from_json
from palisade.data.tokens import Tokens

ANY_TEXTS = st.lists(st.text(max_size=60), max_size=6)


def numbers(*words, buckets=8192):
    return [1 + zlib.crc32(word.encode()) % (buckets - 1) for word in words]


def test_words_by_hand():
    inputs = Tokens(length=9)(["It's  GOOD (isn't it?)", "", "é - n't 's"])
    assert inputs.dtype == np.int64 and inputs.shape == (3, 9)
    assert inputs[0].tolist() == [*numbers("it's", "good", "(", "isn't", "it", "?", ")"), 0, 0]
    assert inputs[1].tolist() == [0] * 9
    assert inputs[2].tolist() == [*numbers("é", "-", "n't", "'", "s"), 0, 0, 0, 0][:9]


def test_the_hash_is_the_same_everywhere():
    """A release has no vocabulary: another hash would make it read other words."""
    known = [0xE8B7BE43, 0xCBF43926]  # CRC-32 of "a", and its published check value
    assert Tokens()(["A 123456789"])[0, :3].tolist() == [*(1 + crc % 8191 for crc in known), 0]


def test_long_texts_are_cut():
    assert Tokens(length=2)(["one two three"]).tolist() == [numbers("one", "two")]


@given(texts=ANY_TEXTS, length=st.integers(1, 9), buckets=st.integers(2, 40))
@settings(deadline=None, max_examples=25)
def test_any_text_on_its_own_and_after_json(texts, length, buckets):
    tokens = Tokens(length=length, buckets=buckets)
    inputs = tokens(texts)
    assert inputs.shape == (len(texts), *tokens.shape)
    assert ((inputs >= 0) & (inputs < buckets)).all()
    for text, row in zip(texts, inputs, strict=True):
        assert np.array_equal(tokens([text])[0], row)
        words = np.count_nonzero(row)
        assert row[:words].all()  # padding comes last
    again = from_json(json.loads(json.dumps(tokens.to_json())))
    assert again == tokens and np.array_equal(again(texts), inputs)


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda x: np.array(x, dtype=object), pd.Series, iter])
def test_any_list_of_texts(kind):
    assert Tokens(length=1)(kind(["one", "two"])).tolist() == [numbers("one"), numbers("two")]


def test_nothing_in_it_comes_from_the_records():
    assert Tokens().statistics == "constants" and Tokens().not_covered is None
    assert Tokens().to_json() == {"kind": "tokens", "length": 64, "buckets": 8192}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a text", "^rows are a single text; give a list of texts$"),
        (7, "^rows are of type int, not a list of texts; give one text per record$"),
        (np.array([["a", "b"]]), "^rows are of type ndarray, not a list of texts; give one text per record$"),
        (pd.DataFrame({"sentence": ["a"]}), "^rows are of type DataFrame, not a list of texts; give one text per rec"),
        (["a", None], "^rows: record 1 is of type NoneType; give every record as a text$"),
        (b"ab", "^rows: record 0 is of type int; give every record as a text$"),
    ],
)
def test_wrong_rows(rows, message):
    with pytest.raises(ValueError, match=message):
        Tokens()(rows)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "^length=0: expected an integer >= 1 and <= 65536; "),
        ({"length": True}, "^length=true: expected an integer >= 1 and <= 65536; "),
        ({"buckets": 1}, "^buckets=1: expected an integer >= 2 and <= 4294967296; "),
        ({"buckets": 10.5}, "^buckets=10.5: expected an integer >= 2 and <= 4294967296; "),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Tokens(**settings)


def test_incomplete_description():
    with pytest.raises(ValueError, match="preprocessing of kind tokens is incomplete"):
        from_json({"kind": "tokens", "length": 3})
