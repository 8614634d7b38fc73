"""What a claimed (ε, δ) means for attacks."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

LARGEST_EXPONENT = 700.0  # e^ε overflows above; the bound is far above 1 there already


def tpr_ceiling(fpr: Float[np.ndarray, "rates"], curve: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "rates"]:
    """The largest TPR that any attack can have at each FPR against a mechanism with this privacy curve.

    Every point (ε, δ) holds for "member against non-member" and the reverse, hence TPR ≤ e^ε·FPR + δ and
    TPR ≤ 1 − e^−ε(1 − δ − FPR) (Kairouz et al. 2015, theorem 2.1). An attack above the ceiling disproves the claim; one
    below proves nothing.

    Args:
        fpr: in [0, 1].
        curve: rows (ε, δ(ε)) from the accountant, ε ≥ 0; more rows make the ceiling tighter.

    Raises:
        ValueError: if a rate is outside [0, 1] or the curve has no rows of ε ≥ 0 and δ in [0, 1].
    """
    fpr, curve = np.asarray(fpr, dtype=np.float64), np.asarray(curve, dtype=np.float64)
    if not ((fpr >= 0) & (fpr <= 1)).all():
        raise ValueError(f"fpr={fpr.min()}..{fpr.max()}; rates lie between 0 and 1")
    if curve.ndim != 2 or curve.shape[1] != 2 or len(curve) == 0:
        raise ValueError(f"curve.shape={curve.shape}; pass rows (ε, δ), at least one")
    epsilon, delta = curve.T
    if not ((epsilon >= 0) & (delta >= 0) & (delta <= 1)).all():
        raise ValueError("curve holds a row outside ε ≥ 0, δ in [0, 1]; pass the accountant's ε and δ(ε)")
    rate, growth = fpr[..., None], np.exp(np.minimum(epsilon, LARGEST_EXPONENT))
    forward = growth * rate + delta
    backward = 1 - (1 - delta - rate) / growth
    return np.clip(np.minimum(forward, backward).min(axis=-1), fpr, 1.0)
