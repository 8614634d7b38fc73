"""Completions of language models in the OpenAI form: prompts go on, and log-probabilities come as the guard allows."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from palisade.data.sequences import LEAST_LOGPROB, Sequences
from palisade.serving.bodies import RefusedError
from palisade.serving.gathering import Gathering
from palisade.serving.served import Served
from palisade.targets.release import Release

DEFAULT_TOKENS = 16
MAX_LOGPROBS = 5
"""Likeliest tokens that may be asked for at every position."""
TOKENS_AT_ONCE = 1024
"""Tokens that all prompts of a request together may go on by."""
WAITING_TOKENS = 8192
"""Tokens, or prompts that do not go on, in the queue at most; who comes then is asked to come back."""
MAX_SEED = 2**63 - 1
NEUTRAL_VALUES: Mapping[str, Sequence[Any]] = {
    "n": [1], "best_of": [1], "temperature": [1], "top_p": [1], "presence_penalty": [0], "frequency_penalty": [0],
    "stop": [None, []], "suffix": [None, ""], "logit_bias": [None, {}], "stream": [False], "stream_options": [None],
}  # fmt: skip
"""Names of the form that have no other values here: a text is drawn by the model's own law, and sent as a whole."""
OWN_NAMES = ("prompt", "model", "max_tokens", "seed", "echo", "logprobs", "user")


@dataclass(frozen=True, kw_only=True)
class CompletionRequest:
    """Prompts, and how they are to be answered.

    Args:
        prompts: texts.
        tokens: by which each goes on, at most.
        seed: of the draws.
        echo: prompts stand before what follows.
        logprobs: likeliest tokens beside each of a prompt's own; None: no log-probabilities.
        pieces: in which the prompts are read, at least one each.
    """

    prompts: list[str]
    tokens: int
    seed: int
    echo: bool
    logprobs: int | None
    pieces: int

    @property
    def weight(self) -> int:
        """Passes through the model, about."""
        return self.pieces * max(1, self.tokens)

    def digests(self, served: Served) -> list[bytes]:
        """A hash of each prompt; where it goes on, with what decides how: another seed has another answer."""
        how = f"{self.tokens} {self.seed}" if self.tokens else ""
        return [served.digest(f"{how}\0{prompt}".encode()) for prompt in self.prompts]


def completion_request(content: Mapping[str, Any], served: Served) -> CompletionRequest:
    """The request in a body, `{"prompt": …, "max_tokens": …, "seed": …, "echo": …, "logprobs": …}`.

    Raises:
        RefusedError: if it is none, asks for too much, or for what the guard holds back.
    """
    prompts = content.get("prompt")
    prompts = [prompts] if isinstance(prompts, str) else prompts
    if not isinstance(prompts, list) or not prompts or not all(isinstance(text, str) for text in prompts):
        raise RefusedError(400, "prompt: expected a text, or a list of texts; send no token numbers")
    served.rows.check_count(len(prompts))
    if content.get("model", served.name) != served.name:
        raise RefusedError(404, f"model: expected {served.name}; leave it out")
    tokens = _whole(content, "max_tokens", DEFAULT_TOKENS, TOKENS_AT_ONCE)
    if len(prompts) * tokens > TOKENS_AT_ONCE:
        raise RefusedError(413, f"expected at most {TOKENS_AT_ONCE} tokens for all prompts; send fewer")
    step = served.release.preprocessing
    assert isinstance(step, Sequences)
    lengths = [len(step.encode(text)) for text in prompts]
    if tokens and max(lengths) + tokens > step.length:
        raise RefusedError(400, f"expected prompts that go on within {step.length} tokens; shorten them, or max_tokens")
    if not isinstance(echo := content.get("echo", False), bool):
        raise RefusedError(400, "echo: expected true or false; leave it out")
    pieces = sum(max(1, -(-length // step.length)) for length in lengths)
    if pieces > served.most:
        raise RefusedError(
            413, f"expected at most {served.most} times {step.length} tokens; send fewer or shorter texts"
        )
    request = CompletionRequest(
        pieces=pieces, prompts=prompts, tokens=tokens, seed=_whole(content, "seed", 0, MAX_SEED), echo=echo,
        logprobs=None if content.get("logprobs") is None else _whole(content, "logprobs", 0, MAX_LOGPROBS),
    )  # fmt: skip
    _check_others(content, request)
    _check_logprobs(request, served.release)
    return request


def _whole(content: Mapping[str, Any], name: str, default: int, most: int) -> int:
    value = content.get(name)
    value = default if value is None else value
    if type(value) is not int or not 0 <= value <= most:
        raise RefusedError(400, f"{name}: expected a whole number from 0 to {most}; choose e.g. {default}")
    return value


def _check_others(content: Mapping[str, Any], request: CompletionRequest) -> None:
    """Raises RefusedError for what would be asked in vain."""
    for name, values in NEUTRAL_VALUES.items():
        undrawn = name == "temperature" and request.tokens == 0
        if name in content and content[name] is not None and content[name] not in values and not undrawn:
            raise RefusedError(400, f"{name}: expected no other value than that of a plain completion; leave it out")
    if content.keys() - {*OWN_NAMES, *NEUTRAL_VALUES}:
        raise RefusedError(400, f"expected {', '.join(OWN_NAMES)} alone; remove the others")


def _check_logprobs(request: CompletionRequest, release: Release) -> None:
    if request.logprobs is None:
        return
    if release.guard.level != "logits":
        raise RefusedError(400, f"logprobs: expected null, as guard={release.guard.name} lets out texts alone")
    if request.tokens or not request.echo:
        raise RefusedError(400, "logprobs: expected echo=true and max_tokens=0 beside it; ask about the text anew")


class Writer:
    """One queue before a language model; each request is answered by itself.

    Args:
        release: that answers.
    """

    def __init__(self, release: Release) -> None:
        assert isinstance(release.preprocessing, Sequences)
        self._release, self._step = release, release.preprocessing
        self._gathering: Gathering[CompletionRequest, list[dict[str, Any]]] = Gathering(
            lambda requests: [self._choices(request) for request in requests], lambda request: request.weight, 0
        )

    def check_room(self) -> None:
        """Raises RefusedError if too much is waiting."""
        if self._gathering.weight_waiting >= WAITING_TOKENS:
            raise RefusedError(503, "too many requests are waiting; come back", 1.0)

    async def answers(self, asked: CompletionRequest) -> list[dict[str, Any]]:
        """A choice for each prompt, as the form has them."""
        return await self._gathering.outcome(asked)

    def _choices(self, request: CompletionRequest) -> list[dict[str, Any]]:
        return [
            {
                "index": index,
                "text": self._text(prompt, request),
                "logprobs": None if request.logprobs is None else self._logprobs(prompt, request.logprobs),
                "finish_reason": "length",
            }
            for index, prompt in enumerate(request.prompts)
        ]

    def _text(self, prompt: str, request: CompletionRequest) -> str:
        follows = self._release.generate(prompt, request.tokens, request.seed) if request.tokens else ""
        return prompt + follows if request.echo else follows

    def _logprobs(self, prompt: str, most: int) -> dict[str, Any]:
        """Log-probabilities of a prompt's own tokens, a long one read in pieces, and the likeliest beside each."""
        words: list[str] = []
        values: list[float] = []
        likeliest: list[dict[str, float]] = []
        for tokens, law in self._release.token_laws(prompt):
            law = np.maximum(law, LEAST_LOGPROB)
            words += [self._word(token) for token in tokens.tolist()]
            values += law[np.arange(len(law)), tokens].tolist()
            places = np.argsort(-law, axis=1, kind="stable")[:, :most].tolist()
            likeliest += [
                {self._word(token): float(row[token]) for token in own} for row, own in zip(law, places, strict=True)
            ]
        return {
            "tokens": words, "token_logprobs": values, "top_logprobs": likeliest if most else None,
            "text_offset": self._step.offsets(prompt),
        }  # fmt: skip

    def _word(self, token: int) -> str:
        """A token as text; bytes that make no letter by themselves are written as such."""
        word = self._step.decode([token])
        try:
            return word.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in word)


def completion(name: str, choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The answer to a request, as the form has it.

    Args:
        name: of the model.
        choices: one for each prompt.
    """
    return {
        "id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time()), "model": name,
        "choices": choices,
    }  # fmt: skip
