"""A threshold that jumps over ties is flagged, and its TPR stands for nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.flags import tied
from palisade.evaluation.labels import label
from palisade.evaluation.report.verdict import verdicts
from palisade.evaluation.result import Result, Row


def with_ties(result: Result, attack: str, share: float) -> Result:
    return replace(result, rows=[*result.rows, Row(metric="tied@1%fpr", value=share, attack=attack)])


@pytest.mark.parametrize(
    ("attack", "share", "flagged"), [("lira", 0.2, True), ("lira", 0.05, False), ("correctness", 0.9, False)]
)
def test_ties_count_for_the_strongest_attack(
    make_result: Callable[..., Result], attack: str, share: float, flagged: bool
) -> None:
    result = with_ties(make_result(), attack, share)
    raised = list(tied(result, Comparison([result])))
    assert result.is_tied == flagged and [flag.name for flag in raised] == (["many ties at 1%"] if flagged else [])
    assert not flagged or "20 % of the non-members" in raised[0].sentence


def test_a_run_without_attacks_has_none(make_result: Callable[..., Result]) -> None:
    assert not make_result(roc={}).is_tied


def test_labels_alone_are_not_best_protected_for_their_ties(make_result: Callable[..., Result]) -> None:
    labels = with_ties(make_result(guard="label_only", separation=0.0), "correctness", 0.7)
    l2 = make_result("l2", strength=0.1, separation=0.5)
    assert Comparison([labels, l2]).highlights == [("protected", l2, "")]
    assert [label(point.result) for point in Comparison([labels, l2]).frontier] == ["l2 0.1"]
    (alone,) = verdicts(Comparison([labels]))
    assert alone["heading"] == "Best protected: none + label_only" and alone["measure"] == "AUC"
    assert "it cannot be measured what attacks find. The best attack (correctness) ranks" in alone["sentence"]
