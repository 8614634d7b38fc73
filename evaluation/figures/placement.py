"""Labels beside marks that overlap neither each other nor the marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

RADII = (5.0, 9.0, 14.0, 20.0, 27.0, 35.0, 45.0, 57.0, 70.0)
"""Distances from mark to label that are tried, in points."""
LEADER = 12.0
"""From this distance on a thin line leads from the label to its mark."""
DIRECTIONS = 16
CLEARANCE = 1.5


@dataclass(frozen=True, kw_only=True)
class Label:
    """A text that belongs to a mark at (x, y) in data coordinates."""

    x: float
    y: float
    text: str
    color: str


def place(
    axes: Axes,
    labels: Sequence[Label],
    forbidden: Float[np.ndarray, "forbidden 4"],
    avoided: Float[np.ndarray, "avoided 4"],
    size: float,
) -> list[Annotation]:
    """Writes each label at the nearest free place, the most crowded marks first.

    Args:
        axes: drawn once, so that positions on the page are final.
        labels: what to write.
        forbidden: boxes (x0, y0, x1, y1) in pixels that no label may touch: marks and their bars.
        avoided: boxes that a label had better not touch, such as lines.
        size: of the font, in points.
    """
    page = axes.get_figure(root=True)
    assert page is not None
    point = page.dpi / 72
    frame = axes.get_window_extent().extents
    marks = axes.transData.transform([(label.x, label.y) for label in labels]).reshape(-1, 2)
    crowd = [np.sum(np.hypot(*(marks - mark).T) < 40 * point) for mark in marks]
    written: dict[int, Annotation] = {}
    for index in sorted(range(len(labels)), key=lambda i: (-crowd[i], i)):
        label, mark = labels[index], marks[index]
        text = axes.annotate(
            label.text, (label.x, label.y), (0, 0), textcoords="offset points", ha="center", va="center",
            fontsize=size, color=label.color, zorder=6,
            arrowprops={"arrowstyle": "-", "color": label.color, "lw": 0.6, "alpha": 0.6, "shrinkA": 1, "shrinkB": 4},
        )  # fmt: skip
        half = np.asarray(box(text).size) / 2 + CLEARANCE * point
        shifts, distances = _candidates(half, point)
        boxes = np.hstack([mark + shifts - half, mark + shifts + half])
        outside = (boxes[:, :2] < frame[:2]).any(axis=1) | (boxes[:, 2:] > frame[2:]).any(axis=1)
        # A label that is nearer to another mark would be read as that one's.
        strange = (_gaps(boxes, marks) < _gaps(boxes, mark[None]) + 2 * point).sum(axis=1) - 1
        cost = distances + 1e6 * outside + 10 * strange
        cost += 1e4 * _overlaps(boxes, forbidden) + 8 * _overlaps(boxes, avoided)
        best = int(np.argmin(cost))
        text.set_position((shifts[best, 0] / point, shifts[best, 1] / point))
        if distances[best] < LEADER and text.arrow_patch is not None:
            text.arrow_patch.set_visible(False)
        forbidden = np.vstack([forbidden, boxes[best]])
        written[index] = text
    return [written[index] for index in range(len(labels))]


def box(text: Annotation) -> Bbox:
    """The extent of the words alone, in pixels, without the leader."""
    return Text.get_window_extent(text)


def _candidates(
    half: Float[np.ndarray, "2"], point: float
) -> tuple[Float[np.ndarray, "places 2"], Float[np.ndarray, "places"]]:
    """Shifts of the label's center in pixels, and how far its box then is from the mark in points."""
    angles = np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS
    unit = np.column_stack([np.cos(angles), np.sin(angles)])
    # The side of the box, not its center, keeps the distance.
    shifts = [unit * (half + radius * point) for radius in RADII]
    return np.vstack(shifts), np.repeat(RADII, DIRECTIONS)


def _gaps(boxes: Float[np.ndarray, "boxes 4"], marks: Float[np.ndarray, "marks 2"]) -> Float[np.ndarray, "boxes marks"]:
    """Distance of each mark from each box, in pixels."""
    apart = np.maximum(boxes[:, None, :2] - marks[None], marks[None] - boxes[:, None, 2:])
    gaps: Float[np.ndarray, "boxes marks"] = np.hypot(*np.moveaxis(np.maximum(apart, 0), 2, 0))
    return gaps


def _overlaps(boxes: Float[np.ndarray, "boxes 4"], others: Float[np.ndarray, "others 4"]) -> Float[np.ndarray, "boxes"]:
    """Number of the others that each box touches."""
    low = boxes[:, None, :2] < others[None, :, 2:]
    high = boxes[:, None, 2:] > others[None, :, :2]
    touched: Float[np.ndarray, "boxes"] = (low & high).all(axis=2).sum(axis=1).astype(np.float64)
    return touched
