"""Signals of answers: confidence, log-odds and entropies."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.special import log_softmax

from palisade.attacks.parts.blocks import room

Signal = Callable[[Float[np.ndarray, "records classes"], Int[np.ndarray, "records"]], Float[np.ndarray, "records"]]

# The smallest float32 above zero: a probability that was rounded to zero counts as this much, which keeps φ finite.
MIN_PROBABILITY = float(np.finfo(np.float32).smallest_subnormal)
MIN_RECORDS_TO_STANDARDIZE = 100
"""Records below which the center and the spread of a model's φ are mostly noise."""
TAIL_SHARE = 0.05
"""Share of a model's φ at either end that counts no more than the quantile where it begins."""
LARGEST_LOGIT = 1e60  # what larger logits count as: the squares of their squares stay finite in float64
MIN_LOG_ARGUMENT = 1e-30  # what logarithms of the entropies are cut off at (Song & Mittal 2021, section 3.2)


ROW_COLUMNS = ("log_odds", "entropy", "modified_entropy")
"""Signals of a record, beside its predicted class and log p at some temperatures."""
CONFIDENCE_PREFIX = "log_confidence "
"""Beginning of a column's name, before the temperature."""


def confidence_column(temperature: float) -> str:
    """The name of the column of log p at a temperature."""
    return f"{CONFIDENCE_PREFIX}{float(temperature)}"


def row_type(temperatures: Iterable[float]) -> np.dtype[np.void]:
    """Columns of the signals of a record, float32, and its predicted class.

    Args:
        temperatures: at which log p is there.
    """
    names = (*ROW_COLUMNS, *map(confidence_column, temperatures))
    return np.dtype([("predicted", np.int32), *((name, np.float32) for name in names)])


def token_rows(
    mean_log_probabilities: Float[np.ndarray, "models records"],
) -> Shaped[np.ndarray, "models records"]:
    """Signals of texts: φ = log(p̄/(1 − p̄)) with p̄ = exp(mean ℓ_t), the probability of a token on the geometric mean.

    The loss log(1 + e^−φ) is then the mean of −ℓ_t. A text has no class of its own: the predicted one is 0 throughout.

    Args:
        mean_log_probabilities: mean ℓ_t over the tokens of each text, in nats.
    """
    mean = np.minimum(mean_log_probabilities.astype(np.float64), -MIN_PROBABILITY)
    names = ("log_odds", confidence_column(1.0))
    rows = np.zeros(mean.shape, dtype=[("predicted", np.int32), *((name, np.float64) for name in names)])
    rows["log_odds"], rows[confidence_column(1.0)] = mean - np.log(-np.expm1(mean)), mean
    return rows


def temperatures_of(rows: Iterable[np.dtype[np.void]]) -> tuple[float, ...]:
    """Temperatures at which all of some signals hold log p, in order."""
    columns = set.intersection(*(set(row.names or ()) for row in rows))
    held = (name.removeprefix(CONFIDENCE_PREFIX) for name in columns if name.startswith(CONFIDENCE_PREFIX))
    return tuple(sorted(map(float, held)))


def bounded(logits: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Logits in float64, of at most 1e60 in size, so that no signal of finite logits overflows."""
    return np.clip(logits.astype(np.float64), -LARGEST_LOGIT, LARGEST_LOGIT)


def log_odds_of_logits(
    logits: Float[np.ndarray, "records classes"], labels: Int[np.ndarray, "records"]
) -> Float[np.ndarray, "records"]:
    """φ = z_y − log Σ_{j≠y} exp z_j."""
    own, others = _split(bounded(logits), labels, fill=-np.inf)
    top = others.max(axis=1)
    return own - top - np.log(np.exp(others - top[:, None]).sum(axis=1))


def log_odds_of_probabilities(
    probabilities: Float[np.ndarray, "records classes"],
    labels: Int[np.ndarray, "records"],
    least: float = MIN_PROBABILITY,
) -> Float[np.ndarray, "records"]:
    """φ = log p_y − log Σ_{j≠y} p_j; never by 1 − p_y, which float32 turns into zero for a well-fitted record.

    Args:
        probabilities: as released.
        labels: the true classes.
        least: what a zero counts as.
    """
    own, others = _split(probabilities, labels, fill=0.0)
    return np.log(np.maximum(own, least)) - np.log(np.maximum(others.sum(axis=1), least))


def entropy(
    probabilities: Float[np.ndarray, "records classes"], labels: Int[np.ndarray, "records"] | None = None
) -> Float[np.ndarray, "records"]:
    """−Σ p_i log p_i in nats; the true class plays no part."""
    p = probabilities.astype(np.float64)
    return -(p * np.log(np.maximum(p, MIN_LOG_ARGUMENT))).sum(axis=1)


def modified_entropy(
    probabilities: Float[np.ndarray, "records classes"], labels: Int[np.ndarray, "records"]
) -> Float[np.ndarray, "records"]:
    """−(1 − p_y) log p_y − Σ_{i≠y} p_i log(1 − p_i): low only where the model is sure of the *true* class.

    Song & Mittal 2021, "Systematic Evaluation of Privacy Risks of Machine Learning Models", equation 8.
    """
    own, others = _split(probabilities, labels, fill=0.0)
    missed = np.minimum(others.sum(axis=1), 1.0)  # 1 − p_y, which float32 would turn into zero
    log_complement = np.log(np.maximum(1 - others, MIN_LOG_ARGUMENT))
    return -missed * np.log(np.maximum(own, MIN_LOG_ARGUMENT)) - (others * log_complement).sum(axis=1)


def log_confidence_of_logits(
    logits: Float[np.ndarray, "records classes"], labels: Int[np.ndarray, "records"], temperature: float = 1.0
) -> Float[np.ndarray, "records"]:
    """log p_y of softmax(z / T)."""
    return log_softmax(bounded(logits) / temperature, axis=1)[np.arange(len(labels)), labels]


def centers_and_spreads(
    phi: Float[np.ndarray, "models records queries"],
) -> tuple[Float[np.ndarray, "models queries"], Float[np.ndarray, "models queries"]] | None:
    """Mean and standard deviation of each model's φ over all records, members or not, winsorized at 5 and 95 %.

    Median and quartiles would jump where members and non-members form two heaps and the quantile falls between them.

    Returns:
        None where there is nothing to standardize by: fewer than 100 records, or a model without any spread.
    """
    if phi.shape[1] < MIN_RECORDS_TO_STANDARDIZE:
        return None
    centers, spreads = np.empty((2, phi.shape[0], phi.shape[2]))
    for model, query in np.ndindex(centers.shape):
        own = phi[model, :, query]
        low, high = np.quantile(own, [TAIL_SHARE, 1 - TAIL_SHARE])
        if not high > low:
            return None
        winsorized = np.clip(own, low, high)
        centers[model, query], spreads[model, query] = winsorized.mean(), winsorized.std()
    return centers, spreads


def standardized(
    phi: Float[np.ndarray, "models records queries"], *, tolerance: float = 1.0
) -> Float[np.ndarray, "models records queries"]:
    """φ with the center and the spread of every model brought to those of the fleet's median model.

    A record is compared across models: one that is much surer of everything, such as one that diverged, would
    otherwise set every variance. A model's own answers decide, no membership. As it is where `centers_and_spreads`
    gives None.

    Args:
        phi: log-odds.
        tolerance: models whose spread is within this factor of the median model's stay as they are, at least 1.
    """
    if (measured := centers_and_spreads(phi)) is None:
        return phi
    center, spread = measured
    scale, middle = np.median(spread, axis=0) / spread, np.median(center, axis=0)
    alike = (scale < tolerance) & (scale > 1 / tolerance)
    moved = np.moveaxis(room((phi.shape[2], *phi.shape[:2])), 0, -1)
    for model, query in np.ndindex(alike.shape):
        own, one = phi[model, :, query], (model, query)
        moved[model, :, query] = own if alike[one] else (own - center[one]) * scale[one] + middle[query]
    return moved


def _split(
    outputs: Float[np.ndarray, "records classes"], labels: Int[np.ndarray, "records"], fill: float
) -> tuple[Float[np.ndarray, "records"], Float[np.ndarray, "records classes"]]:
    """The true class's output, and all outputs with the true class's one replaced by `fill`."""
    others = outputs.astype(np.float64)
    rows = np.arange(len(others))
    own = others[rows, labels]
    others[rows, labels] = fill
    return own, others
