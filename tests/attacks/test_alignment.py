import numpy as np
import pytest

from palisade.attacks import Alignment, View
from palisade.attacks.alignment import CHECKPOINTS_NEEDED


def view(alignment: np.ndarray | None) -> View:
    return View(
        predictions=np.zeros((2, 3), dtype=int),
        labels=np.zeros(3, dtype=int),
        membership=np.eye(2, 3, dtype=bool),
        alignment=alignment,
    )


def test_score_is_the_alignment_of_whoever_holds_the_weights() -> None:
    alignment = np.arange(6, dtype=np.float32).reshape(2, 3)
    scores = Alignment().score(view(alignment))
    np.testing.assert_array_equal(scores, alignment)
    assert scores.dtype == np.float64
    assert (Alignment().name, Alignment().threat.access) == ("alignment", "white_box")


def test_weights_are_needed() -> None:
    assert Alignment().missing(view(None)) == CHECKPOINTS_NEEDED
    with pytest.raises(ValueError, match=r"attack=alignment: expected .* needs checkpoints; train with"):
        Alignment().score(view(None))
