"""Keys without the secret: every draw is the same, and nothing else can be asked for."""

from __future__ import annotations

import numpy as np
import pytest

from palisade.data.derived import DerivedKeys, KeyQuestion, answer
from palisade.data.secret import Secret, standing_in

RUN_SECRET = Secret.from_text("derived")


def test_every_draw_is_that_of_the_secret():
    asked: list[KeyQuestion] = []

    def ask(question: KeyQuestion) -> bytes:
        asked.append(question)
        return answer(RUN_SECRET, question)

    keys = DerivedKeys(ask, user_chosen=True)
    for mine, its in ((keys, RUN_SECRET), (keys.stage("a").stage("b"), RUN_SECRET.stage("a").stage("b"))):
        for model, step in ((0, 0), (3, 0), (3, 7)):
            assert np.array_equal(mine.numpy("x", model, step).random(9), its.numpy("x", model, step).random(9))
            assert np.array_equal(mine.bits("y", model, step, count=9), its.bits("y", model, step, count=9))
            assert mine.torch("z", model, step).get_state().equal(its.torch("z", model, step).get_state())
            assert mine.digest("d", model, step, content=b"c") == its.digest("d", model, step, content=b"c")
        assert mine.seal(b"content") == its.seal(b"content")
        assert mine.sealed("identity") == its.sealed("identity")
    assert len(asked) == len({*asked}), "each once"
    sent = repr(asked).encode() + b"".join(answer(RUN_SECRET, question) for question in asked)
    assert RUN_SECRET.value not in sent and RUN_SECRET.value.hex().encode() not in sent


def test_nothing_but_keys_can_be_asked_for():
    with pytest.raises(ValueError, match="which is no key"):
        answer(RUN_SECRET, KeyQuestion((), "__repr__", ()))
    with pytest.raises(AttributeError):
        DerivedKeys(lambda question: b"", user_chosen=False).value  # noqa: B018


def test_keys_stand_in_for_a_file_that_is_not_there(tmp_path):
    keys = DerivedKeys(lambda question: answer(RUN_SECRET, question), user_chosen=True)
    with standing_in({tmp_path / "secret": keys}):
        assert Secret.load(tmp_path / "secret") is keys
    with pytest.raises(FileNotFoundError):
        Secret.load(tmp_path / "secret")
