"""One line, from a file that every process appends to."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time

import pytest

from palisade.targets import progress
from palisade.targets.files import temporary_path
from palisade.targets.progress import PLAIN_INTERVAL, Progress


def test_line_counts_what_was_reported_and_estimates_from_what_was_trained(tmp_path, capfd):
    with Progress(tmp_path / "new", total=10) as line:
        progress.report("one", 4, cached=True)
        progress.report("two", 2)
        line.started = time.monotonic() - 60
        line._read()
        assert line.line() == "6/10 models · 1:00 · about 2:00 left · two"
    assert capfd.readouterr().err.splitlines() == ["6/10 models · 1:00 · about 2:00 left · two"]
    assert progress.PROGRESS_VARIABLE not in os.environ and not list((tmp_path / "new").iterdir())


def test_plain_line_every_interval_without_a_terminal(tmp_path, capfd, monkeypatch):
    assert PLAIN_INTERVAL == 30
    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0.3)
    with Progress(tmp_path, total=1):
        time.sleep(0.8)
    lines = capfd.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 4 and all(line.startswith("0/1 models · 0:00") for line in lines)


def test_in_a_terminal_a_bar_is_drawn_and_lines_stand_above_it(tmp_path):
    code = f"""if True:
        import pathlib, time
        from palisade.targets import progress
        with progress.Progress(pathlib.Path({str(tmp_path)!r}), total=4):
            progress.report("run", 3)
            time.sleep(0.5)
            progress.say("a notice")
            progress.report("run", 1)"""
    own, its = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    subprocess.run([sys.executable, "-c", code], stderr=its, env=environment, check=True, timeout=120)
    os.close(its)
    with os.fdopen(own, "rb") as terminal:
        shown = terminal.read1(1 << 16).decode()
    assert "━" in shown and "3/4 models · 0:0" in shown
    before, _, after = shown.partition("a notice\r\n")
    assert "3/4 models" in before and "4/4 models" in after and "done · run" in after


def test_interrupt_carries_how_much_is_done_and_quiet_says_nothing(tmp_path, capfd):
    progress.silence()
    with pytest.raises(KeyboardInterrupt, match=r"^2 of 3 models are done$"), Progress(tmp_path, total=3):
        progress.report("run", 2)
        raise KeyboardInterrupt
    with Progress(tmp_path, total=0):
        pass
    assert capfd.readouterr().err == ""


def test_files_of_killed_commands_are_removed(tmp_path):
    progress_of_the_dead = tmp_path / temporary_path(tmp_path / "progress").name.replace(str(os.getpid()), "999999999")
    progress_of_the_dead.write_text("run\t1\t0\n")
    with Progress(tmp_path, total=1):
        assert not progress_of_the_dead.exists()


def test_nothing_is_said_after_an_error(tmp_path, capfd):
    try:
        with Progress(tmp_path, total=1):
            raise KeyError
    except KeyError:
        pass
    assert capfd.readouterr().err == ""


def test_without_a_line_nothing_is_reported():
    progress.report("run", 1)
