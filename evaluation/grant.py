"""What attackers are granted of a run: the level of its answers, and whether the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy.special import softmax


@dataclass(frozen=True, kw_only=True)
class Grant:
    """The part of a threat model that the evaluator decides, the same for every attack.

    Args:
        outputs: what a query returns.
        decimals: to how many decimals probabilities are rounded; None: not at all.
        top_k: how many of the probabilities are returned, the largest ones; None: all.
        weights: whether attackers hold the models themselves, as when the weights are released or leak.

    Raises:
        ValueError: if `outputs` is unknown, or a restriction of probabilities is asked for without them.
    """

    outputs: Literal["label", "probabilities", "logits"] = "logits"
    decimals: int | None = None
    top_k: int | None = None
    weights: bool = False

    def __post_init__(self) -> None:
        if self.outputs not in ("label", "probabilities", "logits"):
            raise ValueError(f"threat.outputs={self.outputs} is unknown; choose label, probabilities or logits")
        for name, value, least in (("decimals", self.decimals, 0), ("top_k", self.top_k, 1)):
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"threat.{name}={value} is no count; choose a whole number from {least} on")
            if self.outputs != "probabilities":
                raise ValueError(f"threat.{name}={value} restricts probabilities; set threat.outputs=probabilities")

    @property
    def access(self) -> str:
        """label_only, black_box or white_box."""
        return "white_box" if self.weights else "label_only" if self.outputs == "label" else "black_box"

    @property
    def level(self) -> str:
        """In a few words, such as `probabilities, 2 decimals` or `top-3`."""
        if self.outputs != "probabilities":
            return self.outputs
        shown = "probabilities" if self.top_k is None else f"top-{self.top_k}"
        return shown if self.decimals is None else f"{shown}, {self.decimals} decimals"

    def released(self, logits: Float[np.ndarray, "*shape classes"]) -> dict[str, Any]:
        """Logits as they are released: one of `logits`, `probabilities` and `predictions`, by name."""
        if self.outputs == "logits":
            return {"logits": logits}
        if self.outputs == "label":
            return {"predictions": logits.argmax(axis=-1)}
        probabilities = softmax(logits, axis=-1)
        if self.top_k is not None and self.top_k < probabilities.shape[-1]:
            least = np.partition(probabilities, -self.top_k, axis=-1)[..., [-self.top_k]]
            probabilities = np.where(probabilities >= least, probabilities, 0.0).astype(probabilities.dtype)
        if self.decimals is not None:
            probabilities = probabilities.round(self.decimals)
        return {"probabilities": probabilities}

    def answer(self, logits: Float[np.ndarray, "n classes"]) -> np.ndarray:
        """What a query with n inputs returns."""
        (answer,) = self.released(logits).values()
        return np.asarray(answer)
