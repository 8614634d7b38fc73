import numpy as np
import pytest

from palisade.attacks.parts.perturbed_copies import aucs, moved, perturbations
from palisade.evaluation.statistics.metrics import roc_auc


def test_flips_replaces_or_blurs() -> None:
    rng = np.random.default_rng(0)

    def one(x: np.ndarray) -> np.ndarray:
        (way,) = perturbations(x, (0.1,), (1,))
        return way(x, rng)

    bits = (rng.random((2000, 50)) < 0.2).astype(np.float32)
    flipped = one(bits)
    assert flipped.dtype == bits.dtype and np.isin(flipped, (0, 1)).all()
    assert (flipped != bits).mean() == pytest.approx(0.1, abs=0.01)
    tokens = rng.integers(5, 900, size=(2000, 50))
    tokens[:, 40:] = 0
    replaced = one(tokens)
    assert replaced.dtype == tokens.dtype and (replaced[:, 40:] == 0).all() and replaced[:, :40].min() >= 5
    assert (replaced[:, :40] != tokens[:, :40]).mean() == pytest.approx(0.1, abs=0.01)
    numbers = (rng.standard_normal((2000, 3)) * [1, 10, 0]).astype(np.float32)
    blurred = one(numbers)
    assert blurred.dtype == numbers.dtype
    np.testing.assert_allclose((blurred - numbers).std(axis=0), [0.1, 1.0, 0.0], rtol=0.1)


def test_images_are_moved_besides() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 2, 5, 6)).astype(np.float32)
    assert len(perturbations(x, (0.1, 0.2), (1, 2))) == 4
    assert len(perturbations(x[:, 0], (0.1, 0.2), (1, 2))) == 2, "no images"
    seen = set()
    for image, copy in zip(x, moved(x, rng, 1), strict=True):
        shifts = {
            (down, right, mirror): np.roll(image[..., ::-1] if mirror else image, (down, right), (1, 2))
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
            for mirror in (False, True)
        }
        (same,) = (shift for shift, expected in shifts.items() if np.array_equal(copy, expected))
        seen.add(same)
    assert len(seen) == 18


def test_aucs_are_those_of_the_referee() -> None:
    rng = np.random.default_rng(0)
    scores, member = rng.integers(5, size=(4, 60)).astype(float), rng.random((4, 60)) < 0.4
    scores[0, ::7] = np.nan
    member[3] = True
    known = ~np.isnan(scores)
    expected = [roc_auc(scores[k, known[k]], member[k, known[k]]) for k in range(3)]
    np.testing.assert_allclose(aucs(scores, member), [*expected, np.nan])
