"""Studies: what is kept, shown and written, and the view of targets with foreign shadows."""

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
import yaml
from rich.console import Console

from palisade.attacks import LiRA, View
from palisade.evaluation.format import show
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.result import Result, Row
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.signals.shadows import mismatch_view
from palisade.evaluation.studies.plots import study
from palisade.evaluation.studies.studies import Study, StudyRow, labels, study_rows, study_tables
from palisade.evaluation.studies.study_runs import run_study, same_secret, write_study
from tests.evaluation.conftest import claim

CONF_FOLDER = Path(__file__).parents[2] / "conf"
OUTPUT_LEVELS = ("logits", "top-3", "label")


@pytest.fixture
def rows(make_result: Callable[..., Result]) -> list[StudyRow]:
    """Two targets at three levels; only correctness runs on labels."""
    study = []
    for target, separation in (("undefended", 1.2), ("dp_sgd ε=8", 0.3)):
        for level in OUTPUT_LEVELS:
            result = make_result(separation=separation)
            if level == "label":
                skipped = {attack: "only labels are released" for attack in ("loss", "lira", "lira_offline")}
                part = [row for row in result.rows if row.attack in ("", "correctness")]
                result = replace(result, roc={"correctness": result.roc["correctness"]}, rows=part, skipped=skipped)
            study += study_rows(result, target=target, varied="released", setting=level)
    return study


def printed(rows: list[StudyRow]) -> str:
    console = Console(file=io.StringIO(), width=120)
    show(console, *study_tables(rows))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_rows_are_the_fleet_s_metrics(make_result: Callable[..., Result]) -> None:
    result = make_result()
    stored = study_rows(result, target="t", varied="v", setting="s")
    assert {(row.target, row.varied, row.setting, row.note) for row in stored} == {("t", "v", "s", "")}
    assert {(row.attack, row.metric) for row in stored} == {
        (attack, metric) for attack in result.attacks for metric in ("auc", "tpr@1%fpr", "tpr@0.1%fpr")
    }
    for row in stored:
        source = result.get(row.metric, attack=row.attack)
        assert (row.value, row.low, row.high) == (source.value, source.low, source.high)


def test_the_table_has_a_column_a_setting_and_the_strongest_attack_on_top(rows: list[StudyRow]) -> None:
    lines = [line.split() for line in printed(rows).splitlines() if line.strip()]
    assert lines[0] == ["target", "↓,", "released", "→", *OUTPUT_LEVELS]
    assert lines[2] == ["undefended", "lira", "lira", "correctness"]
    first = Study(rows)
    tpr, auc = (first.value("undefended", "logits", "lira", metric) for metric in ("tpr@1%fpr", "auc"))
    assert tpr is not None and auc is not None
    (lira,) = [line for line in lines[3:7] if line[0] == "lira"]
    assert lira[1:5] == [f"{100 * tpr:.1f}", "%", "·", f"{auc:.3f}"] and lira[-1] == "–"
    assert [line[0] for line in lines[3:7]] == ["correctness", "loss", "lira", "lira_offline"]


def test_each_reason_for_a_dash_stands_below_once(rows: list[StudyRow]) -> None:
    text = printed(rows)
    assert text.count("only labels are released") == 1
    assert text.rstrip().endswith("skipped loss, lira, lira_offline: only labels are released (released label)")
    everywhere = [row for row in rows if row.setting == "label"]
    assert printed(everywhere).rstrip().endswith("skipped loss, lira, lira_offline: only labels are released")


def test_the_strongest_has_the_highest_tpr_then_auc() -> None:
    def of(attack: str, tpr: float | None, auc: float | None) -> list[StudyRow]:
        named: dict[str, Any] = {"target": "t", "varied": "v", "setting": "s", "attack": attack}
        return [StudyRow(metric="tpr@1%fpr", value=tpr, **named), StudyRow(metric="auc", value=auc, **named)]

    assert Study([*of("a", 0.2, 0.6), *of("b", 0.3, 0.5)]).strongest("t", "s") == "b"
    assert Study([*of("a", None, 0.6), *of("b", None, 0.5)]).strongest("t", "s") == "a"
    assert Study(of("a", None, None)).strongest("t", "s") is None
    assert "all skipped" in printed(of("a", None, None))


def test_files_hold_every_row(rows: list[StudyRow], tmp_path: Path) -> None:
    paths = write_study(rows, tmp_path / "new")
    assert [path.name for path in paths] == ["study.csv", "study.png"]
    assert (tmp_path / "new" / "study.svg").exists()
    lines = list(csv.DictReader(io.StringIO(paths[0].read_text())))
    assert {line["note"] for line in lines if line["setting"] == "label"} == {"", "only labels are released"}
    assert list(lines[0]) == [
        "target", "varied", "setting", "attack", "metric", "value", "low", "high", "note", "run", "expected", "key",
    ]  # fmt: skip
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        assert line["value"] == ("" if row.value is None else str(row.value))
        assert line["note"] == row.note
    assert paths[1].read_bytes().startswith(b"\x89PNG")


def test_the_figure_has_a_cell_for_every_target_attack_and_setting(rows: list[StudyRow]) -> None:
    targets, attacks = study(Study(rows)).axes
    assert [tick.get_text() for tick in targets.get_yticklabels()] == ["undefended", "dp_sgd ε=8"]
    assert [tick.get_text() for tick in attacks.get_yticklabels()] == ["correctness", "loss", "lira", "lira_offline"]
    assert [tick.get_text() for tick in attacks.get_xticklabels()] == list(OUTPUT_LEVELS)
    assert len(targets.texts) == 2 * 3 and len(attacks.texts) == 4 * 3
    assert [text.get_text() for text in attacks.texts].count("–") == 3
    assert targets.texts[2].get_text().endswith("correctness")
    assert [axes.get_xlabel() for axes in (targets, attacks)] == ["released →"] * 2
    assert [axes.get_ylabel() for axes in (targets, attacks)] == ["target ↓", "attack ↓"]


def test_labels_of_runs_name_what_differs(make_result: Callable[..., Result]) -> None:
    first = make_result("l2", strength=0.1)
    linear = {**first.config, "network": {"width": 3}, "names": {**first.config["names"], "network": "linear"}}
    fewer = {**first.config, "membership": {"how": "bernoulli", "share": 0.25}}
    runs = [first, replace(first, config=linear), replace(first, config=fewer), make_result(), replace(first, seed=1)]
    assert labels(runs) == [
        "l2 0.1", "l2 0.1, network=linear", "l2 0.1, membership.share=0.25", "undefended", "l2 0.1, seed=1",
    ]  # fmt: skip


def test_settings_that_a_run_has_not_are_not_named_and_the_table_fits(make_result: Callable[..., Result]) -> None:
    """As of experiment=shadow_mismatch: DP-SGD has a trainer of its own, and a linear network may be its choice."""
    bare = make_result()
    bare = replace(bare, config={**bare.config, "trainer": {"batch_size": 64, "optimizer": {"lr": 0.005}}})
    node = {"_target_": "palisade.defenses.dp_sgd.DPSGDDefense", "trainer": {"batch_size": 64, "optimizer": {}}}
    private = make_result("dp_sgd", strength=8, statement=claim(8))
    private = replace(private, config={**bare.config, "defense": node, "names": {"network": "mlp"}})
    linear = {"network": {"hidden": []}, "names": {"network": "linear"}}
    fewer = {"membership": {"how": "bernoulli", "share": 0.25}}
    runs = [private, *(replace(private, config={**private.config, **part}) for part in (linear, fewer)), bare]
    named = labels(runs)
    assert named == ["dp_sgd ε=8", "dp_sgd ε=8, network=linear", "dp_sgd ε=8, membership.share=0.25", "undefended"]
    rows = [
        row
        for target, result in zip(named, runs, strict=True)
        for setting in named
        for row in study_rows(result, target=target, varied="shadows from", setting=setting)
    ]
    assert max(map(len, printed(rows).splitlines())) <= 120
    same = replace(private, run="mlp-dp_sgd-0a1b")
    assert labels([private, same]) == [f"dp_sgd ε=8 ({run.run})" for run in (private, same)]


def fleet(seed: int, models: int, leak: float = 3.0, records: int = 300, **parts: Any) -> View:
    """Models whose log-odds rise by `leak` on members, on records that the public seed decides."""
    shared, rng = np.random.default_rng(0), np.random.default_rng(seed)
    labels, hard = shared.integers(2, size=records), shared.normal(size=records)
    membership = rng.random((models, records)) < 0.5
    odds = hard + rng.normal(size=(models, records)) + leak * membership
    sign = np.where(np.arange(2) == labels[:, None], 0.5, -0.5)
    return View(logits=(odds[:, :, None] * sign).astype(np.float32), labels=labels, membership=membership, **parts)


def test_shadows_of_a_target_are_the_other_run_alone() -> None:
    targets, shadows = fleet(1, 4), fleet(2, 6, groups=np.array([7, 7, 3, 3, 5, 5]))
    joined = mismatch_view(targets, shadows)
    expected = np.zeros((10, 10), dtype=np.bool_)
    expected[:4, 4:] = True
    np.testing.assert_array_equal(joined.others[:4], expected[:4])
    np.testing.assert_array_equal(joined.others[4], [True] * 4 + [False, False] + [True] * 4)
    np.testing.assert_array_equal(joined.membership, np.vstack([targets.membership, shadows.membership]))


def test_scores_of_targets_depend_on_no_other_target() -> None:
    targets, shadows = fleet(1, 4), fleet(2, 16)
    scores = LiRA().score(mismatch_view(targets, shadows))[:4]
    alone = View(logits=targets.logits[:1], labels=targets.labels, membership=targets.membership[:1])  # type: ignore[index]
    np.testing.assert_allclose(LiRA().score(mismatch_view(alone, shadows))[0], scores[0], rtol=1e-10)
    flipped = replace(targets, membership=~targets.membership)
    np.testing.assert_array_equal(LiRA().score(mismatch_view(flipped, shadows))[:4], scores)
    members = targets.membership
    assert scores[members].mean() > scores[~members].mean() + 1


def test_populations_queries_and_levels_are_joined() -> None:
    population = np.zeros((4, 5, 2), dtype=np.float32)
    parts: dict[str, Any] = {"population_labels": np.zeros(5, dtype=np.int64), "features": np.ones((300, 2))}
    targets = fleet(1, 4, population_logits=population, query=lambda model, x: x + model, **parts)
    shadows = fleet(2, 4, population_logits=population + 1, query=lambda model, x: x - model, **parts)
    joined = mismatch_view(targets, shadows)
    assert joined.population is not None and joined.population.models == 8
    assert joined.query is not None
    assert [int(joined.query(model, np.zeros(1))[0]) for model in (0, 3, 4, 7)] == [0, 3, 0, -3]
    np.testing.assert_array_equal(joined.features, parts["features"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("labels", "labels differ between targets and shadows; choose runs with the same records: data and seed"),
        ("population", "population_labels differ between targets and shadows; choose runs with the same population"),
        ("level", "outputs=logits: expected probabilities, as of the shadows; grant both runs the same level"),
    ],
)
def test_runs_about_other_records_or_levels_are_refused(change: str, message: str) -> None:
    targets, shadows = fleet(1, 4), fleet(2, 4)
    population: dict[str, Any] = {"population_labels": np.zeros(2, dtype=np.int64)}
    other = {
        "labels": lambda: replace(shadows, labels=1 - shadows.labels),
        "population": lambda: replace(shadows, population_logits=np.zeros((4, 2, 2)), **population),
        "level": lambda: replace(shadows, logits=None, probabilities=np.full((4, 300, 2), 0.5)),
    }[change]()
    with pytest.raises(ValueError) as error:
        mismatch_view(targets, other)
    assert message in str(error.value)


def test_one_secret_is_refused_in_words() -> None:
    assert same_secret("a", "b").startswith("target=a, shadows=b: expected runs of different secrets, ")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "output_levels", "levels": []},
            "study.levels=[]: expected a list of levels; give such as [{outputs: label}]",
        ),
        (
            {"name": "shadow_mismatch"},
            "study=shadow_mismatch: expected two runs or more, not 1; ",
        ),
    ],
)
def test_a_study_of_nothing_is_refused(settings: dict[str, Any], message: str) -> None:
    split = SimpleNamespace(canaries=[])
    run: Any = SimpleNamespace(dataset=SimpleNamespace(split=split), folder=Path("runs/digits/alone"))
    with pytest.raises(ValueError) as error:
        run_study(settings, [run], AttackProtocol(attacks={}))
    assert str(error.value).startswith(message)


def test_levels_fall_from_logits_to_labels() -> None:
    levels = yaml.safe_load((CONF_FOLDER / "study" / "output_levels.yaml").read_text())["levels"]
    grants = [Grant(**level) for level in levels]
    assert [grant.level for grant in grants] == [
        "logits",
        "probabilities",
        "probabilities, 2 decimals",
        "top-3",
        "label",
    ]


def test_rows_of_single_models_and_classes_are_left_out(make_result: Callable[..., Result]) -> None:
    result = make_result()
    result = replace(result, rows=[*result.rows, Row(metric="auc", value=0.9, attack="lira", group="class=7")])
    assert all(row.value != 0.9 for row in study_rows(result, target="t", varied="v", setting="s"))
