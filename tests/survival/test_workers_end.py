"""No process is left behind: after a kill, after Ctrl-C, after a worker was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import hear_interrupts

from palisade.targets.engines.local import WORKER_KILLED

REPOSITORY_ROOT = Path(__file__).parents[2]
POOL_SCRIPT = """
import sys, time
from pathlib import Path
from palisade.commandline import call
from palisade.targets import engines
from palisade.targets.progress import Progress, report

def work(k):
    Path(sys.argv[1], str(k)).write_text(str(__import__("os").getpid()))
    time.sleep(0 if k == 0 else 100)
    report("run", 1)

def main():
    with Progress(Path(sys.argv[1], "runs"), 3):
        list(engines.run(work, [(0,), (1,), (2,)], 2))

if __name__ == "__main__":
    call(main)
"""


@pytest.fixture
def parent(tmp_path: Path):
    """A command whose two workers are at work, in a process group of its own."""
    (tmp_path / "pool.py").write_text(POOL_SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "pool.py"), str(tmp_path)],
        env={**os.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_interrupts,
    )
    wait_for(lambda: all((tmp_path / str(k)).exists() and (tmp_path / str(k)).read_text() for k in range(3)))
    yield process
    process.kill()


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(folder: Path) -> list[int]:
    """The workers that still run; one that nobody has waited for yet is dead all the same."""
    pids = {int((folder / str(k)).read_text()) for k in range(3)}
    stat = {pid: Path(f"/proc/{pid}/stat") for pid in pids}
    return [
        pid for pid, path in stat.items() if path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"
    ]


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes under /proc"),
]


def test_workers_die_with_a_killed_parent(parent, tmp_path):
    assert len(alive(tmp_path)) == 2
    parent.send_signal(signal.SIGKILL)
    wait_for(lambda: not alive(tmp_path))


def test_interrupt_is_one_line_and_ends_all_workers(parent, tmp_path):
    os.killpg(parent.pid, signal.SIGINT)
    _, error = parent.communicate(timeout=60)
    assert parent.returncode == 130
    assert error == "interrupted: 1 of 3 models are done; the same command goes on from there\n"
    assert not alive(tmp_path) and not list((tmp_path / "runs").iterdir())


def test_worker_killed_twice_is_one_line(parent, tmp_path):
    first = alive(tmp_path)
    os.kill(first[0], signal.SIGKILL)
    wait_for(lambda: len({*alive(tmp_path)} - {*first}) == 2)
    os.kill(alive(tmp_path)[0], signal.SIGKILL)
    _, error = parent.communicate(timeout=60)
    assert parent.returncode == 2
    assert error.splitlines()[1:] == [f"error: {WORKER_KILLED}"] and not alive(tmp_path)
