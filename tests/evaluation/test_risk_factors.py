"""Risk factors: which runs are compared, what is kept of them, and how it is drawn."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from rich.console import Console

from palisade.evaluation.figures.style import INK_COLOR
from palisade.evaluation.format import show
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.result import Result
from palisade.evaluation.studies import risk_factors
from palisade.evaluation.studies.plots import factors
from palisade.evaluation.studies.risk_factors import (
    EPOCHS_FACTOR,
    RECORDS_FACTOR,
    WIDTH_FACTOR,
    accuracies,
    lines,
    risk_rows,
)
from palisade.evaluation.studies.studies import ACCURACY_GAP, Study, study_tables
from palisade.evaluation.studies.study_runs import run_study, write_study


def run(width: int | list[int] = 64, pool: int = 400, epochs: int = 40, defense: str = "none", **changed: Any) -> Any:
    """Stand-in for a run without files, as far as a study reads it."""
    config: dict[str, Any] = {
        "data": {"name": "digits", "root": "/somewhere"},
        "network": {
            "_target_": "palisade.targets.networks.MLP",
            "hidden": width if isinstance(width, list) else [width],
        },
        "defense": {"_target_": f"palisade.defenses.{defense}"},
        "trainer": {"epochs": epochs, "batch_size": 64, "optimizer": {"_target_": "torch.optim.Adam", "lr": 1e-3}},
        "split": {"pool": pool, "test": 500},
        "membership": {"how": "bernoulli", "share": 0.5},
        "seed": 0,
        "fleet": {"models": 16},
        "names": {"network": "mlp", "defense": defense},
    }
    config |= changed
    split = SimpleNamespace(pool=np.arange(pool), canaries=np.array([]))
    key = f"{defense}-{width}-{pool}-{epochs}-{changed}"
    return SimpleNamespace(
        config=config, dataset=SimpleNamespace(split=split), folder=Path("runs/digits") / key, guard="none", name=key
    )


def values(runs: list[Any]) -> list[tuple[str, list[float]]]:
    return [(line.factor, list(line.runs)) for line in lines(runs)]


CENTRAL_RUNS = [run(), run(width=256), run(width=4), run(pool=200), run(pool=800), run(epochs=5)]


@pytest.fixture
def measured(make_result: Callable[..., Result], monkeypatch: Any) -> Callable[[list[Any]], list[Any]]:
    """The rows of these runs, whose attacks find more the wider the network is."""

    def result(runs: list[Any], protocol: AttackProtocol) -> list[Result]:
        return [
            make_result(run.config["names"]["defense"], separation=run.config["network"]["hidden"][0] / 100)
            for run in runs
        ]

    monkeypatch.setattr(risk_factors, "results_of", result)
    return lambda runs: risk_rows(runs, AttackProtocol(attacks={}))


def test_each_factor_is_varied_around_the_center() -> None:
    expected = [
        (WIDTH_FACTOR, [4.0, 64.0, 256.0]),
        (RECORDS_FACTOR, [100.0, 200.0, 400.0]),
        (EPOCHS_FACTOR, [5.0, 40.0]),
    ]
    assert values(CENTRAL_RUNS) == expected


@pytest.mark.parametrize(
    "other",
    [
        run(width=128, defense="l2"),
        run(width=[128, 128]),
        run(width=128, seed=1),
        run(width=128, epochs=10),
        run(width=128, trainer={"epochs": 40, "batch_size": 64, "optimizer": {"_target_": "torch.optim.SGD"}}),
        run(width=128, canary={"kind": "label_noise"}),
        run(width=128, network={"_target_": "own.Network"}),
    ],
)
def test_a_run_that_differs_in_more_belongs_to_no_line(other: Any) -> None:
    assert values([*CENTRAL_RUNS, other]) == values(CENTRAL_RUNS)


def test_a_guard_is_no_factor() -> None:
    guarded = run(width=128)
    guarded.guard = "topk-123"
    assert values([*CENTRAL_RUNS, guarded]) == values(CENTRAL_RUNS)


def test_places_and_sizes_of_fleets_decide_nothing() -> None:
    moved = run(width=128, data={"name": "digits", "root": "/elsewhere"}, fleet={"models": 8})
    assert values([*CENTRAL_RUNS, moved])[0] == (WIDTH_FACTOR, [4.0, 64.0, 128.0, 256.0])


def test_records_are_those_of_one_model() -> None:
    halves, quarters = run(), run(membership={"how": "bernoulli", "share": 0.25})
    assert values([halves, quarters]) == [(RECORDS_FACTOR, [100.0, 200.0])]


def test_epochs_are_those_of_the_defense_if_it_has_its_own() -> None:
    def of_epochs(epochs: int) -> Any:
        one = run(defense="dp_sgd")
        one.config["defense"] = {"_target_": "dp", "trainer": {"epochs": epochs}}
        return one

    assert values([of_epochs(10), of_epochs(20)]) == [(EPOCHS_FACTOR, [10.0, 20.0])]


def test_runs_of_which_no_two_belong_together_are_refused() -> None:
    with pytest.raises(ValueError) as error:
        lines([run(), run(width=32, pool=800)])
    expected = "study=risk_factors: expected two runs that differ in network width, training records or epochs alone"
    assert str(error.value).startswith(expected)


def test_a_whole_grid_gives_lines_with_different_labels(measured: Callable[[list[Any]], list[Any]]) -> None:
    rows = measured([run(width=width, pool=pool) for width in (16, 64) for pool in (200, 400)])
    by_factor = {part.varied: part.targets for part in Study(rows).parts}
    assert by_factor == {
        WIDTH_FACTOR: ["undefended, split.pool=200", "undefended, split.pool=400"],
        RECORDS_FACTOR: ["undefended, network.hidden=[16]", "undefended, network.hidden=[64]"],
    }


def test_the_gap_is_that_of_the_correctness_attack(make_result: Callable[..., Result]) -> None:
    result = make_result(separation=0.8)
    auc = result.get("auc", attack="correctness")
    (gap,) = [row for row in accuracies(result, target="t", varied="v", setting="1") if row.metric == ACCURACY_GAP]
    assert auc.value is not None and auc.low is not None and auc.high is not None
    assert (gap.value, gap.low, gap.high) == (2 * auc.value - 1, 2 * auc.low - 1, 2 * auc.high - 1)


def test_accuracies_need_no_attack(make_result: Callable[..., Result]) -> None:
    result = replace(make_result(), roc={})
    rows = accuracies(result, target="t", varied="v", setting="1")
    assert [(row.metric, row.value) for row in rows] == [
        (metric, result.get(metric).value) for metric in ("test_accuracy", "train_accuracy")
    ]


def test_a_table_for_each_factor(measured: Callable[[list[Any]], list[Any]]) -> None:
    console = Console(file=io.StringIO(), width=120)
    show(console, *study_tables(measured([run(width=8), *CENTRAL_RUNS])))
    assert isinstance(console.file, io.StringIO)
    text = [line.split() for line in console.file.getvalue().splitlines()]
    headings = [line for line in text if line[:2] == ["target", "↓,"]]
    assert headings == [
        ["target", "↓,", "network", "width", "→", "4", "8", "64", "256"],  # rising, though 8 came first
        ["target", "↓,", "training", "records", "→", "100", "200", "400"],
        ["target", "↓,", "epochs", "→", "5", "40"],
    ]
    assert len([line for line in text if line[:2] == ["accuracy", "gap"]]) == 3


def test_the_figure_shows_the_strongest_attack_over_each_factor(measured: Callable[[list[Any]], list[Any]]) -> None:
    study = Study(measured(CENTRAL_RUNS))
    panels = np.array(factors(study).axes).reshape(3, 3)
    assert [axes.get_xlabel() for axes in panels[2]] == [
        f"{name} →" for name in (WIDTH_FACTOR, RECORDS_FACTOR, EPOCHS_FACTOR)
    ]
    assert [axes.get_title(loc="left") for axes in panels[:, 0]] == [
        "TPR at 1 % FPR", "AUC", "Accuracy on members − on non-members",
    ]  # fmt: skip
    for row, (attack, metric) in enumerate((("lira", "tpr@1%fpr"), ("lira", "auc"), ("", ACCURACY_GAP))):
        (drawn,) = panels[row, 0].containers
        points = drawn.lines[0]
        part = study.parts[0]
        expected = [part.value("undefended", setting, attack, metric) for setting in ("4", "64", "256")]
        np.testing.assert_array_equal(points.get_xdata(), [4, 64, 256])
        np.testing.assert_allclose(points.get_ydata(), np.array(expected, dtype=float))
        assert to_hex(points.get_color()) == INK_COLOR
    assert not factors(study).legends


def test_several_lines_have_a_legend(measured: Callable[[list[Any]], list[Any]]) -> None:
    study = Study(measured([*CENTRAL_RUNS, run(defense="l2"), run(width=16, defense="l2")]))
    (legend,) = factors(study).legends
    assert [text.get_text() for text in legend.get_texts()] == ["undefended", "l2"]


def test_without_the_gap_its_row_is_left_out(measured: Callable[[list[Any]], list[Any]]) -> None:
    rows = [row for row in measured(CENTRAL_RUNS) if row.metric != ACCURACY_GAP]
    assert len(factors(Study(rows)).axes) == 2 * 3


def test_a_value_that_cannot_be_resolved_is_not_drawn(measured: Callable[[list[Any]], list[Any]]) -> None:
    rows = [
        replace(row, value=None, low=None, high=None) if (row.setting, row.metric) == ("4", "tpr@1%fpr") else row
        for row in measured(CENTRAL_RUNS)
    ]
    panel = factors(Study(rows)).axes[0]
    np.testing.assert_array_equal(panel.containers[0].lines[0].get_xdata(), [64, 256])


def test_files_hold_every_row(measured: Callable[[list[Any]], list[Any]], tmp_path: Path) -> None:
    rows = measured(CENTRAL_RUNS)
    paths = write_study(rows, tmp_path)
    assert [path.name for path in paths] == ["study.csv", "study.png"]
    written = list(csv.DictReader(io.StringIO(paths[0].read_text())))
    assert len(written) == len(rows)
    assert {row["varied"] for row in written} == {WIDTH_FACTOR, RECORDS_FACTOR, EPOCHS_FACTOR}
    assert "network width" in (tmp_path / "study.svg").read_text()


def test_the_study_of_this_name_is_this_one(measured: Callable[[list[Any]], list[Any]]) -> None:
    assert run_study({"name": "risk_factors"}, CENTRAL_RUNS, AttackProtocol(attacks={})) == measured(CENTRAL_RUNS)
