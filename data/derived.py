"""Keys that follow from the secret of a run, in the place of the secret: a worker on another machine has no other.

A worker asks whoever has the secret for the keys of its models, as it comes to need them. From a key follows what is
drawn for one purpose and one model, and never the secret, nor the keys of other purposes and models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from palisade.data.secret import Secret


class KeyQuestion(NamedTuple):
    """Question of a worker for a key.

    Args:
        stages: names of the stages of a defense, whose secrets follow one from the other.
        kind: of the secret's methods: `key`, `torch_words`, or `seal`.
        arguments: of that method.
    """

    stages: tuple[str, ...]
    kind: str
    arguments: tuple[str | int | bytes, ...]


KINDS_OF_QUESTIONS = ("key", "torch_words", "seal")


def answer(secret: Secret, question: KeyQuestion) -> bytes:
    """The key that is asked for.

    Raises:
        ValueError: if something else is asked for.
    """
    if question.kind not in KINDS_OF_QUESTIONS:
        raise ValueError(f"a worker asked for {question.kind}, which is no key")
    for name in question.stages:
        secret = secret.stage(name)
    key = getattr(secret, question.kind)(*question.arguments)
    return key.encode() if isinstance(key, str) else bytes(key)


class DerivedKeys(Secret):
    """A secret without its value: every key is asked for once, and all draws are those of the secret itself.

    Args:
        ask: gives the key that a question asks for.
        user_chosen: whether a person chose the secret.
        stages: see `KeyQuestion`.
    """

    _ask: Callable[[KeyQuestion], bytes]
    _stages: tuple[str, ...]
    _keys: dict[KeyQuestion, bytes]

    def __init__(self, ask: Callable[[KeyQuestion], bytes], *, user_chosen: bool, stages: tuple[str, ...] = ()) -> None:
        object.__setattr__(self, "user_chosen", user_chosen)  # and no `value`: code that reads one fails
        object.__setattr__(self, "_ask", ask)
        object.__setattr__(self, "_stages", stages)
        object.__setattr__(self, "_keys", {})

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def stage(self, name: str) -> Secret:
        """The keys of one stage of a defense."""
        return DerivedKeys(self._ask, user_chosen=self.user_chosen, stages=(*self._stages, name))

    def key(self, purpose: str, model: int, size: int) -> bytes:
        """See `Secret.key`."""
        return self._asked("key", str(purpose), int(model), size)

    def torch_words(self, purpose: str, model: int, step: int) -> bytes:
        """See `Secret.torch_words`."""
        return self._asked("torch_words", str(purpose), int(model), int(step))

    def seal(self, content: bytes) -> str:
        """See `Secret.seal`."""
        return self._asked("seal", content).decode()

    def _asked(self, kind: str, *arguments: str | int | bytes) -> bytes:
        question = KeyQuestion(self._stages, kind, arguments)
        if question not in self._keys:
            self._keys[question] = self._ask(question)
        return self._keys[question]
