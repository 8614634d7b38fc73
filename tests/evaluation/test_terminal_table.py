"""The terminal table: one line a run, and what its flags mean."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.format import PLAIN_WIDTH, bound_text
from palisade.evaluation.result import Result
from palisade.evaluation.table import Skip, cells, lines, show_results, show_trials, skips
from palisade.targets.trial_outcomes import TrialOutcome, TuningOutcome


def printed(results: list[Result]) -> list[str]:
    file = io.StringIO()
    show_results(Comparison(results), file=file)
    return file.getvalue().splitlines()


def test_one_line_per_run_in_order(sweep: list[Result]) -> None:
    lines = [line.split() for line in printed(sweep) if line.lstrip().startswith(("none", "dp_sgd", "l2"))]
    assert len(lines) == len(sweep)
    assert [line[:2] for line in lines] == [
        ["none", "–"], ["dp_sgd", "1"], ["dp_sgd", "4"], ["dp_sgd", "16"], ["dp_sgd", "64"], ["dp_sgd", "256"],
        ["dp_sgd", "∞"], ["l2", "0.0001"], ["l2", "0.001"], ["l2", "0.01"],
    ]  # fmt: skip


def test_plain_and_narrow_where_no_terminal_is(sweep: list[Result]) -> None:
    lines = printed(sweep)
    assert all(len(line) <= PLAIN_WIDTH for line in lines)
    assert "\x1b" not in "".join(lines)


def test_no_word_is_cropped_where_names_are_long(sweep: list[Result], make_result: Callable[..., Result]) -> None:
    name = "a_defense_of_ones_own_" * 4
    narrow, wide = printed(sweep), printed([*sweep, make_result(name, accuracy=0.9, separation=0.5)])
    assert any(name in line for line in wide)
    flagged = [len([line for line in lines if line.rstrip().endswith(" ε vacuous")]) for lines in (narrow, wide)]
    assert flagged[0] == flagged[1] > 0


def test_headings_and_flags(sweep: list[Result]) -> None:
    text = "\n".join(printed(sweep))
    for heading in ("defense", "ε lower", "accuracy", "AUC", "TPR at 1% FPR", "[95 % interval]", "flags"):
        assert heading in text
    assert "0.1% FPR" not in text  # no run can resolve it
    assert text.count("0.1% unresolved (all runs): The TPR at 0.1 %") == 1
    assert text.count("ε vacuous: ε is above 10") == 1


def test_cells(make_result: Callable[..., Result]) -> None:
    result = make_result("l2", accuracy=0.9123, separation=0.5, strength=0.01, nonmembers=10_000)
    tpr = result.get("tpr@1%fpr", attack="lira")
    fine = result.get("tpr@0.1%fpr", attack="lira")
    auc = result.get("auc", attack="lira")
    assert tpr.value and tpr.low and tpr.high and fine.value and auc.value
    interval = f"{100 * tpr.value:.1f} % [{100 * tpr.low:.1f}–{100 * tpr.high:.1f}]"
    bound = bound_text(result.audit, "one_run")
    assert cells(result, "a flag", result.audit) == (
        "l2 0.01", "–", bound, "91.2 %", "–", "lira", f"{auc.value:.3f}", interval, f"{100 * fine.value:.1f} %",
        "a flag",
    )  # fmt: skip


def test_what_could_not_be_measured_is_no_number(make_result: Callable[..., Result]) -> None:
    assert cells(make_result(nonmembers=50, audit={}), "", {})[2:9] == ("–", "97.0 %", "–", "lira", "0.738", "–", "–")
    assert cells(make_result(roc={}), "", {})[5:9] == ("all skipped", "–", "–", "–")


@pytest.mark.parametrize(
    ("bound", "ceiling", "text"),
    [(0.3199, 4.06, "0.31 (≤ 4.1)"), (0.0, 1.0, "0.00 (≤ 1.0)"), (2.0, math.inf, "2.00 (≤ ∞)")],
)
def test_bounds_are_rounded_down(make_result: Callable[..., Result], bound: float, ceiling: float, text: str) -> None:
    result = make_result(audit={"bounds": {"gdp": bound}, "ceilings": {"gdp": ceiling}})
    assert bound_text(result.audit, "gdp") == text


def test_canaries_stand_under_their_defense(sweep: list[Result], canaries: list[Result]) -> None:
    kinds = [(line.cells[0], line.kind) for line in lines(Comparison([*canaries, *sweep]))]
    assert kinds[:3] == [
        ("none", "undefended"),
        ("  label_noise canaries", "undefended"),
        ("  ood canaries", "undefended"),
    ]
    assert kinds.index(("  label_noise canaries", "")) == 5  # under dp_sgd at ε = 4
    assert [line.cells[0] for line in lines(Comparison(canaries))][2:] == [
        "dp_sgd\n  label_noise canaries",
        "l2 0.001\n  label_noise canaries",
    ]
    assert all(len(line) <= PLAIN_WIDTH for line in printed([*canaries, *sweep]))


def test_a_violated_claim_is_reported_run_by_run(make_violated: Callable[..., Result]) -> None:
    runs = [make_violated(), make_violated(strength=0.5, run="another")]
    assert [line.kind for line in lines(Comparison(runs))] == ["violated", "violated"]
    text = "\n".join(printed(runs))
    assert "CLAIM VIOLATED, dp_sgd ε=0.5: ε is above" in text and "CLAIM VIOLATED, dp_sgd ε=1: ε is above" in text


def test_violations_are_red_in_a_terminal(
    make_violated: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    file = io.StringIO()
    show_results(Comparison([make_violated()]), file=file)
    assert "\x1b[1;31m" in file.getvalue()


def test_a_reason_is_reported_once_with_its_attacks(make_result: Callable[..., Result]) -> None:
    weights = "needs the weights; threat=white_box grants them"
    runs = [
        make_result(skipped={"gradient_norm": weights, "white_box": weights}),
        make_result("l2", strength=0.1, skipped={"gradient_norm": weights, "white_box": weights, "rmia": "why"}),
    ]
    assert skips(runs) == [
        Skip(("gradient_norm", "white_box"), weights, ("undefended", "l2 0.1")),
        Skip(("rmia",), "why", ("l2 0.1",)),
    ]
    text = printed(runs)
    assert f"skipped gradient_norm, white_box: {weights}" in text and "skipped rmia: why (1 of 2 runs)" in text


def test_flags_that_all_runs_have_stand_below_alone(make_result: Callable[..., Result]) -> None:
    alike = [make_result(), make_result("l2", strength=0.1)]
    assert [line.cells[-1] for line in lines(Comparison(alike))] == ["", ""]
    assert [line.cells[-1] for line in lines(Comparison([*alike, make_result("l1", nonmembers=10_000)]))] == [
        "0.1% unresolved", "", "0.1% unresolved",
    ]  # fmt: skip
    assert lines(Comparison(alike[:1]))[0].cells[-1] == "0.1% unresolved"  # of a single run there is nothing to share


def test_a_flag_that_differs_by_run_quotes_the_first(many: list[Result]) -> None:
    text = " ".join(printed(many)).replace("  ", " ")
    assert "dominated by DP-SGD (adversarial_regularization 0.5): dp_sgd ε=∞ is at least as useful" in text
    assert "The report tells the same of" in text and text.count("is at least as useful") == 1


def test_another_defense_or_guard_opens_a_block(many: list[Result]) -> None:
    opening = [line.cells[0] for line in lines(Comparison(many)) if line.opens]
    assert {"dp_sgd", "none + memguard", "none + topk 1", "pate 20", "selena(dp_sgd) 10"} <= set(opening)
    assert "none" not in opening and "none + topk 3" not in opening and len(opening) == 19


def test_many_runs_stay_readable(many: list[Result]) -> None:
    text = printed(many)
    assert all(len(line) <= PLAIN_WIDTH for line in text)
    for word in ("adversarial_regularization", "none + temperature 20", "dominated by", "protected", "lira"):
        assert any(word in line for line in text)


def test_what_needs_weights_behind_a_guard_says_so(make_result: Callable[..., Result]) -> None:
    result = make_result(guard="topk", guard_strength=3)
    held = [replace(row, access="white_box") if row.attack == "lira" else row for row in result.rows]
    assert cells(replace(result, rows=held), "", {})[5] == "lira\nif the weights leak"
    assert cells(result, "", {})[5] == "lira"
    assert cells(replace(make_result(), rows=held), "", {})[5] == "lira"


def test_guards_are_named_and_markup_is_text(make_result: Callable[..., Result]) -> None:
    assert cells(make_result(guard="top[bold]k"), "", {})[0] == "none + top[bold]k"
    assert "top[bold]k" in "\n".join(printed([make_result(guard="top[bold]k")]))


def test_of_many_trials_the_best_are_shown(capsys) -> None:
    trials = [TrialOutcome(settings={"lr": str(lr)}, status="complete", models=2, accuracy=lr / 20) for lr in range(12)]
    show_trials(TuningOutcome.of(0.5, trials))
    printed = capsys.readouterr().out
    assert printed.index("lr=11") < printed.index("lr=2 ") and "lr=1 " not in printed and "55.0 %" in printed
    assert "2 more in tuning.json" in printed
