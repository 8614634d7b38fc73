"""Classes and slices: the most leaking first, with words, utility and counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.report.sections import MOST_SHOWN, groups
from palisade.evaluation.result import AUC, Result, Row, tpr_at


def sliced(result: Result, count: int = 3) -> Result:
    """The results with slices of rising leakage by the strongest attack, and a utility for each."""
    rows = [row for row in result.rows if row.group == "all"]
    for k in range(count):
        part = {"group": f"age={k}", "attack": "lira", "access": "black_box", "members": 800, "nonmembers": 805}
        rows += [Row(metric=tpr_at(0.01), value=0.01 * (k + 1), low=0.005, high=0.2, **part)]
        rows += [Row(metric=AUC, value=0.6, low=0.55, high=0.65, **part)]
        rows += [Row(metric="test_accuracy", value=0.9, low=0.88, high=0.92, group=f"age={k}")]
    return replace(result, rows=rows)


def test_those_that_leak_most_come_first(make_result: Callable[..., Result]) -> None:
    (entry,) = groups(Comparison([sliced(make_result())]))
    assert (entry["title"], entry["attack"], entry["count"]) == ("undefended", "lira", 3)
    assert [group["name"] for group in entry["shown"]] == ["age=2", "age=1", "age=0"]
    first = entry["shown"][0]
    assert (first["tpr"], first["auc"]) == ("3.0 % [0.5–20.0]", "0.600 [0.550–0.650]")
    assert (first["utility"], first["scored"]) == ("90.0 % [88.0–92.0]", "800 / 805")


def test_auc_decides_where_a_part_is_too_small(make_result: Callable[..., Result]) -> None:
    result = sliced(make_result())
    small = [
        replace(row, value={"tpr@1%fpr": None, AUC: 0.9}[row.metric]) if row.attack and row.group == "age=0" else row
        for row in result.rows
        if row.group == "all" or row.metric != "test_accuracy"
    ]
    (entry,) = groups(Comparison([replace(result, rows=small)]))
    assert entry["shown"][0]["name"] == "age=0" and entry["shown"][0]["tpr"] == "–"


def test_of_many_only_the_first_are_listed(make_result: Callable[..., Result]) -> None:
    (entry,) = groups(Comparison([sliced(make_result(), 40)]))
    assert len(entry["shown"]) == MOST_SHOWN and entry["count"] == 40


def test_classes_have_their_words(make_result: Callable[..., Result]) -> None:
    result = make_result()
    (entry,) = groups(Comparison([replace(result, dataset={**result.dataset, "classes": ["no", "yes", "?", "poor"]})]))
    assert [group["name"] for group in entry["shown"]] == ["class=3 (poor)"]
    (plain,) = groups(Comparison([result]))
    assert [group["name"] for group in plain["shown"]] == ["class=3"] and plain["shown"][0]["utility"] == "–"


def test_without_parts_there_is_nothing_to_tell(make_result: Callable[..., Result]) -> None:
    result = make_result()
    assert groups(Comparison([replace(result, rows=[row for row in result.rows if row.group == "all"])])) == []
    assert groups(Comparison([make_result(roc={})])) == []
