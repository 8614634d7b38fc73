"""Flags appear where they should and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from evaluation.findings import AUC, Findings
from evaluation.flags import flags


def names(found: Findings) -> list[str]:
    return [flag.name for flag in flags(found)]


def with_auc(found: Findings, attack: str, value: float, high: float) -> Findings:
    rows = [
        replace(row, value=value, high=high) if (row.metric, row.attack) == (AUC, attack) else row for row in found.rows
    ]
    return replace(found, rows=rows)


def test_a_large_run_has_no_flags(make_findings: Callable[..., Findings]) -> None:
    assert names(make_findings(nonmembers=10_000)) == []


@pytest.mark.parametrize(
    ("nonmembers", "expected"),
    [
        (99, ["1% unresolved", "0.1% unresolved"]),
        (100, ["0.1% unresolved", "1% coarse"]),
        (499, ["0.1% unresolved", "1% coarse"]),
        (500, ["0.1% unresolved"]),
        (1000, ["0.1% coarse"]),
        (5000, []),
    ],
)
def test_small_fprs_need_nonmembers_per_model(
    make_findings: Callable[..., Findings], nonmembers: int, expected: list[str]
) -> None:
    assert names(make_findings(nonmembers=nonmembers)) == expected


def test_sentences_say_the_numbers(make_findings: Callable[..., Findings]) -> None:
    unresolved, coarse = flags(make_findings(nonmembers=200))
    assert "0.1 % FPR cannot be measured" in unresolved.sentence and "It takes 1000" in unresolved.sentence
    assert "1 % FPR rests on fewer than 5" in coarse.sentence and "It takes 500 non-members" in coarse.sentence


@pytest.mark.parametrize(("value", "high", "flagged"), [(0.4, 0.45, True), (0.4, 0.5, False), (0.49, 0.52, False)])
def test_auc_below_half_counts_only_beyond_its_interval(
    make_findings: Callable[..., Findings], value: float, high: float, flagged: bool
) -> None:
    found = with_auc(make_findings(nonmembers=10_000), "loss", value, high)
    assert names(found) == (["AUC<½"] if flagged else [])
    assert not flagged or "AUC of loss is 0.400" in flags(found)[0].sentence


def test_epsilon_above_ten_is_vacuous_only_as_a_guarantee(sweep: list[Findings]) -> None:
    flagged = {found.strength for found in sweep if "ε vacuous" in names(found)}
    assert flagged == {16, 64, 256}  # neither 1 and 4 nor the clip-only run, which claims nothing


def test_a_run_without_attacks_has_no_flags(make_findings: Callable[..., Findings]) -> None:
    assert names(make_findings(roc={})) == []
