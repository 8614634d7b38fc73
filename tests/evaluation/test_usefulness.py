"""Utility of real runs: all measures at once, by class and slice, through the guard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from palisade.evaluation.measuring.measure import measure
from palisade.evaluation.measuring.usefulness import UTILITY_METRICS, usefulness
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.result import Row
from palisade.evaluation.signals.stored import answers
from palisade.evaluation.statistics.bootstrap import Bootstrap
from palisade.evaluation.utility import CALIBRATION_METRIC, UTILITY_MEASURES
from palisade.targets.run import Run
from palisade.train import train_run

ATTACK_NODES = {"loss": {"_target_": "palisade.attacks.LossThreshold"}}
LOSS_PROTOCOL = AttackProtocol(attacks=ATTACK_NODES)
Compose = Callable[..., dict[str, Any]]


@pytest.fixture
def people(tmp_path: Path) -> list[str]:
    """A table with a rare class, two sexes and one person of a third ward."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=900), "sex": rng.choice(["f", "m"], 900)})
    frame["ward"] = np.where(np.arange(900) == 7, "closed", "open")
    frame["y"] = np.where(frame["a"] + rng.normal(size=900) > 1.5, "yes", "no")
    frame.to_csv(tmp_path / "people.csv", index=False)
    small = ["fleet.models=3", "fleet.workers=1", "trainer.epochs=3", "secret=useful"]
    return ["data=csv", f"data.path={tmp_path}/people.csv", "data.label=y", *small]


def trained(settings: dict[str, Any]) -> Run:
    return Run(Path(train_run(settings)["folder"]))


def rows(run: Run) -> dict[tuple[str, str, int | str], Row]:
    """Measurements of utility, without any attack."""
    result = usefulness(run, Bootstrap(replicates=50), LOSS_PROTOCOL.slices_of(run))
    return {(row.metric, row.group, row.model): row for row in result}


def test_all_measures_with_intervals_and_each_models_own(compose: Compose, people: list[str]) -> None:
    result = rows(trained(compose(*people)))
    for metric in UTILITY_METRICS:
        row, own = result[metric, "all", "all"], [result[metric, "all", k].value for k in range(3)]
        assert row.low <= row.value <= row.high and row.value == pytest.approx(np.mean(own))
    assert result["test_roc_auc", "all", "all"].value > 0.6 and result["train_accuracy", "all", "all"].value > 0.5


def test_slices_are_read_anew_without_training_anew(compose: Compose, people: list[str]) -> None:
    run = trained(compose(*people))
    plain = LOSS_PROTOCOL.key(run)
    again = train_run(compose(*people, "data.slices=[sex,ward]"))
    assert again["status"] == "cached" and again["folder"] == str(run.folder)
    sliced, chosen = (
        LOSS_PROTOCOL.key(Run(run.folder)),
        AttackProtocol(attacks=ATTACK_NODES, slices=["sex"]).key(Run(run.folder)),
    )
    assert len({plain, sliced, chosen}) == 3, "results are measured anew"
    assert AttackProtocol(attacks=ATTACK_NODES, utility="roc_auc").key(Run(run.folder)) == sliced, (
        "they hold every measure already"
    )


def test_a_slice_is_measured_on_its_records_alone(compose: Compose, people: list[str]) -> None:
    run = trained(compose(*people, "data.slices=[sex,ward]"))
    result = measure(run, LOSS_PROTOCOL)
    split = run.dataset.split
    female = pd.read_csv(run.config["data"]["path"])["sex"].to_numpy() == "f"
    right = np.asarray(answers(run, "test")).argmax(axis=-1) == run.dataset.y[split.test]
    row = result.get("test_accuracy", group="sex=f")
    assert row.value == pytest.approx(right[:, female[split.test]].mean()) and row.low < row.value < row.high
    assert row.nonmembers == 3 * female[split.test].sum()
    leaked = result.get("auc", attack="loss", group="sex=f")
    assert leaked.members == run.membership()[:, female[split.pool]].sum() and leaked.value is not None
    few = [row for row in result.rows if row.group == "ward=closed"]
    assert few and all(row.value is row.low is row.high is None for row in few), "too few records to tell"


def test_canaries_belong_to_no_slice(compose: Compose, people: list[str]) -> None:
    run = trained(compose(*people, "data.slices=[sex]", "canary=label_noise", "canary.count=60"))
    result = measure(run, LOSS_PROTOCOL)
    assert {row.group for row in result.rows if row.attack} == {"all", "class=0", "class=1"}
    assert result.get("test_accuracy", group="sex=f").value is not None


def test_behind_a_guard_that_lets_out_labels_only(compose: Compose, people: list[str]) -> None:
    run = trained(compose(*people, "guard=label_only"))
    bare, guarded = rows(run), rows(Run(run.folder, "label_only"))
    for metric in ("test_accuracy", "test_balanced_accuracy"):
        assert guarded[metric, "all", "all"] == bare[metric, "all", "all"]
    for metric in ("test_log_loss", "test_roc_auc", CALIBRATION_METRIC):
        assert guarded[metric, "all", "all"].value is None and bare[metric, "all", "all"].value is not None


def test_unknown_measure() -> None:
    assert AttackProtocol(attacks=ATTACK_NODES, utility="log_loss").read_by is UTILITY_MEASURES["log_loss"]
    with pytest.raises(ValueError, match="utility=auc"):
        AttackProtocol(attacks=ATTACK_NODES, utility="auc")
