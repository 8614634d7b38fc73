"""Flags appear where they should and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from evaluation.claims import violations
from evaluation.findings import AUC, Findings, Row
from evaluation.flags import flags


def names(found: Findings) -> list[str]:
    return [flag.name for flag in flags(found, ())]


def with_auc(found: Findings, attack: str, value: float, high: float, low: float = 0.0) -> Findings:
    rows = [
        replace(row, value=value, low=low, high=high) if (row.metric, row.attack) == (AUC, attack) else row
        for row in found.rows
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
    unresolved, coarse = flags(make_findings(nonmembers=200), ())
    assert "0.1 % FPR cannot be measured" in unresolved.sentence and "It takes 1000" in unresolved.sentence
    assert "1 % FPR rests on fewer than 5" in coarse.sentence and "It takes 500 non-members" in coarse.sentence


@pytest.mark.parametrize(("value", "high", "flagged"), [(0.4, 0.45, True), (0.4, 0.5, False), (0.49, 0.52, False)])
def test_auc_below_half_counts_only_beyond_its_interval(
    make_findings: Callable[..., Findings], value: float, high: float, flagged: bool
) -> None:
    found = with_auc(make_findings(nonmembers=10_000), "loss", value, high)
    assert names(found) == (["AUC<½"] if flagged else [])
    assert not flagged or "AUC of loss is 0.400" in flags(found, ())[0].sentence


def test_epsilon_above_ten_is_vacuous_only_as_a_guarantee(sweep: list[Findings]) -> None:
    flagged = {found.strength for found in sweep if "ε vacuous" in names(found)}
    assert flagged == {16, 64, 256}  # neither 1 and 4 nor the clip-only run, which claims nothing


def test_a_run_without_attacks_has_no_flags(make_findings: Callable[..., Findings]) -> None:
    assert names(make_findings(roc={})) == []


def test_a_violated_claim_comes_first_with_its_numbers(make_violated: Callable[..., Findings]) -> None:
    found, other = make_violated(), make_violated(strength=16, run="another")
    judged = violations([found, other])
    assert [violation.found.run for violation in judged] == [found.run]
    first, *_ = flags(found, judged)
    assert first.name == "CLAIM VIOLATED"
    assert "not 0.997 as claimed: 99 of 100 guesses" in first.sentence and "at most 0.025" in first.sentence
    assert f"ε is above {judged[0].bound:.2f}" in first.sentence and "do not release" in first.sentence
    assert "CLAIM VIOLATED" not in [flag.name for flag in flags(other, judged)]


@pytest.mark.parametrize(("low", "masked"), [(0.75, True), (0.70, False)])
def test_masked_is_a_label_only_attack_above_all_others_beyond_intervals(
    make_findings: Callable[..., Findings], low: float, masked: bool
) -> None:
    found = with_auc(make_findings(nonmembers=10_000), "correctness", value=0.76, low=low, high=0.77)
    for attack, value, high in (("loss", 0.6, 0.74), ("lira", 0.7, 0.72), ("lira_offline", 0.5, 0.6)):
        found = with_auc(found, attack, value, high)
    assert names(found) == (["masked, not protected"] if masked else [])
    if masked:
        (flag,) = flags(found, ())
        assert "correctness" in flag.sentence and "0.760" in flag.sentence and "lira, reaches 0.700" in flag.sentence


def test_labels_alone_cannot_be_masked(make_findings: Callable[..., Findings]) -> None:
    found = make_findings(nonmembers=10_000)
    assert names(replace(found, roc={"correctness": found.roc["correctness"]})) == []


@pytest.mark.parametrize(("fitted", "flagged"), [(0.31, True), (0.5, False), (0.98, False)])
def test_canaries_that_were_not_learned(make_findings: Callable[..., Findings], fitted: float, flagged: bool) -> None:
    found = make_findings(nonmembers=10_000, canary="ood", fitted=fitted)
    assert names(found) == (["canaries unfitted"] if flagged else [])
    assert not flagged or "Only 31 % of the canaries" in flags(found, ())[0].sentence


@pytest.mark.parametrize(
    ("attack", "share", "flagged"), [("lira", 0.2, True), ("lira", 0.05, False), ("correctness", 0.9, False)]
)
def test_ties_count_for_the_strongest_attack(
    make_findings: Callable[..., Findings], attack: str, share: float, flagged: bool
) -> None:
    found = make_findings(nonmembers=10_000)
    found = replace(found, rows=[*found.rows, Row(metric="tied@1%fpr", value=share, attack=attack)])
    assert names(found) == (["many ties at 1%"] if flagged else [])
    assert not flagged or "20 % of the non-members" in flags(found, ())[0].sentence
