"""Rényi series of fractional orders: terms side by side give the sums of Opacus's loop."""

from __future__ import annotations

import math

import pytest
from opacus.accountants.analysis import rdp as renyi

from palisade.defenses.dp_sgd import accounting


@pytest.mark.parametrize("q", [1e-4, 0.01, 0.25, 0.9])
@pytest.mark.parametrize("sigma", [0.3, 0.8, 4, 50])
def test_series_is_that_of_opacus(q: float, sigma: float) -> None:
    assert renyi._compute_log_a_for_frac_alpha is accounting.log_a_of_fraction
    for alpha in (1.1, 2.7, 10.9):
        own, theirs = accounting.log_a_of_fraction(q, sigma, alpha), accounting._opacus_log_a(q, sigma, alpha)
        assert math.isclose(own, theirs, rel_tol=1e-9, abs_tol=1e-13)
