"""Probabilities as guards let them out: float32, of which the largest is always that of the predicted class."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, Int64
from scipy.special import softmax


def probabilities(
    logits: Float[np.ndarray, "records classes"], temperature: float = 1.0
) -> Float32[np.ndarray, "records classes"]:
    """softmax(z / T), which predicts what the logits do even where rounding makes classes equal."""
    exact = softmax(logits.astype(np.float64) / temperature, axis=-1)
    return predicting(logits.argmax(axis=-1), exact.astype(np.float32))


def predicting(
    label: Int64[np.ndarray, " records"], answers: Float32[np.ndarray, "records classes"]
) -> Float32[np.ndarray, "records classes"]:
    """Probabilities, those of other classes lowered to just below the label's where they reach it."""
    own = np.take_along_axis(answers, label[:, None], axis=-1)
    other = np.arange(answers.shape[-1]) != label[:, None]
    return np.where(other & (answers >= own), np.nextafter(own, np.float32(0)), answers)
