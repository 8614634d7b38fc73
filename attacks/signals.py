"""What one query tells about a record: log-odds from logits or from probabilities, in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

# The smallest float32 above zero: a probability that was rounded to zero counts as this much, which keeps φ finite.
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)


def log_odds_of_logits(
    logits: Float[np.ndarray, "records classes"], labels: Int[np.ndarray, "records"]
) -> Float[np.ndarray, "records"]:
    """φ = z_y − log Σ_{j≠y} exp z_j."""
    own, others = _split(logits, labels, fill=-np.inf)
    top = others.max(axis=1)
    return own - top - np.log(np.exp(others - top[:, None]).sum(axis=1))


def log_odds_of_probabilities(
    probabilities: Float[np.ndarray, "records classes"], labels: Int[np.ndarray, "records"]
) -> Float[np.ndarray, "records"]:
    """φ = log p_y − log Σ_{j≠y} p_j; never by 1 − p_y, which float32 turns into zero for a well-fitted record."""
    own, others = _split(probabilities, labels, fill=0.0)
    return np.log(np.maximum(own, SMALLEST)) - np.log(np.maximum(others.sum(axis=1), SMALLEST))


def each_query(
    signal: Callable[[np.ndarray, np.ndarray], np.ndarray],
    outputs: Float[np.ndarray, "models records queries classes"],
    labels: Int[np.ndarray, "records"],
) -> Float[np.ndarray, "models records queries"]:
    """A signal of every model and query; one block at a time, since the outputs may be larger than the memory."""
    values = np.empty(outputs.shape[:3])
    for model, query in np.ndindex(outputs.shape[0], outputs.shape[2]):
        values[model, :, query] = signal(outputs[model, :, query], labels)
    return values


def _split(
    outputs: Float[np.ndarray, "records classes"], labels: Int[np.ndarray, "records"], fill: float
) -> tuple[Float[np.ndarray, "records"], Float[np.ndarray, "records classes"]]:
    """The true class's output, and all outputs with the true class's one replaced by `fill`."""
    others = outputs.astype(np.float64)
    rows = np.arange(len(others))
    own = others[rows, labels]
    others[rows, labels] = fill
    return own, others
