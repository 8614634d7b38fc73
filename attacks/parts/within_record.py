"""Least squares within records: what explains how a record's signal varies from shadow to shadow."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

RIDGE_PENALTY = 1e-5
AT_ONCE = 2**22
"""Numbers that are worked on together."""


def within_record_slopes(
    phi: Float[np.ndarray, "models records"],
    sums: Float[np.ndarray, "models records kernels"],
    membership: Bool[np.ndarray, "models records"],
    others: Bool[np.ndarray, "targets models"],
) -> Float[np.ndarray, "targets kernels"]:
    """Least squares of φ on the sums, both as deviations from the mean of a target's shadows on a record and side.

    Args:
        phi: log-odds.
        sums: `Similarities.sums` of the membership.
        membership: which model was trained on which record.
        others: the shadows of each target.
    """
    shadows, (models, records, kernels) = others.astype(np.float64), sums.shape
    products = np.zeros((models, (kernels + 1) ** 2))
    of_means = np.zeros((len(others), kernels + 1, kernels + 1))
    step = max(1, AT_ONCE // (models * (kernels + 1)))
    for block in (slice(start, start + step) for start in range(0, records, step)):
        deviations = phi[:, block] - phi[:, block].mean(axis=0)
        values = np.concatenate([sums[:, block], deviations[..., None]], axis=2, dtype=np.float64)
        products += (values.transpose(0, 2, 1) @ values).reshape(models, -1)
        for side in (membership[:, block], ~membership[:, block]):
            count = np.maximum(shadows @ side, 1)[..., None]
            total = shadows @ (values * side[..., None]).reshape(models, -1)
            weighed = total.reshape(*count.shape[:2], -1) / np.sqrt(count)
            of_means += weighed.transpose(0, 2, 1) @ weighed
    within = (shadows @ products).reshape(of_means.shape) - of_means
    within /= (shadows.sum(axis=1) * records)[:, None, None]
    gram, with_phi = within[:, :-1, :-1], within[:, :-1, -1]
    scale = np.sqrt(np.maximum(np.diagonal(gram, axis1=1, axis2=2), 0)) + 1e-12
    even = gram / (scale[:, :, None] * scale[:, None, :]) + RIDGE_PENALTY * np.eye(kernels)
    slopes: np.ndarray = np.linalg.solve(even, (with_phi / scale)[..., None])[..., 0] / scale
    return slopes
