"""Choice, output and exit code of `evaluate.py` under a limit, on real fleets."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from palisade.commandline import EXIT_CLAIM_VIOLATED, EXIT_GATE_EXCEEDED
from palisade.evaluate import evaluate_runs
from palisade.evaluation import comparison
from palisade.evaluation.result import Result
from palisade.targets import engines
from palisade.targets.statement import Statement
from palisade.train import composed, train_run

pytestmark = pytest.mark.usefixtures("undrawn")

REPOSITORY_ROOT = Path(__file__).parents[1]
SMALL_SETTINGS = (
    "data=digits",
    "fleet.models=4",
    "network.hidden=[]",
    "trainer.epochs=2",
    "secret=gate",
    "fleet.workers=1",
)

SHADOWLESS_VERDICT = "kept as far as an audit without shadows can tell"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of two linear fleets, one with L2; the other also stands behind a guard."""
    place = tmp_path_factory.mktemp("gate")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(engines, "count", lambda workers: 1)
        train_run(composed(*SMALL_SETTINGS))
        train_run(composed(*SMALL_SETTINGS, "guard=topk", "guard.k=3"))
        train_run(composed(*SMALL_SETTINGS, "defense=l2", "defense.weight_decay=0.1"))
        yield place


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def called(*overrides: str) -> int:
    """The exit code of `evaluate.py`."""
    words = ("attack=[loss]", *overrides)
    with initialize_config_dir(str(REPOSITORY_ROOT / "conf"), version_base="1.3"):
        settings: Any = OmegaConf.to_container(compose("evaluate", overrides=list(words)), resolve=True)
    try:
        evaluate_runs({**settings, "command": shlex.join(["python", "evaluate.py", *words])})
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def judged(printed: str, heading: str) -> Sequence[str]:
    lines = printed.splitlines()
    return lines[next(place for place, line in enumerate(lines) if line.startswith(heading)) :]


def test_the_chosen_run_can_be_shipped_by_what_is_printed(capsys: Any, tmp_path: Path) -> None:
    assert called("data=digits", "choose.max_tpr=0.9") == 0
    lines = judged(capsys.readouterr().out, "choose: at most 90 % of members found at 1 % FPR")
    (ship,) = [line for line in lines if "ship=" in line]
    command = ship.partition(": ")[2].split()
    assert command[:2] == ["python", "train.py"]
    from palisade.targets.shipping import ship_run

    released = ship_run(composed(*command[2:], f"released={tmp_path}"))
    assert (released / "card.json").exists() or any(released.iterdir())


def test_no_run_can_be_chosen(capsys: Any) -> None:
    assert called("data=digits", "choose.max_tpr=0.0101") == EXIT_GATE_EXCEEDED
    lines = judged(capsys.readouterr().out, "choose:")
    assert lines[1].startswith("none of 3 runs keeps it; ") and "comes nearest" in lines[1]


def test_the_gate_tells_of_every_run_and_guard(capsys: Any) -> None:
    assert called("data=digits", "gate.fpr=0.01", "gate.max_tpr=0.9") == 0
    lines = judged(capsys.readouterr().out, "gate: at most 90 % of members found at 1 % FPR")
    assert len(lines) == 4 and all(line.startswith(("kept: ", f"{SHADOWLESS_VERDICT}: ")) for line in lines[1:])
    assert all(
        line.endswith("of 4 models, a kind that is one in 4 is missing with probability 32 %") for line in lines[1:]
    )
    assert sum("topk" in line for line in lines) == 1
    assert called("data=digits", "gate.max_tpr=0.0101") == EXIT_GATE_EXCEEDED
    lines = judged(capsys.readouterr().out, "gate:")
    assert all(line.startswith(("not decided: ", "EXCEEDED: ")) for line in lines[1:])


def test_the_gate_is_about_the_runs_that_are_named(capsys: Any) -> None:
    assert called("runs=runs/digits/linear-l2-*", "gate.max_tpr=0.9") == 0
    (line,) = judged(capsys.readouterr().out, "gate:")[1:]
    assert line.startswith(f"{SHADOWLESS_VERDICT}: l2 ")


def test_an_fpr_that_cannot_be_resolved_does_not_pass(capsys: Any) -> None:
    assert called("data=digits", "gate.fpr=0.001", "gate.max_tpr=1") == EXIT_GATE_EXCEEDED
    assert "0.1 % FPR cannot be resolved: it takes 1000 non-members a model" in capsys.readouterr().out


def test_a_violated_claim_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuted(results: Sequence[Result]) -> list[comparison.Violation]:
        claim = Statement(guarantee=True, epsilon=8.0, delta=1e-5, accountant="RDP")
        claimed = replace(results[0], statement=claim, audit={"guesses": 10})
        return [comparison.Violation(result=claimed, bound=9, level=0.05)]

    monkeypatch.setattr(comparison, "violations", refuted)
    assert called("data=digits", "gate.max_tpr=0.0101") == EXIT_CLAIM_VIOLATED


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("gate.max_tpr=2",), r"^gate\.max_tpr=2: expected a number"),
        (("choose.fpr=0.01",), r"^choose\.fpr=0\.01: expected a limit"),
        (
            ("study=output_levels", "gate.max_tpr=0.1"),
            r"^gate\.max_tpr: expected runs to judge, not study=…; ",
        ),
        (("search=frontier", "choose.max_tpr=0.1"), r"^choose\.max_tpr: expected runs to judge, not search=…"),
    ],
)
def test_a_limit_that_judges_nothing_is_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        called("data=digits", *overrides)
