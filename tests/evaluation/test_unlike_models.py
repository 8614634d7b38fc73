"""The flag of a model whose log-odds lie on another scale than those of its fleet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from palisade.attacks import View
from palisade.evaluation.comparison import Comparison
from palisade.evaluation.flags import unlike
from palisade.evaluation.measuring.baselines import spread_rows
from tests.evaluation.conftest import finding


def view(records: int, factors: list[float]) -> View:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((len(factors), records, 3)) * np.array(factors)[:, None, None]
    return View(
        logits=logits, labels=rng.integers(3, size=records), membership=rng.random((len(factors), records)) < 0.5
    )


@pytest.mark.parametrize(
    ("records", "factors", "named"),
    [
        (400, [1, 1, 1, 2], []),
        (400, [1, 1, 1, 1e4], ["unlike models"]),
        (400, [1, 1, 1e-3, 1], ["unlike models"]),
        (99, [1, 1, 1, 1e4], ["models not standardized"]),
        (400, [1, 1, 0, 1], ["models not standardized"]),
    ],
)
def test_models_off_tenfold_are_flagged(records: int, factors: list[float], named: list[str]) -> None:
    rows = list(spread_rows(view(records, factors)))
    result = replace(finding(), rows=rows)
    flags = list(unlike(result, Comparison([result])))
    assert [flag.name for flag in flags] == named
    if named == ["unlike models"]:
        assert f"model {int(np.argmax(np.abs(np.log(factors))))} " in flags[0].sentence


def test_labels_alone_have_no_spread() -> None:
    predictions = np.zeros((2, 200), dtype=np.int64)
    seen = View(predictions=predictions, labels=predictions[0], membership=np.arange(400).reshape(2, 200) % 2 == 0)
    assert list(spread_rows(seen)) == []
