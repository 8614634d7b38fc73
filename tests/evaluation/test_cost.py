"""Cost of an evaluation, said beforehand: it scales with models, and asking for it leaves nothing behind."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from palisade.evaluate import all_attacks, evaluate_runs
from palisade.evaluation import cost as costing
from palisade.evaluation import rehearsal as rehearsing
from palisade.evaluation.cost import EvaluationCost, answer_time, costs, memory, show_evaluation_costs
from palisade.evaluation.measuring.runs import results_of
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.rehearsal import Cast, rehearse
from palisade.evaluation.signals.signals import view
from palisade.targets.composition import composed
from palisade.targets.guards.registry import guards_of
from palisade.targets.run import READERS_FILE, Run
from palisade.train import train_run

FLEET_MODELS = 6
SMALL_RUN = ("data=digits", "network=linear", "trainer.epochs=4", f"fleet.models={FLEET_MODELS}", "fleet.workers=1",
             "split.population=0.1", "fleet.keep_checkpoints=1", "secret=cost")  # fmt: skip
GUARD_NAMES = ("topk", "label_only")
FAST_NODES = {"loss": {"_target_": "palisade.attacks.LossThreshold"}, "lira": {"_target_": "palisade.attacks.LiRA"}}
FAST_PROTOCOL = AttackProtocol(attacks=FAST_NODES, adaptive=all_attacks())
SMALL_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "noise_agreement": {"copies": 1}, "votes": {"copies": 1}, "boundary": {"budget": 60, "records": 20},
    "cascading": {"shadows": 4},
}  # fmt: skip


@pytest.fixture(autouse=True)
def short_rehearsals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsing, "REHEARSED_RECORDS", 160)
    monkeypatch.setattr(rehearsing, "FIRST_RECORDS", 40)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("cost")
    for guard in GUARD_NAMES:
        trained = train_run(composed(f"runs={folder}", *SMALL_RUN, f"guard={guard}"))
    return Run(Path(trained["folder"]))


@pytest.fixture
def fresh(run: Run, tmp_path: Path) -> Run:
    """The run as if it was never attacked, in a folder of its own."""
    return Run(Path(shutil.copytree(run.folder, tmp_path / "runs" / "digits" / run.folder.name)))


@pytest.fixture(scope="module")
def every_attack() -> AttackProtocol:
    nodes = {name: {**node, **SMALL_SETTINGS.get(name, {})} for name, node in all_attacks().items()}
    threat = {"audit": {"_target_": "palisade.attacks.LossThreshold"}, "guesses": None, "weights": True}
    return AttackProtocol(attacks=nodes, threat=threat)


def settings(root: Path, **others: Any) -> dict[str, Any]:
    threat = {"audit": {"_target_": "palisade.attacks.LossThreshold"}, "guesses": None}
    plain = yaml.safe_load((Path(__file__).parents[2] / "conf" / "evaluate.yaml").read_text())
    unset = {key: value for key, value in plain.items() if key not in ("defaults", "hydra")}
    data = {"name": "digits", "slices": None}
    return {
        **unset, "attack": FAST_NODES, "threat": threat, "data": data, "root": str(root), "plan": True,
        "audit": None, "study": None, "search": None, "reports": str(root / "reports"), **others,
    }  # fmt: skip


def listing(folder: Path) -> dict[Path, int]:
    """All files with the times of their last change, but for the locks of readers."""
    files = [path for path in folder.rglob("*") if not path.name.startswith(READERS_FILE)]
    return {path: path.stat().st_mtime_ns for path in files if path.is_file()} | {path: 0 for path in files}


def test_a_plan_prints_a_line_for_each_run_and_leaves_nothing(fresh: Run, capsys: pytest.CaptureFixture[str]) -> None:
    root = fresh.folder.parents[1]
    before = listing(root)
    evaluate_runs(settings(root))
    assert listing(root) == before
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if fresh.folder.name in line]
    assert [line[0] for line in lines] == [Run(fresh.folder, guard).name for guard in guards_of(fresh.folder)]
    for line in lines:
        _, models, to_train, minutes, resident, stored = line
        assert (models, to_train) == (str(FLEET_MODELS), "0") and re.fullmatch(r"\d+\.\d", minutes)
        assert float(resident) > 0 and float(stored) > 0


def test_what_was_measured_costs_nothing(fresh: Run, capsys: pytest.CaptureFixture[str]) -> None:
    (before,) = costs([fresh], FAST_PROTOCOL)
    assert before.minutes > 0 and before.memory > 0 and before.disk > 0
    results_of([fresh], FAST_PROTOCOL)
    (after,) = costs([fresh], FAST_PROTOCOL)
    assert (after.minutes, after.memory, after.disk, after.models) == (0, 0, 0, FLEET_MODELS)
    (other,) = costs([fresh], AttackProtocol(attacks={"loss": FAST_NODES["loss"]}))
    assert other.minutes > 0 and other.disk == 0, "answers are there"
    show_evaluation_costs([after])
    assert "0.0" in capsys.readouterr().out


@pytest.mark.parametrize("guard", ["none", *GUARD_NAMES])
def test_disk_is_what_an_evaluation_adds(fresh: Run, guard: str) -> None:
    behind = next(Run(fresh.folder, name) for name in guards_of(fresh.folder) if name.startswith(guard))
    (before,) = costs([behind], FAST_PROTOCOL)
    results_of([behind], FAST_PROTOCOL)
    added = sum(path.stat().st_size for path in (fresh.folder / "signals").rglob("*.npy"))
    assert before.disk == pytest.approx(added / 1e6, rel=0.02)


@pytest.mark.parametrize("guard", ["none", *(pytest.param(name, marks=pytest.mark.slow) for name in GUARD_NAMES)])
def test_every_attack_that_runs_is_rehearsed_and_no_other(fresh: Run, guard: str, every_attack: AttackProtocol) -> None:
    behind = next(Run(fresh.folder, name) for name in guards_of(fresh.folder) if name.startswith(guard))
    rehearsal = rehearse(behind, every_attack)
    assert not (fresh.folder / "cascade").exists()
    attacks = every_attack.attacks_on(behind)
    seen = view(behind, every_attack.grant, every_attack.queries, [attack.threat for attack in attacks])
    assert [each.name for each in rehearsal.attacks] == [each.name for each in attacks if each.missing(seen) is None]
    assert len(rehearsal.attacks) > 5 and all(each.seconds >= 0 for each in rehearsal.attacks)
    asking = {attack.name for attack in attacks if attack.threat.free_queries}
    assert {each.name for each in rehearsal.attacks if each.inputs + each.label_inputs} == asking


def test_further_shadows_are_counted(fresh: Run, every_attack: AttackProtocol) -> None:
    (cost,) = costs([fresh], every_attack)
    assert cost.to_train == 2 * 4 and cost.seconds["training"] > 0 and cost.seconds["signals"] > 0
    assert {"cascading", "lira", "answers", "metrics", "rescoring"} < set(cost.seconds)
    (without,) = costs([fresh], FAST_PROTOCOL)
    assert without.to_train == without.seconds["training"] == without.seconds["signals"] == 0


def test_it_grows_with_models(fresh: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costing, "answer_time", lambda run: costing.AnswerTime(model=1e-4))
    (few,) = costs([fresh], FAST_PROTOCOL)
    monkeypatch.setattr(Run, "models", lambda self: list(range(100 * FLEET_MODELS)))
    monkeypatch.setattr(Run, "has_weights", lambda self: True)
    (many,) = costs([fresh], FAST_PROTOCOL)
    assert many.seconds["answers"] == pytest.approx(100 * few.seconds["answers"])
    assert many.disk == pytest.approx(100 * few.disk)
    assert many.seconds["metrics"] > 10 * few.seconds["metrics"] and many.memory > few.memory


def test_a_square_in_records_is_extended_as_one(fresh: Run) -> None:
    """By measurements that follow the law, the whole is exact; what does not grow stays as it is."""
    casts = [Cast(fresh, FAST_PROTOCOL, records) for records in (100, 200)]
    whole, fleet = casts[0].all_records, casts[0].all_models / casts[0].models
    for power in (1, 2):
        measured = [3 + 2e-5 * cast.records**power for cast in casts]
        assert rehearsing._extended(casts, measured, power_of_records=power) == pytest.approx(
            fleet * (3 + 2e-5 * whole**power)
        )
    assert rehearsing._extended(casts, [3, 2]) == pytest.approx(fleet * 2), "a fall is noise"
    assert rehearsing._extended(casts[:1], [1.0]) == pytest.approx(fleet * whole / 100)


def test_guards_take_their_time(fresh: Run) -> None:
    label_only = next(name for name in guards_of(fresh.folder) if name.startswith("label_only"))
    assert answer_time(Run(fresh.folder, label_only)).guard > 0 == answer_time(fresh).guard


def test_memory_grows_with_blocks_up_to_their_size() -> None:
    small, large = memory(16, 100, 1, 10, attacks=1), memory(256, 50_000, 10, 100, attacks=1)
    assert small < large < 1500, "and no longer with queries"
    assert memory(256, 50_000, 1, 100, attacks=1) == large


def test_runs_stand_side_by_side(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costing.engines, "count", lambda _: 2)
    each = {"models": 4, "memory": 500.0, "disk": 10.0}
    show_evaluation_costs([EvaluationCost(run=name, seconds={"a": 600.0}, **each) for name in "abc"])
    total = capsys.readouterr().out.splitlines()[-2].split()
    assert total[-5:] == ["12", "0", "15.1", "1,000", "30.0"] and total[:4] == ["3", "runs,", "2", "workers"]


def test_steps_of_a_large_run_stand_side_by_side(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costing.engines, "count", lambda _: 2)
    seconds = {"answers": 60.0, "lira": 240.0, "rmia": 300.0}
    show_evaluation_costs([EvaluationCost(run="a", seconds=seconds, models=4, memory=500.0, cut=True)])
    total = capsys.readouterr().out.splitlines()[-2].split()
    assert total[-5:] == ["4", "0", "5.1", "1,000", "0.0"]


def test_seconds_are_finite(fresh: Run) -> None:
    (cost,) = costs([fresh], FAST_PROTOCOL)
    assert all(np.isfinite(value) and value >= 0 for value in cost.seconds.values())
