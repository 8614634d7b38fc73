"""A watch on near-duplicates: queries of one client that lie closer to an earlier, different one than records do.

It catches careless probing alone, and it never refuses one query: that would be an oracle of its own.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Real
from pydantic import Field

from palisade.fields import CheckedFields, Count, Fraction

PROJECTED_FEATURES = 64
REFERENCE_RECORDS = 4000
"""Reference records that are compared with each other at most."""
MIN_REFERENCE_RECORDS = 50
CHUNK_RECORDS = 500
SAME_RECORD = 1e-5
"""Squared distance of records that are equal, in squares of their norm: what rounding leaves."""


@dataclass(frozen=True, kw_only=True)
class MonitorSettings(CheckedFields):
    """Settings of the watch.

    Args:
        name: of the watch.
        reference: path of reference records.
        action: about a client that probes.
        window: different queries of a client that are remembered.
        share: of reference records that have another one within the radius, in (0, 1).
        count: near-duplicates among the queries of the window that make an alarm.
    """

    name: Literal["near_duplicates"]
    reference: str
    action: Literal["alarm", "suspend"] = "alarm"
    window: Annotated[int, Field(ge=10)] = 1000
    share: Fraction = 0.01
    count: Count = 20


class Observation(NamedTuple):
    """One request as the watch saw it.

    Args:
        near: queries with an earlier, different one within the radius.
        is_alarm: so many near ones have gathered that the client may be probing.
    """

    near: int
    is_alarm: bool


class _Window:
    """The last different queries of one client, in a ring: where they lie, and which lay near an earlier one.

    Args:
        size: queries.
        features: of each.
    """

    def __init__(self, size: int, features: int) -> None:
        self.points = np.zeros((size, features), dtype=np.float32)
        self.squares = np.full(size, np.inf, dtype=np.float32)  # of the norms; infinite where there is none yet
        self.near = np.zeros(size, dtype=bool)
        self.digests: list[bytes | None] = [None] * size
        self.known: set[bytes] = set()
        self.next = 0

    def add(self, point: Float32[np.ndarray, " features"], square: float, near: bool, digest: bytes) -> None:
        """Puts a query in the place of the oldest."""
        place = self.next
        if (oldest := self.digests[place]) is not None:
            self.known.discard(oldest)
        self.points[place], self.squares[place], self.near[place] = point, square, near
        self.digests[place] = digest
        self.known.add(digest)
        self.next = (place + 1) % len(self.digests)


class Monitor:
    """The watch of one process, by the windows of its clients.

    Args:
        settings: of the watch.
        reference: inputs of reference records.
        seed: of the projection; secret, so that nobody can move where it does not see.

    Raises:
        ValueError: if there are too few reference records.
    """

    def __init__(self, settings: MonitorSettings, reference: Real[np.ndarray, "records ..."], seed: bytes) -> None:
        if len(reference) < MIN_REFERENCE_RECORDS:
            raise ValueError(
                f"monitor.reference={settings.reference}: expected at least {MIN_REFERENCE_RECORDS} records, not"
                f" {len(reference)}; give more"
            )
        self.settings = settings
        flat = reference.reshape(len(reference), -1)
        self._matrix = None
        if flat.shape[1] > PROJECTED_FEATURES:
            rng = np.random.default_rng(np.frombuffer(seed, dtype=np.uint32))
            matrix = rng.standard_normal((flat.shape[1], PROJECTED_FEATURES), dtype=np.float32)
            self._matrix = matrix / np.float32(np.sqrt(PROJECTED_FEATURES))
        self.radius = float(np.quantile(_nearest_distances(self._projected(flat[:REFERENCE_RECORDS])), settings.share))
        self._windows: defaultdict[str, _Window] = defaultdict(
            lambda: _Window(settings.window, min(flat.shape[1], PROJECTED_FEATURES))
        )

    def observe(self, client: str, inputs: Real[np.ndarray, "rows ..."], digests: list[bytes]) -> Observation:
        """Remembers the queries of a request, a repeated one once, and counts those near an earlier different one."""
        window = self._windows[client]
        places = {digest: place for place, digest in reversed(list(enumerate(digests))) if digest not in window.known}
        if not places:
            return Observation(0, is_alarm=False)
        points = self._projected(inputs.reshape(len(inputs), -1)[list(places.values())])
        squares = np.square(points).sum(axis=1)
        nearest = _squared_distances(points, squares, window.points, window.squares).min(axis=1)
        beside = _squared_distances(points, squares, points, squares)
        beside[np.triu_indices(len(points))] = np.inf  # only those earlier in the request
        near = np.minimum(nearest, beside.min(axis=1)) <= self.radius**2
        for each in zip(points, squares, near, places, strict=True):
            window.add(*each)
        is_alarm = int(window.near.sum()) >= self.settings.count
        if is_alarm:
            window.near[:] = False  # the next alarm needs as many again
        return Observation(int(near.sum()), is_alarm)

    def _projected(self, flat: Real[np.ndarray, "rows features"]) -> Float32[np.ndarray, "rows projected"]:
        flat = flat.astype(np.float32)
        return flat if self._matrix is None else flat @ self._matrix


def _squared_distances(
    points: Float32[np.ndarray, "points features"],
    squares: Float32[np.ndarray, " points"],
    others: Float32[np.ndarray, "others features"],
    other_squares: Float32[np.ndarray, " others"],
) -> Float32[np.ndarray, "points others"]:
    return squares[:, None] + other_squares - 2 * (points @ others.T)


def _nearest_distances(points: Float32[np.ndarray, "points features"]) -> Float32[np.ndarray, " points"]:
    """Distance of each record to the nearest different one."""
    squares, nearest = np.square(points).sum(axis=1), []
    for start in range(0, len(points), CHUNK_RECORDS):
        part = slice(start, start + CHUNK_RECORDS)
        distances = _squared_distances(points[part], squares[part], points, squares)
        is_same = distances <= SAME_RECORD * (1 + squares[part][:, None])  # itself, or an equal one
        nearest.append(np.where(is_same, np.inf, distances).min(axis=1))
    return np.sqrt(np.concatenate(nearest))
