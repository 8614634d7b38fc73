from collections.abc import Callable

import numpy as np

from palisade.attacks import LossThreshold, View


def test_score_is_the_negative_cross_entropy_of_the_record_itself(view_of: Callable[..., View]) -> None:
    rng = np.random.default_rng(0)
    phi = rng.standard_normal((3, 10, 2))
    scores = LossThreshold().score(view_of(phi, rng.random((3, 10)) < 0.5))
    np.testing.assert_allclose(scores, -np.log1p(np.exp(-phi[:, :, 0])), rtol=1e-12)


def test_confident_records_still_differ(view_of: Callable[..., View]) -> None:
    scores = LossThreshold().score(view_of(np.array([[20.0, 40.0, 60.0]]), np.array([[True, False, True]])))
    assert (np.diff(scores[0]) > 0).all()
