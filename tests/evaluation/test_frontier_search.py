"""Trials survive what stops a search: none that is over is repeated, a killed one is, a failed one keeps its reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palisade.evaluation.frontier_search import TRIAL_FAILED, TRIAL_RUN, Search, explore, objectives
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.result import Result, tied_at
from palisade.evaluation.utility import UTILITY_MEASURES
from palisade.targets.files import file_lock

Make = Callable[..., Result]
LOSS_NODES = {"loss": {"_target_": "palisade.attacks.LossThreshold"}}
L2_SPACE = {"l2": {"weight_decay": {"low": 1e-3, "high": 1.0, "log": True}}}


def search(trials: int = 4, **changed: Any) -> Search:
    return Search(**{"name": "frontier", "trials": trials, "train": {}, "space": L2_SPACE, **changed})


class Attempts:
    """Runs that are as useful as they leak little, without training; counts them."""

    def __init__(self, make: Make, fails: Callable[[float], BaseException | None] = lambda _: None):
        self.make, self.fails, self.tried = make, fails, []

    def __call__(self, settings: Sequence[str]) -> tuple[str, Result]:
        strength = float(settings[1].partition("=")[2])
        if (error := self.fails(len(self.tried))) is not None:
            self.tried.append(strength)
            raise error
        self.tried.append(strength)
        return "none", self.make("l2", strength=strength, accuracy=0.99 - 0.1 * strength, separation=1 - 0.8 * strength)


def test_more_trials_go_on_where_it_was(make_result: Make, tmp_path: Path, capsys: Any) -> None:
    attempts = Attempts(make_result)
    first = explore(search(2), tmp_path, "study", attempts)
    assert len(first) == len(attempts.tried) == 2
    again = explore(search(2), tmp_path, "study", attempts)
    assert len(again) == len(attempts.tried) == 2, "nothing is repeated"
    assert len(explore(search(4), tmp_path, "study", attempts)) == len(attempts.tried) == 4
    assert len(set(attempts.tried)) == 4, "the first proposals of a second call are not those of the first"
    assert [trial.user_attrs[TRIAL_RUN] for trial in first] == [f"runs/digits/mlp-l2-{s}" for s in attempts.tried[:2]]
    assert len(explore(search(1), tmp_path, "other", attempts)) == 1, "another study starts anew"
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("trial 1 of 2: defense=l2 defense.weight_decay=")
    assert "test accuracy" in printed[0] and "by lira" in printed[0]


def test_a_killed_trial_is_tried_again_with_its_values(make_result: Make, tmp_path: Path) -> None:
    attempts = Attempts(make_result, fails=lambda number: SystemExit(9) if number == 1 else None)
    with pytest.raises(SystemExit):
        explore(search(2), tmp_path, "study", attempts)
    trials = explore(search(2), tmp_path, "study", attempts)
    assert len(trials) == 2
    assert attempts.tried[2] == attempts.tried[1] and len(attempts.tried) == 3


def test_a_failed_trial_keeps_its_reason_and_stops_no_other(make_result: Make, tmp_path: Path, capsys: Any) -> None:
    attempts = Attempts(make_result, fails=lambda number: ValueError("lr=9 diverges") if number == 1 else None)
    trials = explore(search(3), tmp_path, "study", attempts)
    assert [trial.user_attrs.get(TRIAL_FAILED) for trial in trials] == [None, "lr=9 diverges", None]
    assert trials[1].values is None
    assert "failed: lr=9 diverges" in capsys.readouterr().out
    explore(search(3), tmp_path, "study", attempts)
    assert len(attempts.tried) == 3, "not repeated"


def test_only_what_can_be_measured_is_a_point(make_result: Make, make_violated: Make) -> None:
    result = make_result(accuracy=0.9, separation=0.5)
    assert objectives(result) == (0.9, result.get("tpr@1%fpr", attack="lira").value)
    row = replace(result.rows[0], metric="test_log_loss", value=0.3)
    by_loss = replace(result, rows=[*result.rows, row], utility=UTILITY_MEASURES["log_loss"])
    assert objectives(by_loss)[0] == -0.3, "more is better"
    with pytest.raises(ValueError, match="its test ROC AUC cannot be measured"):
        objectives(replace(result, utility=UTILITY_MEASURES["roc_auc"]))
    auc = result.get("auc", attack="lira")
    with pytest.raises(ValueError, match="the scores of lira tie"):
        objectives(replace(result, rows=[*result.rows, replace(auc, metric=tied_at(0.01), value=0.3)]))
    with pytest.raises(ValueError, match="its claim is refuted"):
        objectives(make_violated())


def test_other_settings_are_another_study() -> None:
    name = search().study_name("mlp-none-0", AttackProtocol(attacks=LOSS_NODES))
    assert name == search(9).study_name("mlp-none-0", AttackProtocol(attacks=LOSS_NODES)), "more trials extend it"
    others = [
        search().study_name("mlp-none-1", AttackProtocol(attacks=LOSS_NODES)),
        search(train={"seed": 1}).study_name("mlp-none-0", AttackProtocol(attacks=LOSS_NODES)),
        search(space={"l2": {"weight_decay": [1, 2]}}).study_name("mlp-none-0", AttackProtocol(attacks=LOSS_NODES)),
        search().study_name("mlp-none-0", AttackProtocol(attacks=LOSS_NODES, utility="log_loss")),
    ]
    assert len({name, *others}) == 5


def test_shared_settings_are_words_for_training() -> None:
    wanted = search(train={"network": "linear", "fleet": {"models": 4}, "defense": {"base": None}})
    assert wanted.shared == ["network=linear", "fleet.models=4", "defense.base=null"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"trials": 0}, r"^trials=0: expected an integer >= 1; "),
        ({"trials": True}, r"^trials=true: "),
        ({"train": ["seed=1"]}, r"^train=\['seed=1'\]: expected a group of settings; "),
        ({"space": {}}, r"^space=\{\}: expected defenses to try; "),
    ],
)
def test_what_is_no_search_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search(**changed)


def test_a_database_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"no database" * 100)
    with pytest.raises(ValueError, match=r"study\.db cannot be read or written as the database of a search; move it"):
        explore(search(), tmp_path, "study", lambda _: pytest.fail("nothing is tried"))
    assert (tmp_path / "study.db").read_bytes() == b"no database" * 100


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with file_lock(tmp_path / ".lock", wait=False) as free:
        assert free
        with pytest.raises(ValueError, match=r"is being searched by another process; wait for it, or choose name=…$"):
            explore(search(), tmp_path, "study", lambda _: pytest.fail("nothing is tried"))
