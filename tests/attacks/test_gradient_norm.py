import numpy as np

from palisade.attacks import GradientNorm, View


def test_score_is_the_negative_norm_over_all_layers() -> None:
    rng = np.random.default_rng(0)
    norms = rng.random((3, 10, 4)).astype(np.float32)
    member = rng.random((3, 10)) < 0.5
    view = View(
        predictions=np.zeros((3, 10), dtype=int),
        labels=np.zeros(10, dtype=int),
        membership=member,
        gradient_norms=norms,
    )
    np.testing.assert_allclose(GradientNorm().score(view), -np.sqrt((norms.astype(float) ** 2).sum(axis=-1)))


def test_weights_are_needed() -> None:
    view = View(
        predictions=np.zeros((2, 3), dtype=int), labels=np.zeros(3, dtype=int), membership=np.eye(2, 3, dtype=bool)
    )
    assert GradientNorm().missing(view) == "needs the weights; threat=white_box grants them"
    assert (GradientNorm().name, GradientNorm().threat.access) == ("gradient_norm", "white_box")
