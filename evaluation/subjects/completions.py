"""A language model behind the OpenAI completions form: asked for the log-probabilities of the tokens of texts."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from palisade.evaluation.subjects.audited_model import AuditedModel
from palisade.evaluation.subjects.endpoint import ANSWER_TOLERANCE, AnswerLog, Asking, posted
from palisade.evaluation.subjects.texts import word_counts
from palisade.fields import CheckedFields, Count, Positive, remedy

TextAnswer = dict[str, list[Any]]
"""Per-token answers about one text, lists by name: `token_logprobs`, and `base_logprobs`, `token_greedy` if known."""


@dataclass(frozen=True, kw_only=True)
class Completions(CheckedFields):
    """A URL that returns the log-probabilities of a prompt's own tokens (`echo`), and the way it is asked.

    It gets `{"model": …, "prompt": […], "max_tokens": 0, "echo": true, "logprobs": 1}` by POST, as vLLM and others
    take it at `/v1/completions`. Beside the audited model it may serve the public one that training began with.

    Args:
        endpoint: the URL.
        served_model: name of the audited model there; None: the server serves one.
        base_model: name of the public model that it was trained from; None: it is not asked.
        budget: texts at most, those of earlier calls counted; None: no limit.
        batch: texts in one call.
        rate: calls a second at most; None: no limit.
        timeout: seconds until it must have answered.

    Raises:
        ValueError: if a setting is out of range, or the endpoint is no URL.
    """

    endpoint: Annotated[str, remedy("give http://…/v1/completions")]
    served_model: str | None = None
    base_model: str | None = None
    budget: Count | None = None
    batch: Count = 32
    rate: Positive | None = None
    timeout: Positive = 30.0

    answers = "token_logprobs"
    classes = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(
                f"endpoint={self.endpoint}: expected a URL with answers=token_logprobs; give http://…/v1/completions"
            )

    def open(self, folder: Path) -> AuditedModel:
        """The endpoint as an audit asks it; answers are stored in a file of this folder, one for each of its models."""
        asked = f"{self.endpoint} {self.served_model} {self.base_model}"
        name = hashlib.blake2b(asked.encode(), digest_size=4).hexdigest()
        asking = AskingTexts(self, self.ask, AnswerLog(folder / f"answers-{name}.jsonl"))
        return AuditedModel(
            name=f"endpoint {self.endpoint}" + ("" if self.served_model is None else f", {self.served_model}"),
            answers="token_logprobs", ask=asking.ask, inputs=lambda rows: word_counts(rows["text"].to_numpy(dtype=str)),
            takes_inputs=False, takes_tables=True, prepare=asking.prepare,
        )  # fmt: skip

    def ask(self, rows: Any) -> list[TextAnswer]:
        """Per-token answers about texts.

        Args:
            rows: a table with a column `text`.

        Raises:
            ValueError: if the endpoint does not answer in this form.
        """
        texts = rows["text"].tolist()
        answers = self._asked(texts, self.served_model)
        if self.base_model is None:
            return answers
        for answer, base in zip(answers, self._asked(texts, self.base_model), strict=True):
            if len(base["token_logprobs"]) != len(answer["token_logprobs"]):
                raise ValueError(
                    f"base_model={self.base_model}: expected the tokens of served_model={self.served_model}, and it"
                    " cuts texts into others; name the public model that training began with, or leave it out"
                )
            answer["base_logprobs"] = base["token_logprobs"]
        return answers

    def _asked(self, texts: Sequence[str], model: str | None) -> list[TextAnswer]:
        body: dict[str, Any] = {"prompt": list(texts), "max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0}
        content = posted(self.endpoint, body | ({} if model is None else {"model": model}), self.timeout, len(texts))
        try:
            choices = sorted(json.loads(content)["choices"], key=lambda choice: choice.get("index", 0))
            answers = [_of_prompt(choice["logprobs"], text) for choice, text in zip(choices, texts, strict=True)]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ValueError(
                f"endpoint={self.endpoint}: expected choices with logprobs of each prompt's own tokens, as of the"
                " OpenAI completions form with echo; ask a server that returns them"
            ) from None
        return answers


def _of_prompt(logprobs: Mapping[str, Any], text: str) -> TextAnswer:
    """Log-probabilities of a prompt's tokens; what a server added beyond it is left out, as is a first without one."""
    values, places = logprobs["token_logprobs"], logprobs.get("text_offset")
    count = len(values) if not places else sum(place < len(text) for place in places)
    start = int(values[0] is None)
    own = [float(value) for value in values[start:count]]
    if not own or not all(math.isfinite(value) and value <= ANSWER_TOLERANCE for value in own):
        raise ValueError("no log-probabilities")
    answer: TextAnswer = {"token_logprobs": [min(value, 0.0) for value in own]}
    if top := logprobs.get("top_logprobs"):
        best = [max(each.values()) if each else -math.inf for each in top[start:count]]
        answer["token_greedy"] = [bool(value >= most) for value, most in zip(own, best, strict=True)]
    return answer


class AskingTexts(Asking):
    """One audit's queries about texts; answers are lists of any length."""

    def _checked(self, answers: Any, count: int) -> list[Any]:
        if len(answers) != count or len({tuple(answer) for answer in answers}) != 1:
            raise ValueError(
                f"endpoint={self.endpoint.endpoint}: expected one answer of a kind for each of {count} texts, not"
                f" {len(answers)}; ask fewer at once with batch=<texts>"
            )
        return list(answers)

    def _alike(self, now: Sequence[Any], before: Sequence[Any]) -> bool:
        pairs = [(one["token_logprobs"], other["token_logprobs"]) for one, other in zip(now, before, strict=True)]
        return all(
            len(one) == len(other) and np.allclose(one, other, rtol=ANSWER_TOLERANCE, atol=ANSWER_TOLERANCE)
            for one, other in pairs
        )
