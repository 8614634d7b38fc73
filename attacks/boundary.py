"""Boundary distance: how far must a record be moved before the model changes its mind?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import Field
from scipy.spatial.distance import cdist

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.blocks import room
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View
from palisade.fields import Seed

RECORDS_PER_BATCH = 32  # records that are moved at once; more would need more memory, not less time
START_RECORDS = 256  # records of other classes among which the nearest is the start
BISECTION_STEPS = 10  # the boundary is met to 1/1024 of the way
STEP_SIZES = 8  # step sizes that are tried at once, each half of the one before
FIRST_PROBES = 30  # directions of the first gradient estimate; of the t-th √t times as many
MIN_BUDGET = 60
"""Queries a record below which nothing is estimated."""
PROBE_REACH = 0.3  # how far probes reach, in distances between the record and the boundary

Wrong = Callable[[Float[np.ndarray, "n points d"]], Bool[np.ndarray, "n points"]]


@dataclass(frozen=True, kw_only=True)
class Boundary(Attack):
    """Score: L2 distance to the nearest input that is not given the true class, 0 where the record itself is not.

    Training pushes the decision boundary away from members (Choquette-Choo et al. 2021, "Label-Only Membership
    Inference Attacks", section 3; Li & Zhang 2021). The distance is found by HopSkipJump (Chen et al. 2020, algorithm
    2), untargeted: from a record of another class to the boundary, along it by gradients that are estimated from
    labels. What is found is an upper bound, the tighter the larger the budget. Binary features are moved as if they
    were continuous.

    Args:
        budget: queries a record at most, at least 60.
        records: how many are audited, drawn at random, at least 2; the others get no score. None: all.
        seed: of the draw and of the directions that are probed.

    Raises:
        ValueError: if a setting is out of range.
    """

    budget: Annotated[int, Field(ge=MIN_BUDGET)] = 500
    records: Annotated[int, Field(ge=2)] | None = 500
    seed: Seed = 0

    name = "boundary"
    idea = "Changes the record little by little until the model names another class: what it was trained on bears more."

    @property
    def threat(self) -> ThreatModel:
        """Labels alone, with the records and up to `budget` queries of its own choice for each."""
        return ThreatModel(features=True, free_queries=True, queries=self.budget, one_class=True)

    def missing(self, view: View) -> str | None:
        """The reason why it is skipped: besides its needs, tokens cannot be moved by small steps."""
        if (reason := super().missing(view)) is not None:
            return reason
        tokens = view.features is not None and np.issubdtype(view.features.dtype, np.integer)
        return "needs records that can be moved continuously; these are whole numbers (tokens)" if tokens else None

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        audited = np.random.default_rng(self.seed).permutation(view.records)[: self.records]
        scores = room((view.models, view.records))
        scores[:] = np.nan
        for model in range(view.models):
            scores[model, audited] = self._distances(view, model, audited)
        return scores

    def _distances(self, view: View, model: int, audited: Int[np.ndarray, "audited"]) -> Float[np.ndarray, "audited"]:
        """NaN where the model was never seen to give another class."""
        features = view.features
        assert features is not None
        shape, x, labels = features.shape[1:], features[audited].reshape(len(audited), -1), view.labels[audited]

        def predict(points: Float[np.ndarray, "*n d"]) -> Int[np.ndarray, "*n"]:
            answers = view.predict(model, points.reshape(-1, *shape).astype(x.dtype))
            return answers.reshape(points.shape[:-1])

        predicted = predict(x)
        starts, starts_predicted = x[:START_RECORDS], predicted[:START_RECORDS]

        def moved(batch: Int[np.ndarray, "n"], rng: np.random.Generator) -> Float[np.ndarray, "n"]:
            right = labels[batch, None]
            far = np.where(starts_predicted == right, np.inf, cdist(x[batch], starts))
            nearest = starts[far.argmin(axis=1)]
            return hop_skip_jump(lambda points: predict(points) != right, x[batch], nearest, self.budget - 1, rng)

        distances = np.where(predicted == labels, np.nan, 0.0)
        movable = np.flatnonzero((predicted == labels) & (predicted[:, None] != starts_predicted).any(axis=1))
        for first in range(0, len(movable), RECORDS_PER_BATCH):
            batch = movable[first : first + RECORDS_PER_BATCH]
            distances[batch] = moved(batch, np.random.default_rng((self.seed, first)))
        return distances


def hop_skip_jump(
    wrong: Wrong,
    x: Float[np.ndarray, "n d"],
    start: Float[np.ndarray, "n d"],
    budget: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "n"]:
    """The distance from each record to the nearest misclassified input found, by at most `budget` queries each.

    Args:
        wrong: whether each input near each record is misclassified.
        x: the records, classified correctly.
        start: a misclassified input for each.
        budget: queries a record.
        rng: draws the directions.
    """
    edge = _bisect(wrong, x, start)
    left, step = budget - BISECTION_STEPS, 1
    while (cost := (probes := int(FIRST_PROBES * np.sqrt(step))) + STEP_SIZES + BISECTION_STEPS) <= left:
        distance = np.linalg.norm(edge - x, axis=1)[:, None]
        normal = _normal(wrong, edge, PROBE_REACH * distance, probes, rng)
        candidates = _bisect(wrong, x, _leap(wrong, edge, normal, distance / np.sqrt(step)))
        closer = np.linalg.norm(candidates - x, axis=1)[:, None] < distance
        edge = np.where(closer, candidates, edge)
        left, step = left - cost, step + 1
    return np.linalg.norm(edge - x, axis=1)


def _bisect(wrong: Wrong, x: Float[np.ndarray, "n d"], outside: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """A misclassified point close to the boundary, on the way from `outside` to each record."""
    near, far = np.zeros((len(x), 1)), np.ones((len(x), 1))
    for _ in range(BISECTION_STEPS):
        middle = (near + far) / 2
        beyond = wrong((x + middle * (outside - x))[:, None])
        near, far = np.where(beyond, near, middle), np.where(beyond, middle, far)
    return x + far * (outside - x)


def _normal(
    wrong: Wrong,
    edge: Float[np.ndarray, "n d"],
    reach: Float[np.ndarray, "n 1"],
    probes: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "n d"]:
    """The direction, of length 1, in which labels of points around the edge become wrong."""
    n, d = edge.shape
    directions = rng.standard_normal((n, probes, d), dtype=np.float32) / np.float32(np.sqrt(d))
    beyond = wrong(edge[:, None] + reach[:, :, None] * directions).astype(np.float32)
    weights = beyond - beyond.mean(axis=1, keepdims=True)  # of less variance than ±1
    weights[(weights == 0).all(axis=1)] = 1  # all alike: their mean is as good as any
    normal = np.einsum("np,npd->nd", weights, directions)
    return normal / np.linalg.norm(normal, axis=1, keepdims=True)


def _leap(
    wrong: Wrong, edge: Float[np.ndarray, "n d"], normal: Float[np.ndarray, "n d"], size: Float[np.ndarray, "n 1"]
) -> Float[np.ndarray, "n d"]:
    """The edge moved along the normal by the largest of several sizes that stays misclassified, else not at all."""
    sizes = size * 0.5 ** np.arange(STEP_SIZES)
    points = edge[:, None] + sizes[:, :, None] * normal[:, None]
    beyond = wrong(points)
    largest = points[np.arange(len(edge)), beyond.argmax(axis=1)]
    return np.where(beyond.any(axis=1, keepdims=True), largest, edge)
