"""Each way of auditing a run that is tried is recorded, and corrected for; the share of guesses is fixed before."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from palisade.data.dataset import from_config
from palisade.evaluate import all_attacks
from palisade.evaluation.claims import level_of, violations, ways_tried
from palisade.evaluation.comparison import Comparison
from palisade.evaluation.measuring import measure as measuring
from palisade.evaluation.measuring.runs import fixed_on, measure_and_keep, results_of
from palisade.evaluation.plan import Reach
from palisade.evaluation.protocol import BLACK_BOX, AttackProtocol
from palisade.evaluation.report.page import render
from palisade.evaluation.report.run_report import page_of, summary
from palisade.evaluation.result import Result
from palisade.evaluation.statistics.epsilon import one_run
from palisade.evaluation.studies.study_runs import run_study
from palisade.evaluation.table import UNRECORDED_SHARE, corrections, show_results
from palisade.targets import engines
from palisade.targets.guards.registry import guards_of
from palisade.targets.run import Run
from palisade.train import composed, train_run

Compose = Callable[..., dict[str, Any]]
RUN_WORDS = ["data=digits", "network=linear", "trainer.epochs=1", "canary=label_noise", "canary.count=100"]
FEW_MODELS = ["fleet.models=2", "fleet.workers=1", "secret=guesses"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs in which the run below was trained."""
    runs = tmp_path_factory.mktemp("trained") / "runs"
    train_run(composed(*RUN_WORDS, *FEW_MODELS, "guesses=0.2") | {"runs": str(runs)})
    return runs


@pytest.fixture
def run(tmp_path: Path, trained: Path) -> Run:
    """Of two models, guesses at 40 of 100 canaries being fixed beforehand; each test has its own copy."""
    shutil.copytree(trained, tmp_path / "runs")
    (folder,) = (tmp_path / "runs" / "digits").iterdir()
    return Run(folder)


@cache
def auditors() -> dict[str, Any]:
    return all_attacks()


def protocol(share: float | None = None, queries: Sequence[str] = ("plain",), **threat: Any) -> AttackProtocol:
    threat = {**BLACK_BOX, "guesses": share, **threat}
    loss = {"loss": {"_target_": "palisade.attacks.LossThreshold"}}
    return AttackProtocol(attacks=loss, threat=threat, queries=queries, adaptive=auditors())


def audit(run: Run, share: float | None = None, **how: Any) -> dict[str, Any]:
    """Result of an evaluation that audits a run in one way."""
    (result,) = results_of([Run(run.folder, run.guard)], protocol(share, **how))
    return dict(result.audit)


def shares(run: Run) -> list[float]:
    """The shares that were tried, the recorded one among them."""
    return sorted(way["guesses"] for way in ways_tried(run, protocol().way_on(run)).values())


def assert_corrected(audit: dict[str, Any], ways: int) -> None:
    """Asserts that bound and ceiling hold at 0.05 over the number of ways, and thus at no other level."""
    level, canaries, guesses = 0.05 / ways, audit["canaries"], audit["guesses"]
    assert (audit["ways"], audit["alpha"]) == (ways, level)
    assert audit["bounds"]["one_run"] == one_run(canaries, guesses, audit["correct"], audit["delta"], level)
    assert audit["ceilings"]["one_run"] == one_run(canaries, guesses, guesses, audit["delta"], level)
    assert audit["ceilings"]["one_run"] > 0.0


def test_the_share_is_recorded_before_training_and_names_no_other_run(compose: Compose, run: Run) -> None:
    assert yaml.safe_load((run.folder / "config.yaml").read_text())["guesses"] == run.guesses == 0.2
    other = compose(*RUN_WORDS, *FEW_MODELS, "guesses=0.3")
    assert Run.of(other, from_config(other)).folder == run.folder


def test_the_recorded_share_is_guessed(run: Run) -> None:
    first = audit(run)
    assert (first["canaries"], first["guesses"]) == (100, 40)
    assert_corrected(first, 1)
    assert audit(run, 0.2) == first and shares(run) == [0.2]


def test_every_other_share_that_was_tried_lowers_all_bounds(run: Run) -> None:
    alone = audit(run)
    second = audit(run, 0.4)
    assert second["guesses"] == 80
    assert_corrected(second, 2)
    assert audit(run, 0.4) == second, "the same share again is none more"
    assert_corrected(audit(run, 0.05), 3)
    assert_corrected(audit(run, 0.4), 3)
    recorded = audit(run)
    assert recorded["guesses"] == 40
    assert_corrected(recorded, 3)
    assert recorded["ceilings"]["one_run"] < alone["ceilings"]["one_run"]
    ways_folder = run.folder / "private" / "ways"
    assert len(list(ways_folder.iterdir())) == 3 and ways_folder.stat().st_mode & 0o077 == 0
    assert shares(run) == [0.05, 0.2, 0.4]


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    [
        {"audit": {"_target_": "palisade.attacks.Confidence"}},
        {"audit": {"_target_": "palisade.attacks.Alignment"}, "weights": True},
        {"weights": True},
        {"audit": {"_target_": "palisade.attacks.Correctness"}, "outputs": "label"},
        {"outputs": "probabilities"},
        {"outputs": "probabilities", "decimals": 1},
        {"outputs": "probabilities", "top_k": 3},
        {"queries": ("plain", "mirrored")},
    ],
    ids=str,
)
def test_every_other_choice_of_the_auditor_counts(run: Run, other: dict[str, Any]) -> None:
    assert_corrected(audit(run, **other), 1)
    (recorded,) = (run.folder / "private" / "ways").glob("*.json")
    assert json.loads(recorded.read_text())["audit"] == other.get("audit", BLACK_BOX["audit"])
    assert_corrected(audit(run), 2)
    assert_corrected(audit(run, **other), 2)
    assert_corrected(audit(run, 0.4, **other), 3)


def test_the_alignment_is_another_auditor_than_the_loss_that_stood_in_for_it(compose: Compose) -> None:
    white_box = {"audit": {"_target_": "palisade.attacks.Alignment"}, "weights": True}
    words = (*RUN_WORDS, *FEW_MODELS, "trainer.epochs=2")
    run = Run(Path(train_run(compose(*words))["folder"]))
    assert audit(run, **white_box)["attack"] == "loss"
    train_run(compose(*words, "fleet.keep_checkpoints=1"))
    aligned = audit(run, **white_box)
    assert aligned["attack"] == "alignment"
    assert_corrected(aligned, 2)


def test_more_shadows_are_another_auditor(compose: Compose, run: Run) -> None:
    by_shadows = {"audit": {"_target_": "palisade.attacks.Calibration"}}
    assert_corrected(audit(run, **by_shadows), 1)
    train_run(compose(*RUN_WORDS, "fleet.models=4", *FEW_MODELS[1:], "guesses=0.2"))
    assert_corrected(audit(run, **by_shadows), 2)


def test_answers_behind_another_guard_are_another_release(compose: Compose, run: Run) -> None:
    train_run(compose(*RUN_WORDS, *FEW_MODELS, "guesses=0.2", "guard=rounding"))
    (label,) = set(guards_of(run.folder)) - {"none"}
    assert_corrected(audit(Run(run.folder, label), 0.4), 2)
    assert_corrected(audit(run), 1)


def test_a_study_of_output_levels_takes_no_bounds(run: Run) -> None:
    levels = [{"outputs": "label"}, {"outputs": "probabilities"}]
    run_study({"name": "output_levels", "levels": levels}, [run], protocol())
    assert not (run.folder / "private" / "ways").exists()
    assert_corrected(audit(run), 1)


def test_workers_of_a_study_read_no_table(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node of a cluster need not have it."""
    begin = engines.run

    def elsewhere(function: Any, items: Any, *how: Any) -> list[Any]:
        items = list(items)
        with monkeypatch.context() as node:
            node.setattr(AttackProtocol, "slices_of", None)
            return list(begin(function, items, *how))

    monkeypatch.setattr(engines, "run", elsewhere)
    assert run_study({"name": "output_levels", "levels": [{"outputs": "label"}]}, [run], protocol())


def test_a_recorded_share_is_not_forgotten_with_the_models(compose: Compose, run: Run) -> None:
    assert_corrected(audit(run), 1)
    for path in [*(run.folder / "models").iterdir(), run.folder / "complete.json"]:
        path.unlink()
    train_run(compose(*RUN_WORDS, *FEW_MODELS, "guesses=0.4"))
    again = audit(run)
    assert again["guesses"] == 80
    assert_corrected(again, 2)


@pytest.mark.parametrize(
    "content",
    [*(pytest.param(text, marks=pytest.mark.slow) for text in ("", "[]", "{}")), "not JSON", '{"audit": "loss"}'],
)
def test_a_stray_file_is_named(run: Run, content: str) -> None:
    audit(run)
    stray = run.folder / "private" / "ways" / "1.json"
    stray.write_text(content)
    with pytest.raises(ValueError, match=r"ways/1\.json is no recorded way of auditing the run; remove this file$"):
        audit(run, 0.4)
    stray.unlink()
    stray.with_name(".DS_Store").write_bytes(b"\xff")
    assert_corrected(audit(run, 0.4), 2)


def test_a_share_that_guesses_nobody_is_refused_before_it_is_recorded(compose: Compose, run: Run) -> None:
    with pytest.raises(ValueError, match=r"^threat.guesses=1e-09"):
        audit(run, 1e-9)
    assert not (run.folder / "private" / "ways").exists()
    assert audit(run, 0.01)["ways"] == 2
    few = [*RUN_WORDS[:-1], "canary.count=7", *FEW_MODELS]
    with pytest.raises(ValueError, match=r"^guesses=0.1"):
        train_run(compose(*few))
    assert not Run.of(compose(*few), from_config(compose(*few))).folder.exists()
    assert train_run(compose(*few, "guesses=0.1429"))["status"] == "trained"


def test_as_many_are_guessed_as_the_reach_foretells(compose: Compose) -> None:
    settings = compose(*RUN_WORDS, *FEW_MODELS, "defense=dp_sgd", "defense.trainer.epochs=1", "guesses=0.29")
    result = audit(Run(Path(train_run(settings)["folder"])))
    foretold = Reach.planned(settings, from_config(settings))
    assert foretold is not None and result["guesses"] == 2 * 29, "though 0.29 · 100 is less in floating point"
    assert result["ceilings"]["one_run"] == foretold.ceiling()


def test_a_share_counts_before_anything_is_guessed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(measuring, "audit_records", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            results_of([run], protocol(0.4))
    assert_corrected(audit(run), 2)


def test_evaluations_at_the_same_time_lose_no_way(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one evaluation guesses, another one guesses another share, and puts its results in the place of both."""
    guess = measuring.audit_records

    def meanwhile(*scores: Any, **settings: Any) -> Any:
        monkeypatch.setattr(measuring, "audit_records", guess)
        guessing = protocol(0.3)
        other.append(dict(measure_and_keep(run.folder, run.guard, guessing, *fixed_on(run, guessing))[1].audit))
        return guess(*scores, **settings)

    other: list[dict[str, Any]] = []
    monkeypatch.setattr(measuring, "audit_records", meanwhile)
    assert_corrected(audit(run, 0.4), 2)  # it was first, and is printed although the other's results came between
    assert_corrected(other[0], 3)
    assert_corrected(audit(run, 0.4), 3)
    assert shares(run) == [0.2, 0.3, 0.4]


def test_another_share_for_a_trained_run_is_refused(compose: Compose, run: Run) -> None:
    with pytest.raises(
        ValueError, match=r"guesses=0.3: expected 0.2, .*; set guesses=0.2, or evaluate with threat.gue"
    ):
        train_run(compose(*RUN_WORDS, "fleet.models=3", *FEW_MODELS[1:], "guesses=0.3"))
    assert train_run(compose(*RUN_WORDS, "fleet.models=3", *FEW_MODELS[1:], "guesses=0.2"))["status"] == "trained"
    assert Run(run.folder).guesses == 0.2


@pytest.mark.parametrize("share", ["0", "0.6", "-0.1", ".nan", "true", "few", "null", "[0.1]", "{a: 1}"])
def test_what_is_no_share_is_refused_before_training(compose: Compose, tmp_path: Path, share: str) -> None:
    with pytest.raises(ValueError, match=r"^guesses=") as refused:
        train_run(compose(*RUN_WORDS, *FEW_MODELS) | {"guesses": yaml.safe_load(share)})
    assert "\n" not in str(refused.value) and not (tmp_path / "runs").exists()


def test_a_run_from_before_the_share_was_recorded_says_so(compose: Compose, run: Run) -> None:
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    del config["guesses"]
    (run.folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert audit(run)["guesses"] == 20, "a tenth at either end, as all audits had"
    assert_corrected(audit(run, 0.4), 2)
    with pytest.raises(ValueError, match=r"set guesses=0.1"):
        train_run(compose(*RUN_WORDS, *FEW_MODELS, "guesses=0.2"))
    train_run(compose(*RUN_WORDS, "fleet.models=3", *FEW_MODELS[1:]))
    assert "guesses" not in Run(run.folder).config, "what is named after training was not fixed before it"


def test_a_claim_is_tested_at_the_level_over_the_ways(make_violated: Callable[..., Result]) -> None:
    result = make_violated()
    twice = replace(result, audit={**result.audit, "ways": 2})
    (violation,) = violations([twice])
    assert violation.level == 0.025 == level_of([twice]) / 2
    assert violation.bound == one_run(500, 100, 99, 1e-5, 0.025) < one_run(500, 100, 99, 1e-5, 0.05)
    between = (violation.bound + one_run(500, 100, 99, 1e-5, 0.05)) / 2
    stated = replace(result.statement, epsilon=between)
    assert violations([replace(result, statement=stated)]) and not violations([replace(twice, statement=stated)])
    assert Reach.measured(twice).ceiling() == one_run(500, 100, 100, 1e-5, 0.025)


def test_table_and_report_say_what_is_corrected_for(make_violated: Callable[..., Result]) -> None:
    result = make_violated()
    assert corrections([result]) == []
    config = {key: value for key, value in result.config.items() if key != "guesses"}
    old = replace(result, config=config, audit={**result.audit, "ways": 3})
    said = [sentence for _, sentence in corrections([old])]
    assert said == [
        "3 ways of auditing were tried, so that each bound on ε holds at p = 0.05/3, not 0.05",
        UNRECORDED_SHARE,
    ]
    file = io.StringIO()
    show_results(Comparison([old]), file=file)
    content = summary(Comparison([old]), "")
    page = " ".join(render(page_of(Comparison([old]), content), {"tradeoff": "", "roc": ""}).split())
    for sentence in said:
        assert sentence in " ".join(file.getvalue().split()) and sentence in page
    assert content["evidence"][0]["ways"] == 3
