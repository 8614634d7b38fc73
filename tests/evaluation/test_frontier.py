"""The frontier holds exactly the runs that no other beats in accuracy and leakage at once."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.labels import label
from palisade.evaluation.result import Result


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=8))
def test_as_a_double_loop_finds(make_result: Callable[..., Result], values: list[tuple[int, int]]) -> None:
    runs = [make_result("l2", strength=i, accuracy=a / 10, separation=s / 10) for i, (a, s) in enumerate(values)]
    beaten = {(a, s) for a, s in values if any(b >= a and t <= s and (b, t) != (a, s) for b, t in values)}
    result = [values[int(point.result.strength or 0)] for point in Comparison(runs).frontier]
    assert set(result) == set(values) - beaten and len(result) == len(set(result))
    assert result == sorted(result)


def test_masks_refuted_claims_and_canaries_are_no_part_of_it(
    make_result: Callable[..., Result],
    make_guarded: Callable[..., Result],
    make_violated: Callable[..., Result],
) -> None:
    bare = make_result(separation=1.2)
    weak = [
        make_guarded(bare, "memguard", None, 0.3),
        make_violated(accuracy=0.99, separation=0.1),
        make_result("l1", strength=1, canary="ood", accuracy=0.99, separation=0.1),
    ]
    l2 = make_result("l2", strength=0.1, separation=0.7, accuracy=0.95)
    assert [label(point.result) for point in Comparison([bare, l2, *weak]).frontier] == ["l2 0.1", "undefended"]


def test_it_is_drawn_from_three_lines_on(make_result: Callable[..., Result]) -> None:
    runs = [make_result(defense, separation=s, accuracy=a) for defense, s, a in (("none", 1, 0.9), ("l1", 0.5, 0.8))]
    assert not Comparison(runs).has_frontier
    assert not Comparison([*runs, make_result("l1", canary="ood")]).has_frontier
    assert Comparison([*runs, make_result("l2", separation=0.7)]).has_frontier
