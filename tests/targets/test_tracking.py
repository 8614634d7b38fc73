"""Loggers follow the training of each model and change nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from palisade.targets.tracking import Tracker
from palisade.train import train_run

TINY_RUN = ["data=digits", "trainer.epochs=2", "fleet.models=2", "fleet.workers=1", "split.validation=0.1", "secret=s"]
CSV_LOGGER = ["+logger._target_=pytorch_lightning.loggers.CSVLogger", "+logger.save_dir='{folder}'", "+logger.name=csv",
       "+logger.version='{run}-{model}'"]  # fmt: skip
LOGGED_NUMBERS = {"train_loss", "train_accuracy", "validation_loss", "validation_accuracy"}


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "models").glob("*.safetensors")}


@pytest.mark.parametrize("at_once", [1, 2])
def test_each_model_has_its_own_numbers_and_the_same_weights(compose, tmp_path, at_once):
    stacked = [f"fleet.at_once={at_once}"]
    plain = Path(train_run(compose(*TINY_RUN, *stacked))["folder"])
    followed = Path(train_run(compose(*TINY_RUN, *stacked, *CSV_LOGGER, runs=tmp_path / "followed"))["folder"])
    assert followed.name == plain.name  # a logger is no part of what a run is
    assert weights(followed) == weights(plain)
    tables = []
    for k in (0, 1):
        table = np.genfromtxt(followed / "csv" / f"{followed.name}-{k}" / "metrics.csv", delimiter=",", names=True)
        assert {*table.dtype.names} == {*LOGGED_NUMBERS, "step"}
        assert {*table["step"]} == {1, 2}
        tables.append({name: table[name][~np.isnan(table[name])] for name in LOGGED_NUMBERS})
    assert tables[0]["train_loss"][0] != tables[1]["train_loss"][0]
    for table in tables:
        assert table["train_loss"][1] < table["train_loss"][0]
        assert 0.1 < table["validation_accuracy"][1] <= 1


def test_numbers_are_those_of_the_trained_model(compose):
    """The last ones are those of the weights that are kept."""
    from palisade.evaluation.signals.stored import answers
    from palisade.targets.run import Run

    run = Run(Path(train_run(compose(*TINY_RUN, *CSV_LOGGER))["folder"]))
    data, member = run.dataset, run.membership()[1]
    predicted = answers(run, "pool")[1][member].argmax(axis=-1)
    accuracy = (predicted == data.y[data.split.pool][member]).mean()
    table = np.genfromtxt(run.folder / "csv" / f"{run.folder.name}-1" / "metrics.csv", delimiter=",", names=True)
    logged = table["train_accuracy"][~np.isnan(table["train_accuracy"])]
    assert logged[-1] == pytest.approx(accuracy)


def test_tensorboard(compose):
    pytest.importorskip("tensorboard", reason="needs the extra `track`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = Path(train_run(compose(*TINY_RUN, "logger=tensorboard"))["folder"])
    events = EventAccumulator(str(folder / "tensorboard" / "1")).Reload()
    assert {*events.Tags()["scalars"]} == LOGGED_NUMBERS
    assert [event.step for event in events.Scalars("train_loss")] == [1, 2]


def test_mlflow(compose, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="needs the extra `track`")
    place = f"logger.tracking_uri=sqlite:///{tmp_path}/mlflow.db"
    folder = Path(train_run(compose(*TINY_RUN, "logger=mlflow", place))["folder"])
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("palisade")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {*runs} == {f"{folder.name}/0", f"{folder.name}/1"}
    assert {*runs[f"{folder.name}/0"].data.metrics} == LOGGED_NUMBERS


def test_missing_extra_is_one_line(compose, monkeypatch):
    monkeypatch.setattr("pytorch_lightning.loggers.mlflow._MLFLOW_AVAILABLE", False)
    with pytest.raises(
        ValueError,
        match=r"^logger\._target_=pytorch_lightning\.loggers\.MLFlowLogger: expected .*; pip install -e '\.\[tr",
    ):
        train_run(compose(*TINY_RUN, "logger=mlflow"))


def test_without_a_logger_nothing_is_followed(compose, tmp_path):
    assert Tracker.of(compose(), tmp_path) is None


def test_stages_before_the_last_are_not_followed(compose):
    settings = compose("data=digits", "trainer.epochs=1", "fleet.models=1", "fleet.workers=1", "split.pool=0.5",
                       "split.reference=0.2", "defense=distillation", *CSV_LOGGER)  # fmt: skip
    folder = Path(train_run(settings)["folder"])
    table = np.genfromtxt(folder / "csv" / f"{folder.name}-0" / "metrics.csv", delimiter=",", names=True)
    assert table["train_loss"].size == 1
