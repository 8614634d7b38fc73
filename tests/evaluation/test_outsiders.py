"""The report's words on records that were never used, read from a study of the very runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.report.outsiders import (
    OF_A_FILE,
    STRONGEST_SHOWN,
    accusation_table,
    false_accusations,
    outsiders,
)
from palisade.evaluation.report.page import render
from palisade.evaluation.report.run_report import page_of, summary, write
from palisade.evaluation.result import Result
from palisade.evaluation.studies.never_used import CORRUPTED_COPIES, NEAR_DUPLICATES, NEEDS_THE_RECORD
from palisade.evaluation.studies.studies import FALSELY_ACCUSED, StudyRow
from palisade.evaluation.studies.study_runs import write_study

pytestmark = pytest.mark.usefixtures("undrawn")

PUBLIC_COMMAND = "python evaluate.py data=digits attack=full report.scope=public gate.tpr=0.1"
PRIVATE_FILE = "/home/somebody/patients.npz"
OUTSIDER_KINDS = (PRIVATE_FILE, CORRUPTED_COPIES, NEAR_DUPLICATES)
OTHER_ROW = StudyRow(target="t", varied="shadows from", setting="s", attack="loss", metric="auc", value=0.6)


RUN_KEYS = ("1a2b",)


def accused(
    run: str, attack: str, values: tuple[float | None, ...], note: str = "", *, expected: float = 0.01,
    key: str = RUN_KEYS[0],
) -> list[StudyRow]:  # fmt: skip
    """Rates of an attack whose intervals reach from half of each to twice as much."""
    named: dict[str, Any] = {
        "target": "t", "varied": "never used", "metric": FALSELY_ACCUSED, "note": note, "run": run, "key": key,
    }  # fmt: skip
    return [
        StudyRow(
            setting=kind, attack=attack, value=value, low=None if value is None else value / 2,
            high=None if value is None else 2 * value, expected=None if value is None else expected, **named,
        )
        for kind, value in zip(OUTSIDER_KINDS, values, strict=True)
    ]  # fmt: skip


@pytest.fixture
def results(make_result: Callable[..., Result]) -> list[Result]:
    return [replace(make_result(), run="mlp-none-1"), replace(make_result("l2", strength=0.1), run="mlp-l2-2")]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    rows = [
        *accused("mlp-none-1", "lira", (None, None, None), NEEDS_THE_RECORD),
        *accused("mlp-none-1", "correctness", (0.01, 0.01, 0.01)),
        *accused("mlp-none-1", "loss", (0.25, 0.01, 0.012)),
        *accused("mlp-none-1", "lira_offline", (0.03, 0.04, 0.05)),
        *accused("mlp-none-1", "entropy", (0.01, 0.01, 0.01)),
        *accused("mlp-gone-3", "loss", (0.9, 0.9, 0.9)),
    ]
    return write_study([*rows, OTHER_ROW], tmp_path)[0]


def test_the_worst_rate_is_that_of_the_report_s_own_runs(results: list[Result], study: Path) -> None:
    rates = false_accusations(study, results, RUN_KEYS)
    assert rates is not None
    worst = rates.worst
    assert (worst.attack, worst.kind, worst.value, worst.low, worst.high) == ("loss", OF_A_FILE, 0.25, 0.125, 0.5)
    assert (rates.rates, rates.above, rates.runs, rates.of, rates.unable) == (12, 4, 1, 2, ["lira"])


def test_the_strongest_attacks_come_first(results: list[Result], study: Path) -> None:
    content = outsiders(false_accusations(study, results, RUN_KEYS), results, PUBLIC_COMMAND)
    kinds, rows = accusation_table(content["rates"])
    assert kinds == [OF_A_FILE, "corrupted copies of records that were never used", "near-duplicates of members"]
    assert [row[1] for row in rows] == ["lira_offline", "loss", "correctness"] and len(rows) == STRONGEST_SHOWN
    assert rows[0][2:] == ("3.0 % [1.5–6.0]", "4.0 % [2.0–8.0]", "5.0 % [2.5–10.0]")


def test_only_more_than_chance_is_called_less_trustworthy(results: list[Result], tmp_path: Path) -> None:
    for value, worse in ((0.04, True), (0.015, False)):
        path = write_study([*accused("mlp-none-1", "loss", (value,) * 3), OTHER_ROW], tmp_path / str(value))[0]
        content = outsiders(false_accusations(path, results, RUN_KEYS), results, PUBLIC_COMMAND)
        assert ("less trust" in " ".join(content["sentences"])) is worse


def test_rates_are_compared_with_what_few_non_members_let_through(results: list[Result], tmp_path: Path) -> None:
    rows = [*accused("mlp-none-1", "loss", (0.03,) * 3, expected=0.0196), OTHER_ROW]
    rates = false_accusations(write_study(rows, tmp_path)[0], results, RUN_KEYS)
    assert rates is not None and rates.above == 0, "1.5 % is above 1 %, but not above 2 %"
    assert "accuse 2.0 % on average" in rates.sentences[1] and "less trust" not in rates.sentences[1]
    more = [*accused("mlp-none-1", "loss", (0.06,) * 3, expected=0.0196), *accused("mlp-none-1", "lira", (0.001,) * 3)]
    rates = false_accusations(write_study([*more, OTHER_ROW], tmp_path)[0], results, RUN_KEYS)
    assert rates is not None and rates.above == 3
    assert "accuse 1.0–2.0 % on average" in rates.sentences[1] and "less trust" in rates.sentences[1]


def test_rates_of_other_models_or_threats_are_not_the_report_s(results: list[Result], tmp_path: Path) -> None:
    other = accused("mlp-none-1", "loss", (0.9,) * 3, key="3c4d")
    assert false_accusations(write_study([*other, OTHER_ROW], tmp_path)[0], results, RUN_KEYS) is None
    own = accused("mlp-none-1", "entropy", (0.02,) * 3)
    rates = false_accusations(write_study([*other, *own, OTHER_ROW], tmp_path)[0], results, RUN_KEYS)
    assert rates is not None and (rates.rates, rates.worst.attack) == (3, "entropy")


def test_a_study_without_keys_is_nobody_s(results: list[Result], study: Path) -> None:
    head, *lines = study.read_text().splitlines()
    assert head.endswith(",key")
    study.write_text("\n".join(line.rpartition(",")[0] for line in (head, *lines)))
    assert false_accusations(study, results, RUN_KEYS) is None


@pytest.mark.parametrize("wrong", ["a lot", "nan", "7"])
def test_a_broken_study_is_named(wrong: str, results: list[Result], study: Path) -> None:
    study.write_text(study.read_text().replace("0.25", wrong))
    with pytest.raises(ValueError) as error:
        false_accusations(study, results, RUN_KEYS)
    assert str(error.value).startswith(f"{study} is not as a study wrote it")
    assert str(error.value).endswith("; remove it, and measure anew") and wrong in str(error.value)


def test_fleets_with_canaries_get_no_command(make_result: Callable[..., Result], tmp_path: Path) -> None:
    """The study refuses them."""
    canaries = replace(make_result(canary="label_noise"), run="mlp-none-label_noise-4")
    content = summary(Comparison([canaries]), PUBLIC_COMMAND)
    assert content["never_used"]["command"] is None and content["never_used"]["rates"] is None
    assert "canaries" in content["never_used"]["sentences"][0]
    html = render(page_of(Comparison([canaries]), content), {"tradeoff": "", "roc": ""})
    assert "study.out" not in html and "Never used and accused" not in html
    plain = replace(make_result(), run="mlp-none-1")
    assert "study.out=test" in summary(Comparison([plain, canaries]), PUBLIC_COMMAND)["never_used"]["command"]
    path = write_study([*accused("mlp-none-1", "loss", (0.01,) * 3), OTHER_ROW], tmp_path)[0]
    rates = false_accusations(path, [plain, canaries], RUN_KEYS)
    assert rates is not None and (rates.runs, rates.of) == (1, 1)


def test_the_command_keeps_the_settings_of_attacks(results: list[Result]) -> None:
    words = "attack=full attack.rmia_offline.gamma=2"
    content = outsiders(None, results, f"python evaluate.py data=digits {words} plan=false")
    assert content["command"] == f"python evaluate.py data=digits {words} study=shadow_mismatch study.out=test"


def test_a_report_names_no_file(results: list[Result], study: Path, tmp_path: Path) -> None:
    write(
        Comparison(results),
        tmp_path,
        PUBLIC_COMMAND,
        scope="public",
        accusations=false_accusations(study, results, RUN_KEYS),
    )
    content = summary(Comparison(results), PUBLIC_COMMAND, accusations=false_accusations(study, results, RUN_KEYS))
    texts = [(tmp_path / name).read_text() for name in ("report.html", "report.json")]
    for text in (
        *texts,
        json.dumps(content),
        render(page_of(Comparison(results), content), {"tradeoff": "", "roc": ""}),
    ):
        assert "patients.npz" not in text and "somebody" not in text
        assert OF_A_FILE in text and "lira_offline" in text


@pytest.mark.parametrize("missing", ["no study", "no rate", "other runs"])
def test_what_was_not_measured_is_said_with_the_command(missing: str, results: list[Result], tmp_path: Path) -> None:
    rows = {
        "no study": [],
        "no rate": accused("mlp-none-1", "lira", (None, None, None), NEEDS_THE_RECORD),
        "other runs": accused("mlp-gone-3", "loss", (0.9, 0.9, 0.9)),
    }[missing]
    study = tmp_path / "none.csv" if missing == "no study" else write_study([*rows, OTHER_ROW], tmp_path)[0]
    assert false_accusations(study, results, RUN_KEYS) is None
    content = summary(Comparison(results), PUBLIC_COMMAND)
    assert content["never_used"]["rates"] is None
    command = content["never_used"]["command"]
    assert command == "python evaluate.py data=digits study=shadow_mismatch study.out=test"
    html = render(page_of(Comparison(results), content), {"tradeoff": "", "roc": ""})
    assert command in html and html.index('id="flags"') < html.index(command) < html.index('id="reproduce"')
