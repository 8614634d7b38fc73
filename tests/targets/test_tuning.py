"""Tuning: what is tried, what is chosen, what is said about it, and that nobody mistakes a trial for a run."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from palisade.data.dataset import from_config
from palisade.targets.run import Run, find
from palisade.targets.train_settings import TrainSettings
from palisade.targets.trial_outcomes import TuningOutcome
from palisade.targets.trials import TRIALS_FOLDER, Trials, try_out
from palisade.targets.tuning import Tuning, trainings, with_values
from palisade.train import train_run

Compose = Callable[..., dict[str, Any]]
SMALL_RUN = (
    *("data=digits", "network=linear", "split.pool=200", "split.validation=100", "split.population=0"),
    *("fleet.models=2", "fleet.workers=1", "trainer.epochs=2"),
)
MLP = {"_target_": "palisade.targets.networks.MLP", "hidden": [128], "activation": "relu"}
CONF_FOLDER = Path(__file__).parents[2] / "conf"


def tuning(models: int = 1, **grid: Any) -> dict[str, Any]:
    return {"models": models, "grid": {"trainer": {"optimizer": {"lr": [1e-6, 0.05]}}} | grid}


def trial_folders(settings: dict[str, Any]) -> list[Path]:
    return sorted((Path(settings["runs"]) / TRIALS_FOLDER / "digits").glob("*/"))


def measured(settings: dict[str, Any]) -> dict[float, list[float]]:
    """Accuracies of the models of each trial by its learning rate."""
    return {
        optimizer_of(folder)["lr"]: json.loads((folder / "validation.json").read_text())["accuracies"]
        for folder in trial_folders(settings)
    }


def validation_labels(settings: dict[str, Any]) -> np.ndarray:
    from palisade.data.dataset import from_config

    data = from_config(settings)
    return data.y[data.split.validation]


def optimizer_of(folder: str | Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((Path(folder) / "config.yaml").read_text())
    return config["trainer"]["optimizer"]


@pytest.fixture
def tuned(compose: Compose) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a tuned run, and what became of it."""
    settings = {**compose(*SMALL_RUN), "tuning": tuning()}
    return settings, train_run(settings)


def test_every_combination_is_tried_the_last_setting_fastest() -> None:
    plan = Tuning(models=3, grid={"defense": {"a": [1, 2], "trainer": {"b": [0.1, 0.2]}}})
    points = plan.points(MLP)
    assert [tuple(point.values()) for point in points] == [(1, 0.1), (1, 0.2), (2, 0.1), (2, 0.2)]
    assert list(points[0]) == ["defense.a", "defense.trainer.b"]


@pytest.mark.parametrize(
    ("models", "trials", "budgets"),
    [(1, 3, [1, 1, 1]), (2, 4, [2, 2, 1, 1]), (2, 5, [2, 2, 2, 1, 1]), (4, 5, [4, 4, 2, 1, 1]), (3, 1, [3])],
)
def test_each_round_halves_the_trials_and_doubles_their_models(models: int, trials: int, budgets: list[int]) -> None:
    assert Tuning(models=models, grid={"defense": {"a": [1]}}).budgets(trials) == budgets


def test_a_linear_network_is_tried_beside_an_mlp() -> None:
    plan = Tuning(models=1, linear=True, grid={"defense": {"a": [1, 2]}})
    assert [tuple(point.values()) for point in plan.points(MLP)] == [([128], 1), ([128], 2), ([], 1), ([], 2)]
    for network in ({**MLP, "hidden": []}, {"_target_": "palisade.targets.networks.CNN", "channels": [4]}):
        assert plan.points(network) == [{"defense.a": 1}, {"defense.a": 2}], "it has no hidden layers to leave out"
    own = Tuning(models=1, linear=True, grid={"network": {"hidden": [[8], [16]]}})
    assert [point["network.hidden"] for point in own.points(MLP)] == [[8], [16]], "values of one's own are all"


@pytest.mark.parametrize(
    ("models", "grid", "message"),
    [
        (0, {"defense": {"a": [1]}}, "models=0: expected an integer >= 1; "),
        (True, {"defense": {"a": [1]}}, "models=true: "),
        (1, {}, "grid={}: expected values to try; "),
        (1, {"defense": {"trainer": {}}}, "grid={'defense': {'trainer': {}}}: expected values to try; "),
        (1, {"defense": {"a": 3}}, "grid.defense.a=3: expected a list"),
        (1, {"defense": {"a": []}}, "grid.defense.a=[]: expected a list"),
        (1, {"defense": {"a": "1,2"}}, "grid.defense.a=1,2: expected a list"),
        (1, {"seed": [0, 1]}, "grid.seed=[0, 1]: cannot be tuned, expected one of network, defense, trainer; "),
        (1, {"split": {"pool": [9]}}, "grid.split.pool=[9]: cannot be tuned"),
    ],
)
def test_nothing_to_try_is_refused(models: int, grid: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        Tuning(models=models, grid=grid)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["epsilon", "delta", "noise_multiplier", "queries"])
def test_what_is_claimed_is_not_tuned(key: str) -> None:
    with pytest.raises(ValueError, match=rf"^grid\.defense\.{key}=\[1, 2\]: expected none of epsilon, "):
        Tuning(models=1, grid={"defense": {key: [1, 2]}})


def test_values_go_into_a_copy() -> None:
    settings: dict[str, Any] = {"defense": {"trainer": {"lr": 1}}, "names": {"defense": "dp_sgd"}}
    assert with_values(settings, {"defense.trainer.lr": 2})["defense"]["trainer"]["lr"] == 2
    assert settings["defense"]["trainer"]["lr"] == 1


@pytest.mark.parametrize("key", ["defense.max_grad_nrm", "defense.trainer.lr.scale", "defense.epsilon.x"])
def test_unknown_settings_are_refused(key: str) -> None:
    settings: dict[str, Any] = {"defense": {"trainer": {"lr": 1}}, "names": {"defense": "l2"}}
    with pytest.raises(ValueError) as error:
        with_values(settings, {key: 1})
    assert str(error.value) == f"tuning.grid.{key}=1: no such setting, expected one of defense=l2; remove it"


def test_dp_sgd_alone_has_the_settings_of_its_tuning(compose: Compose) -> None:
    settings = compose("data=digits", "tuning=dp_sgd")
    points = Tuning(**settings["tuning"]).points(settings["network"])
    point = points[0]
    assert {key.split(".")[-1] for key in point} == {"hidden", "lr", "batch_size", "epochs", "max_grad_norm"}
    assert [point["network.hidden"] for point in points] == [[128]] * 24 + [[]] * 24
    assert with_values(compose("data=digits", "defense=dp_sgd"), point)
    with pytest.raises(
        ValueError, match=r"tuning\.grid\.defense\.max_grad_norm=.*: no such setting, expected one of defense=none"
    ):
        with_values(compose("data=digits"), point)


def test_the_progress_line_counts_trials(compose: Compose) -> None:
    assert trainings(compose("data=digits", "fleet.models=5")) == 5
    settings = compose("data=digits", "defense=dp_sgd", "tuning=dp_sgd", "fleet.models=5")
    assert trainings(settings) == 5 + 48 + 24, "half of the trials train a second model"


def test_the_best_on_validation_records_is_trained(compose: Compose, capsys: Any) -> None:
    settings = {**compose(*SMALL_RUN), "tuning": tuning(models=2)}
    outcome = train_run(settings)
    assert outcome["status"] == "trained"
    assert optimizer_of(outcome["folder"])["lr"] == 0.05
    accuracies = measured(settings)
    assert {lr: len(values) for lr, values in accuracies.items()} == {0.05: 2, 1e-6: 1}, "one stops after one model"
    mean = sum(accuracies[0.05]) / 2
    assert mean > accuracies[1e-6][0] + 0.2
    labels = np.unique(validation_labels(settings), return_counts=True)[1]
    line = (
        f"tuned none: lr=0.05; best of 2 trials, 1 of them stopped early (3 trainings), validation accuracy {mean:.3f}"
    )
    line += f" (always naming the largest class: {labels.max() / labels.sum():.3f})"
    assert capsys.readouterr().out.splitlines() == [line]


def test_accuracy_is_that_of_the_trial_s_models_on_validation_records(
    tuned: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    from palisade.data.dataset import from_config
    from palisade.targets.training import load_fleet

    settings, _ = tuned
    folder = trial_folders(settings)[0]
    config = Run(folder).config
    data = from_config(config)
    records = data.split.validation
    predicted = load_fleet(config, data, folder, [0]).predict(data.x[records]).argmax(axis=-1)
    expected = (predicted == data.y[records]).mean()
    assert json.loads((folder / "validation.json").read_text())["accuracies"] == [expected]


def test_trials_are_no_runs(tuned: tuple[dict[str, Any], dict[str, Any]]) -> None:
    settings, outcome = tuned
    runs = Path(settings["runs"])
    assert [run.folder for run in find(runs, "digits", None)] == [Path(outcome["folder"])]
    assert len(trial_folders(settings)) == 2
    with pytest.raises(ValueError, match="holds digits; choose one"):
        find(runs, "elsewhere", None)


def test_the_same_command_again_trains_nothing(tuned: tuple[dict[str, Any], dict[str, Any]], monkeypatch: Any) -> None:
    settings, outcome = tuned
    monkeypatch.setattr("palisade.targets.trials.try_out", pytest.fail)
    monkeypatch.setattr("palisade.targets.training.train_models", pytest.fail)
    assert train_run(settings) == {"folder": outcome["folder"], "status": "cached"}


def test_another_value_alone_is_tried(tuned: tuple[dict[str, Any], dict[str, Any]]) -> None:
    settings, outcome = tuned
    before = {folder: (folder / "validation.json").stat().st_mtime_ns for folder in trial_folders(settings)}
    wider = {**settings, "tuning": {"models": 1, "grid": {"trainer": {"optimizer": {"lr": [1e-6, 0.05, 1e-7]}}}}}
    assert train_run(wider)["folder"] == outcome["folder"]
    after = {folder: (folder / "validation.json").stat().st_mtime_ns for folder in trial_folders(settings)}
    assert len(after) == 3 and before.items() < after.items()


def test_an_ordinary_run_with_the_chosen_values_is_the_same_run(
    tuned: tuple[dict[str, Any], dict[str, Any]], compose: Compose
) -> None:
    _, outcome = tuned
    assert train_run(compose(*SMALL_RUN, "trainer.optimizer.lr=0.05"))["status"] == "cached"
    assert "tuning" not in yaml.safe_load((Path(outcome["folder"]) / "config.yaml").read_text())


def test_trials_have_secrets_of_their_own(compose: Compose) -> None:
    settings = {**compose(*SMALL_RUN, "secret=given"), "tuning": tuning()}
    run = Run(Path(train_run(settings)["folder"]))
    trials = [Run(folder).secret for folder in trial_folders(settings)]
    assert trials[0] == trials[1] != run.secret
    with pytest.raises(ValueError, match=r"secret=…: expected the one that .*\.trials.* was trained with"):
        train_run({**settings, "secret": "another"})


def test_settings_that_no_model_can_be_trained_with_lose_and_are_not_tried_again(
    compose: Compose, capsys: Any, monkeypatch: Any
) -> None:
    grid = {"optimizer": {"lr": [math.nan, 0.05]}, "batch_size": [5000, 64]}
    settings = {**compose(*SMALL_RUN), "tuning": {"models": 1, "grid": {"trainer": grid}}}
    outcome = train_run(settings)
    assert optimizer_of(outcome["folder"])["lr"] == 0.05
    assert "; 3 failed: trainer.batch_size=5000: expected at most 100, " in capsys.readouterr().out
    monkeypatch.setattr("palisade.targets.trials.try_out", pytest.fail)
    assert train_run(settings)["status"] == "cached"


def test_all_failing_is_an_error(compose: Compose) -> None:
    settings = {**compose(*SMALL_RUN), "tuning": {"models": 1, "grid": {"trainer": {"optimizer": {"lr": [-1, -2]}}}}}
    with pytest.raises(ValueError) as error:
        train_run(settings)
    assert str(error.value).startswith("tuning: all 2 trials failed, the first with: ")
    assert "-1" in str(error.value) and not find_models(settings)


@pytest.mark.parametrize(("batches", "tried"), [([4000, 5000], [100]), ([50, 5000], [50, 5000])])
def test_a_small_table_is_tuned_in_batches_of_all_records(
    compose: Compose, batches: list[int], tried: list[int]
) -> None:
    settings = {**compose(*SMALL_RUN), "tuning": {"models": 1, "grid": {"trainer": {"batch_size": batches}}}}
    trials = Trials.of(TrainSettings.parsed(settings), from_config(settings)).trials
    assert [trial.point["trainer.batch_size"] for trial in trials] == tried


def find_models(settings: dict[str, Any]) -> list[Path]:
    return list(Path(settings["runs"]).rglob("*.safetensors"))


def test_the_first_of_several_best_is_chosen(compose: Compose, monkeypatch: Any) -> None:
    def tie(settings: dict[str, Any], folder: str, models: int) -> None:
        (Path(folder) / "validation.json").write_text(json.dumps({"accuracies": [0.5] * models}))
        (Path(folder) / "summary.json").write_text('{"strength": "inf"}')

    monkeypatch.setattr("palisade.targets.trials.try_out", tie)
    settings = {**compose(*SMALL_RUN), "tuning": tuning()}
    assert optimizer_of(train_run(settings)["folder"])["lr"] == 1e-6


def test_no_validation_records_are_refused(compose: Compose) -> None:
    settings = {**compose(*SMALL_RUN, "split.validation=0"), "tuning": tuning()}
    with pytest.raises(ValueError, match=r"split\.validation=0"):
        train_run(settings)


def test_a_plan_counts_trials_and_trains_nothing(compose: Compose) -> None:
    settings = {**compose(*SMALL_RUN, "plan=true"), "tuning": tuning(models=3)}
    cost = train_run(settings)
    assert (cost["models"], cost["missing"]) == (2 + 4, 2 + 4)
    assert cost["folder"].endswith("digits/linear-none-<tuned>") and cost["minutes"] > 0
    assert not Path(settings["runs"]).exists()


def test_a_plan_after_the_trials_is_that_of_the_run(tuned: tuple[dict[str, Any], dict[str, Any]]) -> None:
    settings, outcome = tuned
    cost = train_run({**settings, "plan": True})
    assert (cost["folder"], cost["models"], cost["missing"]) == (outcome["folder"], 2, 0)


def test_a_trial_that_another_process_is_at_skips_the_run(compose: Compose) -> None:
    from palisade.data.dataset import from_config

    settings = {**compose(*SMALL_RUN), "tuning": tuning()}
    trial = Trials.of(TrainSettings.parsed(settings), from_config(settings)).trials[1]
    with trial.run.lock() as mine:
        assert mine
        assert train_run(settings)["status"] == "skipped"
    assert train_run(settings)["status"] == "trained"


def test_the_statement_counts_the_trainings_of_stopped_trials_too(compose: Compose) -> None:
    private = ("defense=dp_sgd", "tuning=dp_sgd", "defense.epsilon=8", "fleet.models=1", "network=mlp")
    grid = "tuning.grid.defense"
    few = (f"{grid}.max_grad_norm=[1]", f"{grid}.trainer.epochs=[1]", f"{grid}.trainer.batch_size=[64]")
    settings = compose(*SMALL_RUN, *private, *few, f"{grid}.trainer.optimizer.lr=[0.1]")
    run = Run(Path(train_run(settings)["folder"]))
    assert run.config["defense"]["tuning_runs"] == run.statement.tuning_runs == 3, (
        "two of one network, one of the other"
    )
    assert "4 trainings on the same records, tuning included" in run.statement.sentence()
    trials = [Run(folder) for folder in trial_folders(settings)]
    assert {trial.statement.tuning_runs for trial in trials} == {0}
    assert sorted(trial.config["network"]["hidden"] for trial in trials) == [[], [128]]
    outcome = TuningOutcome.read(run.folder)
    assert outcome is not None and outcome.trainings == 3
    assert outcome.trials[0].settings["network.hidden"] == str(run.config["network"]["hidden"])


def test_a_trial_is_resumed(compose: Compose) -> None:
    from palisade.data.dataset import from_config

    settings = {**compose(*SMALL_RUN, "fleet.at_once=1"), "tuning": tuning(models=2)}
    trial = Trials.of(TrainSettings.parsed(settings), from_config(settings)).trials[1]  # the better one
    trial.run.create(trial.settings, None, from_config(settings))
    try_out(trial.settings, str(trial.run.folder), 2)
    first, second = (trial.run.folder / "models" / f"{k}.safetensors" for k in (0, 1))
    (trial.run.folder / "validation.json").unlink()
    second.unlink()
    modified_at = first.stat().st_mtime_ns
    train_run(settings)
    assert second.exists() and first.stat().st_mtime_ns == modified_at


def test_a_search_that_was_killed_between_rounds_trains_no_model_again(compose: Compose) -> None:
    from palisade.data.dataset import from_config

    settings = {**compose(*SMALL_RUN, "secret=same"), "tuning": tuning(models=2)}
    data = from_config(settings)
    trials = Trials.of(TrainSettings.parsed(settings), data)
    for trial in trials.trials:
        trial.run.create(trial.settings, trial.settings["secret"], data)
        try_out(trial.settings, str(trial.run.folder), 1)
    first = {folder: (folder / "models" / "0.safetensors").stat().st_mtime_ns for folder in trial_folders(settings)}
    train_run(settings)
    assert first == {folder: (folder / "models" / "0.safetensors").stat().st_mtime_ns for folder in first}
    assert sorted(map(len, measured(settings).values())) == [1, 2]


def test_the_same_secret_gives_the_same_trials(compose: Compose) -> None:
    settings = {**compose(*SMALL_RUN, "secret=same"), "tuning": tuning(models=2)}
    outcomes = [
        TuningOutcome.read(Path(train_run({**settings, "runs": f"{settings['runs']}/{place}"})["folder"]))
        for place in ("one", "other")
    ]
    assert outcomes[0] is not None and outcomes[0] == outcomes[1]


def test_the_worse_half_of_each_round_stops_and_all_are_counted(compose: Compose) -> None:
    grid = {"trainer": {"optimizer": {"lr": [1e-6, 0.05, 1e-7, 0.02, math.nan]}}}
    settings = {**compose(*SMALL_RUN, "secret=same"), "tuning": {"models": 3, "grid": grid}}
    outcome = TuningOutcome.read(Path(train_run(settings)["folder"]))
    assert outcome is not None
    shown = [(trial.status, trial.models) for trial in outcome.trials]
    assert shown[:3] == [("chosen", 3), ("complete", 3), ("stopped early", 2)] and shown[-1] == ("failed", 1)
    assert {trial.settings["trainer.optimizer.lr"] for trial in outcome.trials[:2]} == {"0.05", "0.02"}
    assert outcome.trainings == 10 and "2 of them stopped early (10 trainings)" in outcome.sentence
    assert outcome.sentence.endswith("; 1 failed: " + outcome.trials[-1].reason)
    accuracies = [trial.accuracy or 0.0 for trial in outcome.trials]
    assert accuracies[0] >= accuracies[1] > accuracies[2]
    labels = np.bincount(validation_labels(settings))
    assert outcome.largest_class == labels.max() / labels.sum()
