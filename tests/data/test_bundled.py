import re

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits

from palisade.data.bundled import BREAST_CANCER_RANGES, BreastCancer, Digits


def test_digits_are_scikit_learns():
    records, origin = Digits().load(), load_digits()
    x = records.preprocessing(records.rows)
    assert x.shape == (1797, 1, 8, 8) and x.dtype == np.float32
    np.testing.assert_allclose(x.reshape(-1, 64), origin.data / 16, rtol=1e-6)
    assert np.array_equal(records.rows.reshape(-1, 8, 8), origin.images) and records.rows.dtype == origin.images.dtype
    assert np.array_equal(records.labels, origin.target) and records.labels.dtype == np.int64
    assert records.classes == tuple("0123456789")


def test_breast_cancer_is_scaled_by_the_published_ranges():
    records, origin = BreastCancer().load(), load_breast_cancer()
    published = re.findall(r"\((?:mean|standard error|worst)\): +([\d.]+) +([\d.]+)", origin.DESCR)
    assert [(float(low), float(high)) for low, high in published] == list(BREAST_CANCER_RANGES)
    x = records.preprocessing(records.rows)
    assert np.array_equal(records.rows, origin.data)
    assert -0.05 < x.min() < 0.01 and 0.99 < x.max() < 1.05  # the published ranges are rounded
    assert np.array_equal(records.labels, origin.target)
    assert records.classes == ("malignant", "benign")


@pytest.mark.parametrize("source", [Digits(), BreastCancer()])
def test_public_data_have_a_public_checksum(source):
    assert source.load().published == source.load().published
    assert source.load().published.startswith("sha256:")
