"""Runs that share a curve, and the order of their points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from palisade.evaluation.comparison import Comparison, ceiling, check_comparable, ordered
from palisade.evaluation.figures.style import looks
from palisade.evaluation.labels import label
from palisade.evaluation.result import AUC, Result
from palisade.evaluation.statistics.epsilon import tpr_ceiling


def changed(result: Result, **keys: object) -> Result:
    """Copy of a run with other configuration keys, dots for nesting."""
    config = {key: dict(value) if isinstance(value, dict) else value for key, value in result.config.items()}
    for key, value in keys.items():
        group, _, name = key.rpartition("__")
        (config[group] if group else config)[name] = value
    return replace(result, config=config)


def test_a_sweep_over_defenses_is_comparable(sweep: list[Result]) -> None:
    check_comparable(sweep)


@pytest.mark.parametrize(
    "keys",
    [
        {"seed": 7},
        {"fleet__models": 64},
        {"guard": {"name": "topk"}},
        {"canary": {"kind": "ood", "count": 500}, "names__canary": "ood"},
        {"names__defense": "l2"},
        {"defense__trainer": {"epochs": 999}},
        {"data__root": "elsewhere"},
    ],
)
def test_what_may_differ(make_result: Callable[..., Result], keys: dict[str, object]) -> None:
    result = make_result()
    check_comparable([result, changed(result, **keys)])


def test_other_keys_are_named_with_their_values_and_the_remedy(make_result: Callable[..., Result]) -> None:
    result = make_result()
    other = replace(changed(result, trainer__epochs=80, split__pool=0.5), folder="runs/digits/other")
    with pytest.raises(ValueError) as error:
        check_comparable([result, result, other])
    assert str(error.value) == (
        "split.pool=0.7 and 0.5, trainer.epochs=40 and 80 differ between runs/digits/mlp-none-None and"
        " runs/digits/other; runs on one curve may differ only in defense, guard, canary, fleet and seed, choose some"
        " with runs=<glob>"
    )


@pytest.mark.parametrize("key", ["data__name", "membership__share", "network__hidden"])
def test_network_data_and_membership_must_agree(make_result: Callable[..., Result], key: str) -> None:
    result = make_result()
    with pytest.raises(ValueError, match=key.replace("__", r"\.")):
        list(Comparison([result, changed(result, **{key: "another"})]).series)


def test_networks_are_named_by_their_option_and_each_has_its_pattern(make_result: Callable[..., Result]) -> None:
    """Not by the settings that only one of them has."""
    result = make_result()
    other = replace(changed(result, names__network="cnn", network__channels=[16], seed=1), folder="runs/digits/cnn-a")
    with pytest.raises(ValueError, match=r"^network=mlp and cnn differ between .* with runs='runs/digits/mlp-\*'$"):
        check_comparable([result, other])
    with pytest.raises(ValueError, match=r"^network=cnn and mlp, trainer\.epochs=40 and 80 differ .*digits/cnn-\*'$"):
        check_comparable([other, changed(result, trainer__epochs=80)])


def test_a_key_that_only_one_run_has_differs(make_result: Callable[..., Result]) -> None:
    result = make_result()
    with pytest.raises(ValueError, match=r"trainer\.clip=None"):
        check_comparable([result, changed(result, trainer__clip=1)])


def test_settings_of_the_trainer_that_a_defense_replaces_may_differ(make_result: Callable[..., Result]) -> None:
    bare, private = make_result(), make_result("dp_sgd", strength=8.0)
    own = {**private.config["defense"], "trainer": {"epochs": 9}}
    private = replace(private, config={**private.config, "defense": own})
    check_comparable([changed(bare, trainer__epochs=5), changed(private, trainer__epochs=40)])
    check_comparable([changed(private, trainer__epochs=40), changed(bare, trainer__epochs=5)])
    with pytest.raises(ValueError, match=r"trainer\.epochs=5 and 6"):
        runs = changed(private, trainer__epochs=40), changed(bare, trainer__epochs=5), changed(bare, trainer__epochs=6)
        check_comparable(runs)


def test_the_network_of_a_tuned_run_may_differ(make_result: Callable[..., Result]) -> None:
    bare, private = make_result(), changed(make_result("dp_sgd", strength=8.0), network__hidden=[])
    tuned = changed(private, defense__tuning_runs=9)
    check_comparable([bare, tuned])
    check_comparable([tuned, bare])
    for runs in ([bare, private], [tuned, bare, changed(bare, network__hidden=[64])]):
        with pytest.raises(ValueError, match=r"^network\.hidden="):
            check_comparable(runs)


def test_the_undefended_run_comes_first_then_strengths_rise(sweep: list[Result]) -> None:
    lines = Comparison(sweep).series
    assert [line.name for line in lines] == ["undefended", "dp_sgd", "l2"]
    assert lines[0].undefended and not lines[1].undefended
    assert [point.label for point in lines[1].points] == ["ε=1", "ε=4", "ε=16", "ε=64", "ε=256", "ε=∞"]
    assert [point.label for point in lines[2].points] == ["0.0001", "0.001", "0.01"]
    assert lines[0].points[0].label == ""
    assert ordered(reversed(sweep)) == ordered(sweep)  # type: ignore[arg-type]


def test_a_point_is_the_strongest_attack(sweep: list[Result]) -> None:
    for line in Comparison(sweep).series:
        for point in line.points:
            tprs = [row.value for row in point.result.rows if row.metric == "tpr@1%fpr" and row.group == "all"]
            assert point.leakage.value == max(tpr for tpr in tprs if tpr is not None)


def test_guards_and_seeds_have_lines_of_their_own(make_result: Callable[..., Result]) -> None:
    runs = [make_result(), make_result(guard="topk"), make_result(seed=1)]
    assert [line.name for line in Comparison(runs).series] == [
        "undefended (seed 0)",
        "undefended (seed 1)",
        "none + topk (seed 0)",
    ]


def test_a_guard_extends_the_line_of_its_defense(make_result: Callable[..., Result]) -> None:
    runs = [make_result("l2", strength=x, guard="topk", guard_strength=k) for x in (0.1, 0.01) for k in (3, 1)]
    (line,) = Comparison(runs).series
    assert line.name == line.defense == "l2 + topk"
    assert [point.label for point in line.points] == ["0.01 + 1", "0.01 + 3", "0.1 + 1", "0.1 + 3"]
    assert [point.label for point in Comparison(runs[:2]).series[0].points] == ["1", "3"]  # the other does not vary


def test_views_of_one_run_are_comparable_and_differ_in_looks(
    make_result: Callable[..., Result], make_guarded: Callable[..., Result]
) -> None:
    bare = make_result()
    guarded = make_guarded(bare, "topk", 3, 0.5)
    assert guarded.config == bare.config and guarded.folder == bare.folder and guarded.run != bare.run
    undefended, behind = Comparison([guarded, bare]).series
    drawn = looks([undefended, behind])
    assert (undefended.name, behind.name) == ("undefended", "none + topk")
    assert drawn["undefended"].color != drawn["none + topk"].color


@pytest.mark.parametrize("role", ["reference", "validation"])
def test_other_roles_must_agree_as_well(make_result: Callable[..., Result], role: str) -> None:
    result = make_result()
    with pytest.raises(ValueError, match=rf"split\.{role}=None and 0\.1"):
        check_comparable([result, changed(result, **{f"split__{role}": 0.1})])


def test_canaries_have_lines_beside_those_of_their_defense(sweep: list[Result], canaries: list[Result]) -> None:
    lines = Comparison([*canaries, *sweep]).series
    assert [(line.name, line.defense, line.canary) for line in lines] == [
        ("undefended", "undefended", "none"),
        ("undefended with label_noise canaries", "undefended", "label_noise"),
        ("undefended with ood canaries", "undefended", "ood"),
        ("dp_sgd", "dp_sgd", "none"),
        ("dp_sgd with label_noise canaries", "dp_sgd", "label_noise"),
        ("l2", "l2", "none"),
        ("l2 with label_noise canaries", "l2", "label_noise"),
    ]
    drawn = looks(lines)
    for line in lines:
        look, plain = drawn[line.name], drawn[line.defense]
        assert look.color == plain.color and (look.marker == plain.marker) == (line.canary == "none")
        assert look.hollow == (line.canary != "none") and (look.stroke == "-") == (line.canary == "none")
    assert drawn[lines[1].name].stroke != drawn[lines[2].name].stroke


def test_runs_with_canaries_follow_the_run_without(sweep: list[Result], canaries: list[Result]) -> None:
    titles = [label(result) for result in ordered([*canaries, *sweep])]
    assert titles[:3] == ["undefended", "undefended with label_noise canaries", "undefended with ood canaries"]
    assert titles[titles.index("dp_sgd ε=4") + 1] == "dp_sgd ε=4 with label_noise canaries"
    assert label(canaries[2], short=True) == "dp_sgd ε=4"


def test_what_cannot_be_resolved_has_no_point_beside_what_can(make_result: Callable[..., Result]) -> None:
    line, other = Comparison([make_result(nonmembers=50), make_result("l2", strength=1e-3)]).series
    assert len(line.runs) == 1 and line.points == [] and len(other.points) == 1
    (alone,) = Comparison([make_result(nonmembers=50)]).series
    assert [point.leakage.metric for point in alone.points] == [AUC]
    (line,) = Comparison([make_result(roc={}, skipped={"lira": "models=1"})]).series
    assert line.points == []


def test_ceilings_are_those_of_the_claim(sweep: list[Result]) -> None:
    fpr = np.array([0.001, 0.01, 0.1])
    undefended, strong, *_ = ordered(sweep)
    assert ceiling(undefended, fpr) is None
    assert ceiling(ordered(sweep)[6], fpr) is None  # clipped only
    np.testing.assert_array_equal(ceiling(strong, fpr), tpr_ceiling(fpr, np.array(strong.statement.privacy_curve)))
    bare = replace(strong, statement=replace(strong.statement, privacy_curve=()))
    one_point = np.array([[bare.statement.epsilon, bare.statement.delta]])
    np.testing.assert_array_equal(ceiling(bare, fpr), tpr_ceiling(fpr, one_point))
