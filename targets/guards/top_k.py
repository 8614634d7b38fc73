"""The top k: only the largest probabilities are let out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Float32
from pydantic import Field

from palisade.fields import Count
from palisade.targets.guards.guard import Guard, Query
from palisade.targets.guards.probabilities import probabilities


def holds_back(k: int, classes: int) -> bool:
    """True if the probabilities below the top k do not follow from these: all of them sum to 1."""
    return k < classes - 1


def check_top_k(key: str, k: int | None, classes: int, instead: str) -> None:
    """Raises ValueError for so many probabilities that the others follow from them.

    Args:
        key: the setting that holds the number.
        k: of the largest probabilities that are shown; None: all, knowingly.
        classes: how many there are.
        instead: what to choose where no number would do.
    """
    if k is not None and not holds_back(k, classes):
        rule = f"expected at most {classes - 2}" if classes > 2 else "expected at least 3 classes"
        remedy = "choose fewer" if classes > 2 else instead
        raise ValueError(f"{key}={k}: {rule}, since {classes} probabilities sum to 1; {remedy}")


@dataclass(frozen=True, kw_only=True)
class TopK(Guard):
    """The k largest probabilities; all others read 0, so that an answer need not sum to 1.

    The probabilities left out reveal little about members: the largest is the one that training raises (Shokri et al.
    2017, section VIII, found its top 3 as informative as the whole vector).

    Args:
        k: how many, at least 1.

    Raises:
        ValueError: if k is no such number.
    """

    k: Annotated[Count, Field(examples=[3])]

    name = "topk"

    @property
    def strength(self) -> float:
        """The number k of probabilities that are let out."""
        return self.k

    @property
    def top_k(self) -> int:
        """The number k of probabilities that are let out."""
        return self.k

    def answer(self, query: Query) -> Float32[np.ndarray, "records classes"]:
        """Probabilities of the k likeliest classes, 0 for all others; of equal ones the first class counts."""
        answers = probabilities(query.logits)
        left_out = np.argsort(-answers, axis=-1, kind="stable")[:, self.k :]
        np.put_along_axis(answers, left_out, 0, axis=-1)
        return answers
