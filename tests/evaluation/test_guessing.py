"""Chance is claimed only where no attack does better over all records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from palisade.evaluation.labels import compare_with_guessing
from palisade.evaluation.report.verdict import sentence
from palisade.evaluation.result import AUC, Result, tpr_at

NO_LEAKAGE = " That is no better than guessing within its interval, which proves nothing about stronger attacks."


@pytest.fixture
def measured(make_result: Callable[..., Result]) -> Callable[..., Result]:
    """A run of which few members are found at 1 % FPR, with the AUC of each attack as given, ± 0.02."""

    def of_aucs(**aucs: float) -> Result:
        rows = []
        for row in make_result(separation=0.02).rows:
            if row.metric == AUC and row.model == row.group == "all":
                value = aucs.get(row.attack, 0.5)
                row = replace(row, value=value, low=value - 0.02, high=value + 0.02)
            elif row.metric == tpr_at(0.01) and row.model == row.group == "all":
                value = 0.015 if row.attack == "lira" else 0.01
                row = replace(row, value=value, low=0.005, high=0.03)
            rows.append(row)
        return replace(make_result(separation=0.02), rows=rows)

    return of_aucs


def test_nothing_is_called_nothing(measured: Callable[..., Result]) -> None:
    result = measured(lira=0.51)
    assert result.strongest == "lira"
    assert compare_with_guessing(result, "lira") == NO_LEAKAGE and sentence(result).endswith(NO_LEAKAGE)


def test_its_own_auc_is_reported_where_that_excludes_guessing(measured: Callable[..., Result]) -> None:
    text = sentence(measured(lira=0.56))
    assert "no better than guessing" not in text
    assert text.endswith("does better than guessing: its AUC is 0.560 [0.540–0.580]; guessing has 0.5.")


def test_another_attack_is_named_where_its_auc_does(measured: Callable[..., Result]) -> None:
    result = measured(loss=0.55)
    assert compare_with_guessing(result, "lira") == (
        f" Of the {len(result.attacks)} attacks, loss has the highest AUC: 0.550 [0.530–0.570]."
    )
