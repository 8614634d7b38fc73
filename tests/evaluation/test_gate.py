"""A gate tells of every run why it passes or not."""

from __future__ import annotations

from collections.abc import Callable

from evaluation.findings import Findings
from evaluation.limits.gate import gate
from evaluation.limits.limit import Limit

FIVE = Limit(name="gate", max_tpr=0.05)


def test_a_line_for_each_run_and_one_fails_all(make_findings: Callable[..., Findings]) -> None:
    kept, exceeded = make_findings("l2", strength=0.1, separation=0.2), make_findings(separation=0.9)
    lines, passed = gate([kept, exceeded], FIVE)
    assert not passed
    assert lines == [
        "gate: at most 5 % of members found at 1 % FPR",
        "EXCEEDED: undefended (mlp-none-None): 7.7 % [6.6–8.7] by lira may be more",
        "kept: l2 0.1 (mlp-l2-0.1): 1.7 % [1.3–2.1] by lira",
    ]
    assert gate([kept], FIVE)[1]


def test_what_cannot_be_measured_does_not_pass(make_findings: Callable[..., Findings]) -> None:
    lines, passed = gate([make_findings(separation=0.0)], Limit(name="gate", fpr=0.001, max_tpr=0.05))
    assert not passed and "EXCEEDED" in lines[1] and "cannot be resolved" in lines[1]


def test_fleets_with_canaries_are_gated(make_findings: Callable[..., Findings]) -> None:
    assert not gate([make_findings(canary="ood", separation=2.0)], FIVE)[1]
