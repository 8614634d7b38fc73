"""Labels stay free of each other, of what is forbidden, and inside the frame."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from palisade.evaluation.figures.style import figure
from palisade.evaluation.figures.tradeoff import Label, box, place

NO_BOXES = np.zeros((0, 4))


def written(
    panel: Axes, labels: list[Label], forbidden: np.ndarray = NO_BOXES, avoided: np.ndarray = NO_BOXES
) -> list[Annotation]:
    """The labels, drawn once: an annotation knows its place only then."""
    texts = place(panel, labels, forbidden, avoided, 8)
    panel.figure.draw_without_rendering()
    return texts


def axes() -> Axes:
    fig = figure(5, 4)
    panel = fig.subplots()
    panel.set(xlim=(0, 1), ylim=(0, 1))
    fig.draw_without_rendering()
    fig.set_layout_engine("none")
    return panel


@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=10))
def test_anywhere_even_in_corners_and_on_top_of_each_other(marks: list[tuple[float, float]]) -> None:
    panel = axes()
    boxes = [box(text) for text in written(panel, [Label(x=x, y=y, text="ε=64", color="k") for x, y in marks])]
    frame = panel.get_window_extent()
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    for text in boxes:
        assert frame.x0 <= text.x0 and text.x1 <= frame.x1 and frame.y0 <= text.y0 and text.y1 <= frame.y1


def test_order_of_labels_stays_and_a_far_label_has_a_leader() -> None:
    panel = axes()
    x0, y0 = panel.transData.transform((0.4, 0.4))
    x1, y1 = panel.transData.transform((0.6, 0.6))
    labels = [Label(x=0.5, y=0.5, text="boxed in", color="k"), Label(x=0.1, y=0.9, text="free", color="k")]
    far, near = written(panel, labels, forbidden=np.array([[x0, y0, x1, y1]]))
    assert (far.get_text(), near.get_text()) == ("boxed in", "free")
    assert far.arrow_patch is not None and far.arrow_patch.get_visible()
    assert near.arrow_patch is not None and not near.arrow_patch.get_visible()
    assert not box(far).overlaps(Bbox.from_extents(x0, y0, x1, y1))


def test_lines_are_avoided_where_there_is_room() -> None:
    panel = axes()
    x, y = panel.transData.transform((0.5, 0.5))
    above = np.array([[0, y, 2 * x, 2 * y]])
    (text,) = written(panel, [Label(x=0.5, y=0.5, text="below", color="k")], avoided=above)
    assert box(text).y1 <= y
