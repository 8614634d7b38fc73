"""Labels of runs: no two settings share one, and none states a smaller ε than is claimed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from palisade.evaluation.comparison import Comparison, ordered
from palisade.evaluation.figures.curves import roc
from palisade.evaluation.format import epsilon_text
from palisade.evaluation.labels import defense_cell, label, series_label
from palisade.evaluation.report.sections import evidence
from palisade.evaluation.report.verdict import verdicts
from palisade.evaluation.result import Result
from palisade.evaluation.subjects.subject import defense_name
from palisade.evaluation.table import lines
from palisade.targets.statement import Statement


def stated(epsilon: float) -> Statement:
    return Statement(guarantee=True, epsilon=epsilon, delta=1e-5, accountant="RDP")


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [(0.997, "1"), (0.0531, "0.06"), (3.988, "4"), (1.01, "1.1"), (15.95, "16"), (255.2, "256"), (math.inf, "∞")],
)
def test_epsilon_is_rounded_up(epsilon: float, text: str) -> None:
    assert epsilon_text(epsilon) == text


def test_titles(sweep: list[Result]) -> None:
    assert {label(result) for result in sweep} >= {"undefended", "dp_sgd ε=∞", "dp_sgd ε=4", "l2 0.0001"}
    assert label(ordered(sweep)[0]) == "undefended"


def test_no_two_runs_of_a_comparison_have_one_title(many: list[Result]) -> None:
    assert len({label(result) for result in many}) == len(many)


@pytest.mark.parametrize(
    ("defense", "own", "expected"),
    [
        ("none", {"guard": "memguard"}, ("none + memguard", "none + memguard", "none + memguard")),
        ("none", {"guard": "topk", "guard_strength": 3}, ("none + topk", "none + topk 3", "none + topk 3")),
        (
            "l2",
            {"strength": 0.001, "guard": "topk", "guard_strength": 3},
            ("l2 + topk", "l2 0.001 + topk 3", "l2 0.001 + topk 3"),
        ),
        (
            "dp_sgd",
            {"strength": 8, "statement": stated(7.98), "guard": "topk", "guard_strength": 3},
            ("dp_sgd + topk", "dp_sgd ε=8 + topk 3", "dp_sgd + topk 3"),
        ),
        ("pate", {"strength": 100, "statement": stated(1.914)}, ("pate", "pate 100, ε=2", "pate 100")),
        ("pate(l2)", {"statement": stated(8)}, ("pate(l2)", "pate(l2) ε=8", "pate(l2)")),
    ],
)  # fmt: skip
def test_guards_and_epsilon_in_names(
    make_result: Callable[..., Result], defense: str, own: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    result = make_result(defense, **own)
    assert (series_label(result), label(result, short=True), defense_cell(result)) == expected


def test_runs_that_state_the_same_epsilon_have_different_labels(make_result: Callable[..., Result]) -> None:
    runs = [make_result("selena(dp_sgd)", strength=k, statement=stated(8)) for k in (5, 10)]
    assert [label(result) for result in runs] == ["selena(dp_sgd) 5, ε=8", "selena(dp_sgd) 10, ε=8"]


DP_SGD_NODE = {"_target_": "palisade.defenses.dp_sgd.DPSGDDefense", "epsilon": 8}


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        (None, "selena"),
        ({"_target_": "palisade.defenses.none.NoDefense"}, "selena"),
        (DP_SGD_NODE, "selena(dp_sgd)"),
        ({"_target_": "palisade.defenses.label_smoothing.LabelSmoothing"}, "selena(label_smoothing)"),
        ({"_target_": "ours.quantized.Quantized", "base": DP_SGD_NODE}, "selena(quantized(dp_sgd))"),
        ({**DP_SGD_NODE, "base": {"_target_": "palisade.defenses.none.NoDefense"}}, "selena(dp_sgd)"),
    ],
)
def test_a_composed_defense_names_its_base(base: dict[str, Any] | None, expected: str) -> None:
    defense = {"_target_": "palisade.defenses.selena.Selena"} | ({} if base is None else {"base": base})
    assert defense_name({"defense": defense, "network": {}, "names": {"defense": "selena"}}) == expected


def test_a_claim_per_record_and_one_per_person_bear_two_names(make_result: Callable[..., Result]) -> None:
    """Wherever data name persons, everywhere a run is named: title, line of the figure, table, verdict, evidence."""
    known = {**make_result().dataset, "persons": 240}
    whole = replace(stated(8), unit="person", neighboring="add/remove one person")
    runs = [
        make_result("dp_sgd", strength=8, statement=claim, dataset=known, run=f"run{k}", folder=f"runs/run{k}")
        for k, claim in enumerate((stated(8), whole))
    ]
    assert [label(result) for result in runs] == ["dp_sgd ε=8 per record", "dp_sgd ε=8 per person"]
    comparison = Comparison([make_result(dataset=known), *runs])
    assert {line.name for line in comparison.series} == {"undefended", "dp_sgd per record", "dp_sgd per person"}
    assert [line.cells[1] for line in lines(comparison)] == ["–", "8 per record", "8 per person"]
    assert [entry["claimed"] for entry in evidence(comparison)] == ["8 per record", "8 per person"]
    assert any("dp_sgd ε=8 per " in entry["heading"] for entry in verdicts(comparison))
    said = {text.get_text() for text in roc(comparison).axes[0].get_legend().get_texts()}  # type: ignore[union-attr]
    assert {"dp_sgd ε=8 per record · lira", "dp_sgd ε=8 per person · lira"} <= said
    guarded = make_result("dp_sgd", strength=8, statement=whole, dataset=known, guard="topk", guard_strength=3)
    assert label(guarded) == "dp_sgd ε=8 per person + topk 3"


def test_where_no_person_is_named_no_unit_is(make_result: Callable[..., Result]) -> None:
    assert label(make_result("dp_sgd", strength=8, statement=stated(8))) == "dp_sgd ε=8"
    assert label(make_result(dataset={**make_result().dataset, "persons": 240})) == "undefended"
