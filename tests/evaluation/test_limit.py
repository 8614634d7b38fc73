"""A limit is kept by what was measured to keep it, not by what happens to lie below or cannot be measured."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.limit import Limit
from palisade.evaluation.result import Result, tied_at, tpr_at

Make = Callable[..., Result]


def limit(max_tpr: float = 0.05, fpr: float | None = None) -> Limit:
    return Limit(name="gate", max_tpr=max_tpr, fpr=fpr)


def changed(result: Result, attack: str, metric: str, **values: float | None) -> Result:
    """Copy of the results with other numbers of one attack."""
    rows = [
        replace(row, **values)
        if (row.attack, row.metric, row.model, row.group) == (attack, metric, "all", "all")
        else row
        for row in result.rows
    ]
    return replace(result, rows=rows)


def test_the_upper_end_decides_not_the_value(make_result: Make) -> None:
    result = changed(make_result(separation=0.3), "lira", tpr_at(0.01), value=0.03, low=0.02, high=0.06)
    assert limit(0.06).verdict(result, Comparison([result])).why is None
    assert (
        limit(0.05).verdict(result, Comparison([result])).why
        == "3.0 % (up to 6.0 %) by lira may be more than the limit"
    )


def test_an_attack_counts_by_its_upper_end_even_where_another_finds_more(make_result: Make) -> None:
    result = changed(make_result(separation=0.3), "loss", tpr_at(0.01), value=0.021, low=0.001, high=0.09)
    assert result.strongest == "lira"
    assert (
        limit(0.06).verdict(result, Comparison([result])).why
        == "2.1 % (up to 9.0 %) by loss may be more than the limit"
    )


def test_a_limit_holds_at_the_fpr_that_was_asked_for(make_result: Make) -> None:
    result = make_result(separation=0.3, nonmembers=2000)
    result = changed(result, "lira", tpr_at(0.001), value=0.03, low=0.02, high=0.06)
    assert limit(0.05).verdict(result, Comparison([result])).why is None
    assert "(up to 6.0 %) by lira may be more" in (limit(0.05, 0.001).verdict(result, Comparison([result])).why or "")


def test_an_unresolved_tpr_is_within_no_limit(make_result: Make) -> None:
    result = make_result(separation=0.0, nonmembers=628)
    assert limit(0.05, 0.001).verdict(result, Comparison([result])).why == (
        "0.1 % FPR cannot be resolved: it takes 1000 non-members a model, that is more records"
    )
    one = changed(make_result(separation=0.0), "lira_offline", tpr_at(0.01), value=None, low=None, high=None)
    assert "cannot be resolved" in (limit().verdict(one, Comparison([one])).why or "")
    bare = changed(make_result(separation=0.0), "lira_offline", tpr_at(0.01), low=None, high=None)
    assert "cannot be resolved" in (limit().verdict(bare, Comparison([bare])).why or ""), "a value without an upper end"


def test_an_attack_on_a_sample_of_the_records_does_not_count(make_result: Make) -> None:
    result = changed(make_result(separation=0.2), "lira_offline", tpr_at(0.01), value=None, low=None, high=None)
    scored = [row for row in result.rows if row.attack == "lira_offline" and row.metric == "auc" and row.model == "all"]
    sampled = replace(result, rows=[*result.rows, replace(scored[0], metric="unscored", group="all", value=0.9)])
    assert limit().verdict(sampled, Comparison([sampled])).why is None


def test_nothing_measured_keeps_nothing(make_result: Make) -> None:
    result = make_result(roc={}, skipped={"lira": "needs shadows"})
    assert limit().verdict(result, Comparison([result])).why == "every attack was skipped, so nothing was measured"
    assert limit().highest(result) is None


def test_ties_masks_and_refuted_claims_exceed_it(make_result: Make, make_guarded: Make, make_violated: Make) -> None:
    result = make_result(separation=0.1)
    row = next(row for row in result.rows if row.attack == "lira" and row.metric == "auc")
    tied = replace(result, rows=[*result.rows, replace(row, metric=tied_at(0.01), value=0.2)])
    assert "the scores of lira tie" in (limit().verdict(tied, Comparison([tied])).why or "")
    bare = make_result(separation=1.2)
    masked = make_guarded(bare, "memguard", None, 0.3)
    assert "it masks what it leaks" in (limit(0.1).verdict(masked, Comparison([bare, masked])).why or "")
    refuted = make_violated(separation=0.0)
    assert limit().verdict(refuted, Comparison([refuted])).why == "its claim is refuted"


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"fpr": 0.02, "max_tpr": 0.05}, "fpr=0.02"),
        ({"fpr": 0.01}, "fpr=0.01"),
        ({"fpr": 0.01, "max_auc": 0.6}, "fpr=0.01"),
        ({"max_tpr": 0.01}, "max_tpr=0.01"),
        ({"max_tpr": 5}, "max_tpr=5"),
        ({"max_tpr": "small"}, "max_tpr=small"),
        ({"max_tpr": True}, "max_tpr=true"),
        ({"max_tpr": float("nan")}, "max_tpr=nan"),
        ({"max_auc": 0.5}, "max_auc=0.5"),
        ({"max_gap": 0}, "max_gap=0"),
    ],
)
def test_what_no_limit_is_is_refused(settings: dict[str, object], key: str) -> None:
    with pytest.raises(ValueError, match=rf"^{re.escape(key)}: expected .*; (choose|add) "):
        Limit(name="gate", **settings)
    with pytest.raises(ValueError, match=rf"^gate\.{re.escape(key)}: expected "):
        Limit.asked("gate", {"gate": settings})


def test_it_is_there_only_if_it_was_asked_for() -> None:
    unset = {"max_tpr": None, "fpr": None}
    assert Limit.asked("gate", {"gate": unset}) is None
    assert Limit.asked("gate", {"gate": {**unset, "max_tpr": 0.05}}) == limit()
    with pytest.raises(ValueError, match=r"^gate\.fpr=0\.001: expected a limit"):
        Limit.asked("gate", {"gate": {**unset, "fpr": 0.001}})
    with pytest.raises(ValueError, match=r"^gate=0\.05"):
        Limit.asked("gate", {"gate": 0.05})
