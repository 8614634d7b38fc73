"""A public report tells the same, and nothing that names a record, counts members or hashes private data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.report.page import render
from palisade.evaluation.report.run_report import page_of, summary, write
from palisade.evaluation.report.scope import NOT_COVERED, check_scope_of, public_command, published
from palisade.evaluation.result import Result
from palisade.targets.trial_outcomes import TrialOutcome, TuningOutcome

SECRETIVE_COMMAND = (
    "python evaluate.py data=csv data.path=/home/me/p.csv runs=runs/p/mlp-none-0a1b2c3d 'attack=[lira, rmia]'"
)


@pytest.fixture
def private(make_result: Callable[..., Result], make_guarded: Callable[..., Result]) -> list[Result]:
    """Two runs and one of them behind a guard, with hashes of private data and odd numbers of members."""

    def named(result: Result, digest: str) -> Result:
        rows = [replace(row, members=row.members and row.members + 77) for row in result.rows]
        data = {**result.config["data"], "path": "/home/me/p.csv"}
        folder, guard = f"runs/p/mlp-{result.defense}-{digest}", result.guard
        run = f"mlp-{result.defense}-{digest}" + f"+{guard}" * (guard != "none")
        return replace(result, run=run, folder=folder, rows=rows, config={**result.config, "data": data})

    bare, l2 = make_result(), make_result("l2", strength=0.1, separation=0.4)
    guarded = make_guarded(bare, "topk", 3, 0.8)
    return [named(bare, "0a1b2c3d"), named(l2, "4e5f6a7b"), named(guarded, "0a1b2c3d")]


@pytest.fixture
def files(private: list[Result], tmp_path: Path) -> dict[str, str]:
    write(
        Comparison(private), tmp_path, SECRETIVE_COMMAND, scope="public", releases={private[1].run: "released/p-mlp-l2"}
    )
    return {path.name: path.read_text() for path in tmp_path.iterdir() if path.suffix != ".png"}


def test_single_records_have_no_file_plot_or_table(files: dict[str, str]) -> None:
    assert sorted(files) == ["report.html", "report.json", "results.csv", "roc.svg", "tradeoff.svg"]
    assert 'id="exposure"' not in files["report.html"] and json.loads(files["report.json"])["exposed"] == []


def test_no_hash_of_private_data_and_no_place_is_named(files: dict[str, str]) -> None:
    for name, text in files.items():
        assert not re.search("0a1b2c3d|4e5f6a7b|/home/me|p\\.csv", text), name
    content = json.loads(files["report.json"])
    assert [run["run"] for run in content["runs"]] == ["1-mlp-none", "2-mlp-l2", "1-mlp-none+topk"]
    assert content["released"]["releases"] == {"l2 0.1": "p-mlp-l2"}, "where it lies is nobody's business"


def test_numbers_of_members_are_expected_ones(files: dict[str, str], private: list[Result]) -> None:
    content = json.loads(files["report.json"])
    rows = [row for run in content["runs"] for row in run["rows"]]
    realised = {row.members for result in private for row in result.rows}
    assert all(row["members"] is None or abs(row["members"] - row["nonmembers"]) <= 1 for row in rows)
    assert {row["model"] for row in rows} == {"all"} and not {
        row["members"] for row in rows if row["members"]
    } & realised
    assert "train_accuracy" not in {row["metric"] for row in rows}
    assert all(round(row[key], 3) == row[key] for row in rows for key in ("value", "low", "high") if row[key])
    assert all("correct" not in run["audit"] for run in content["runs"])


def test_curves_tell_no_count(private: list[Result]) -> None:
    for result in published(private):
        for fpr, tpr in result.roc.values():
            assert f"{fpr[0]:.6g}" in ("0.002", "0.005") and fpr[-1] == pytest.approx(1)
            assert all(round(value, 3) == value for value in tpr)


def test_classes_of_private_data_are_not_counted(private: list[Result], files: dict[str, str]) -> None:
    counts = {row.members + row.nonmembers for result in private for row in result.rows if row.group == "class=3"}
    rows = [row for run in json.loads(files["report.json"])["runs"] for row in run["rows"] if row["group"] != "all"]
    assert rows and {row["members"] for row in rows} == {row["nonmembers"] for row in rows} == {None}
    assert not any(str(count // 2) in text for count in counts for name, text in files.items() if name.endswith("csv"))
    assert "members / non-members</th>" in files["report.html"].split('id="groups"')[0]
    assert "members / non-members</th>" not in files["report.html"].split('id="groups"')[1].split("</section>")[0]
    public = [replace(result, dataset={**result.dataset, "published": True}) for result in private]
    assert {row.members for row in published(public)[0].rows if row.group == "class=3"} != {None}


def test_the_claims_leave_the_report_out(private: list[Result]) -> None:
    assert all(NOT_COVERED in result.statement.not_covered for result in published(private))
    public = [replace(result, dataset={**result.dataset, "published": True}) for result in private]
    assert not any(NOT_COVERED in result.statement.not_covered for result in published(public))


def test_small_groups_are_left_out(make_result: Callable[..., Result]) -> None:
    large = make_result()
    small = replace(
        large, rows=[replace(row, members=40, nonmembers=40) if row.group != "all" else row for row in large.rows]
    )
    groups = [{row.group for row in result.rows} for result in published([large, replace(small, folder="other")])]
    assert groups == [{"all", "class=3"}, {"all"}]


def test_the_scope_says_what_is_missing(files: dict[str, str]) -> None:
    html = files["report.html"]
    assert "<strong>Scope: public.</strong> Left out: which records are exposed" in html
    assert "Members / non-members: expected" in html and "Do not publish" not in html


@pytest.mark.usefixtures("undrawn")
def test_flags_and_verdicts_are_those_of_the_internal_report(private: list[Result], tmp_path: Path) -> None:
    pages = []
    for scope in ("internal", "public"):
        write(Comparison(private), tmp_path / scope, SECRETIVE_COMMAND, scope=scope)
        content = json.loads((tmp_path / scope / "report.json").read_text())
        flags = [[flag["name"] for flag in run["flags"]] for run in content["runs"]]
        pages.append((flags, [verdict["heading"] for verdict in content["verdicts"]]))
    assert pages[0] == pages[1] and any(pages[0][0])


def test_an_unknown_scope_is_refused(private: list[Result], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^report\.scope=open"):
        write(Comparison(private), tmp_path / "none", SECRETIVE_COMMAND, scope="open")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("report", [{}, {"scope": ["public"]}, {"scope": None}])
def test_settings_without_a_scope_are_refused(report: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^report\.scope=.*: expected one of internal, public; "):
        check_scope_of({"report": report})


@pytest.mark.parametrize("instead", ["audit", "study", "search"])
def test_what_is_for_insiders_is_not_called_public(instead: str) -> None:
    with pytest.raises(ValueError, match=r"^report.scope=public"):
        check_scope_of({"report": {"scope": "public"}, instead: {"name": "x"}})
    check_scope_of({"report": {"scope": "internal"}, instead: {"name": "x"}})


def test_a_command_keeps_what_is_no_place() -> None:
    assert public_command(SECRETIVE_COMMAND) == "python evaluate.py data=csv 'attack=[lira, rmia]'"
    prefixed = (
        SECRETIVE_COMMAND.replace(" data.path", " +data.path").replace(" runs=", " ++runs=") + " ++root=/home/me ~runs"
    )
    assert public_command(prefixed) == "python evaluate.py data=csv 'attack=[lira, rmia]'"


def test_trials_of_tuning_stand_in_the_internal_report_alone(make_result: Callable[..., Result]) -> None:
    trials = [
        TrialOutcome(
            settings={"network.hidden": "[]", "defense.lr": lr}, status=status, models=models, accuracy=accuracy
        )
        for lr, status, models, accuracy in (("9", "stopped early", 1, 0.25), ("0.1", "chosen", 2, 0.875))
    ]
    result = make_result("dp_sgd", strength=8.0, tuning=TuningOutcome.of(0.5, trials))
    inside, outside = (Comparison(runs) for runs in ([result], published([result])))
    content = summary(inside, "")
    page = render(page_of(inside, content), {"tradeoff": "", "roc": ""}).replace("\u00a0", " ")
    assert content["tuned"][0]["rows"] == [
        ["hidden=[], lr=0.1", "87.5 %", "2", "chosen"],
        ["hidden=[], lr=9", "25.0 %", "1", "stopped early"],
    ]
    assert "hidden=[], lr=0.1; best of 2 trials, 1 of them stopped early (3 trainings)" in page
    assert '<th scope="row">hidden=[], lr=9</th><td>25.0 %</td><td>1</td><td>stopped early</td>' in page
    assert summary(outside, "", scope="public")["tuned"] == []
