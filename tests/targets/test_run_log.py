"""A run's log tells when was done what, and nothing about records."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from palisade.targets import progress
from palisade.targets.progress import RunLog
from palisade.train import train_run

TINY_RUN = ["data=digits", "trainer.epochs=1", "fleet.models=2", "fleet.workers=1", "fleet.at_once=1"]


def lines(folder: Path) -> list[str]:
    """The log without the times that no test can know."""
    text = (folder / progress.LOG_FILE).read_text()
    return [re.sub(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d |\d+\.\d s$", "", line) for line in text.splitlines()]


def test_training_is_logged(compose, capfd):
    folder = Path(train_run(compose(*TINY_RUN, "secret=told_to_nobody"))["folder"])
    first, *then = lines(folder)
    assert first.startswith("2 of 2 models to train; python 3.") and all(
        name in first for name in progress.LOGGED_LIBRARIES
    )
    assert then == ["models 0 trained in ", "models 1 trained in ", "complete in "]
    assert "told_to_nobody" not in (folder / progress.LOG_FILE).read_text() and capfd.readouterr().err == ""


def test_verbose_shows_the_same_lines_and_lightnings_own(compose, capfd):
    folder = Path(train_run(compose(*TINY_RUN, "fleet.models=1", "verbose=true"))["folder"])
    printed = capfd.readouterr()
    assert f"{folder.name}: models 0 trained in " in printed.err
    assert "Epoch 0" in printed.out + printed.err  # Lightning's bar


def test_failure_is_logged_and_the_log_stays(compose):
    settings = compose(*TINY_RUN, "trainer.optimizer.lr=1e30")
    with pytest.raises(ValueError, match="model 0 diverged"):
        train_run(settings)
    (folder,) = (Path(settings["runs"]) / "digits").iterdir()
    assert lines(folder)[-1] == "failed; the reason is in FAILED"


def test_warnings_are_logged(tmp_path, capfd):
    with RunLog(folder=tmp_path).timed("nothing"):
        warnings.warn("noise is too small", RuntimeWarning, stacklevel=1)
    assert lines(tmp_path) == ["warning: noise is too small", "nothing in "]
    assert capfd.readouterr().err == "warning: noise is too small\n"


def test_log_that_cannot_be_written_stops_nothing(tmp_path):
    RunLog(folder=tmp_path / "none").add("line")


def test_quiet_and_verbose_exclude_each_other(compose):
    with pytest.raises(ValueError, match=r"^quiet=true"):
        train_run(compose(*TINY_RUN, "quiet=true", "verbose=true"))
