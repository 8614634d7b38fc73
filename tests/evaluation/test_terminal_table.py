"""The terminal table: one line a run, and what its flags mean."""

from __future__ import annotations

import io
from collections.abc import Callable

from evaluation.findings import Findings
from evaluation.table import WIDTH, cells, show


def printed(findings: list[Findings]) -> list[str]:
    file = io.StringIO()
    show(findings, file)
    return file.getvalue().splitlines()


def test_one_line_per_run_in_order(sweep: list[Findings]) -> None:
    lines = [line.split() for line in printed(sweep) if line.lstrip().startswith(("none", "dp_sgd", "l2"))]
    assert len(lines) == len(sweep)
    assert [line[:2] for line in lines] == [
        ["none", "–"], ["dp_sgd", "1"], ["dp_sgd", "4"], ["dp_sgd", "16"], ["dp_sgd", "64"], ["dp_sgd", "256"],
        ["dp_sgd", "∞"], ["l2", "0.0001"], ["l2", "0.001"], ["l2", "0.01"],
    ]  # fmt: skip


def test_plain_and_narrow_where_no_terminal_is(sweep: list[Findings]) -> None:
    lines = printed(sweep)
    assert all(len(line) <= WIDTH for line in lines)
    assert "\x1b" not in "".join(lines)


def test_headings_and_flags(sweep: list[Findings]) -> None:
    text = "\n".join(printed(sweep))
    for heading in ("defense", "ε", "test accuracy", "AUC", "TPR@1%FPR", "[95 % interval]", "TPR@0.1%FPR", "flags"):
        assert heading in text
    assert text.count("0.1% unresolved: The TPR at 0.1 %") == 1
    assert text.count("ε vacuous: ε is above 10") == 1


def test_cells(make_findings: Callable[..., Findings]) -> None:
    found = make_findings("l2", accuracy=0.9123, separation=0.5, strength=0.01, nonmembers=10_000)
    tpr = found.get("tpr@1%fpr", attack="lira")
    fine = found.get("tpr@0.1%fpr", attack="lira")
    auc = found.get("auc", attack="lira")
    assert tpr.value and tpr.low and tpr.high and fine.value and auc.value
    interval = f"{100 * tpr.value:.1f} % [{100 * tpr.low:.1f}–{100 * tpr.high:.1f}]"
    assert cells(found) == (
        "l2 0.01", "–", "91.2 %", "lira", f"{auc.value:.3f}", interval, f"{100 * fine.value:.1f} %", "",
    )  # fmt: skip


def test_what_could_not_be_measured_is_no_number(make_findings: Callable[..., Findings]) -> None:
    assert cells(make_findings(nonmembers=50))[5:7] == ("–", "–")
    assert cells(make_findings(roc={}))[3:7] == ("all skipped", "–", "–", "–")


def test_guards_are_named_and_markup_is_text(make_findings: Callable[..., Findings]) -> None:
    assert cells(make_findings(guard="top[bold]k"))[0] == "none + top[bold]k"
    assert "top[bold]k" in "\n".join(printed([make_findings(guard="top[bold]k")]))
