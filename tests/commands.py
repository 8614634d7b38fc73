"""Both commands as a user calls them, without the seconds that imports take.

The same files run as `__main__` in a process of their own, with its own folder, streams and exit code. It is a fork of
a server that has torch, Lightning and Opacus already, and starts no worker processes unless it is told to.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PRELOADED = (
    "train", "evaluate", "targets.training", "defenses.dp_sgd", "evaluation.measure", "evaluation.report.writing",
    "evaluation.figures.plots", "matplotlib.pyplot",
)  # fmt: skip

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(list(PRELOADED))


class Ended(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def fork(function: Callable[..., object], *arguments: object) -> BaseProcess:
    """Starts an importable function in a process of its own."""
    # The server starts with no other path than that of its environment.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *(path for path in sys.path if path.startswith(str(ROOT)))])
    process = FORKS.Process(target=function, args=arguments)
    process.start()
    return process


def call(script: str, *words: str, folder: Path, path: Path | None = None, timeout: float = 300) -> Ended:
    """Runs `python script words` in a folder.

    Args:
        script: in the root of the project.
        words: its arguments.
        folder: where it is called.
        path: what `PYTHONPATH` holds.
        timeout: in seconds.

    Raises:
        TimeoutError: if it takes longer; it is killed then.
    """
    with TemporaryDirectory() as place:
        streams = [Path(place) / name for name in ("stdout", "stderr")]
        process = fork(_main, str(ROOT / script), words, str(folder), path, [str(stream) for stream in streams])
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"{script} {' '.join(words)}: not done after {timeout:g} s\n{streams[1].read_text()}")
        return Ended(process.exitcode, *(stream.read_text(encoding="utf-8") for stream in streams))


def _main(script: str, words: tuple[str, ...], folder: str, path: Path | None, streams: list[str]) -> None:
    from targets import workers

    for descriptor, stream in enumerate(streams, start=1):
        os.dup2(os.open(stream, os.O_CREAT | os.O_WRONLY), descriptor)
    os.chdir(folder)
    if path is not None:
        sys.path.insert(0, str(path))
    sys.argv = [script, *words]
    asked = workers.count
    workers.count = lambda number: 1 if number == "auto" else asked(number)
    runpy.run_path(script, run_name="__main__")
