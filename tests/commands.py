"""Both commands as a user calls them, without the seconds that imports take.

The same files run as `__main__` in a process of their own, with its own folder, streams and exit code. It is a fork of
a server that has torch, Lightning and Opacus already, and starts no worker processes unless it is told to; what it
calls by `subprocess.run`, as examples do, is a fork as well. `pytest --no-fork` calls them by an interpreter of their
own, as users do, to find out whether a failure is the fork's.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

REPOSITORY_ROOT = Path(__file__).parents[1]
PRELOADED_MODULES = (
    "palisade.targets.training", "palisade.defenses.dp_sgd", "palisade.evaluation.measuring.measure",
    "palisade.evaluation.report.run_report", "palisade.evaluation.figures.tradeoff", "matplotlib.pyplot",
    "matplotlib.backends.backend_agg", "palisade.commandline", "palisade.train", "palisade.evaluate",
    *(f"palisade.attacks.{file.stem}" for file in sorted((REPOSITORY_ROOT / "attacks").glob("*.py"))),
)  # fmt: skip

FORK_CONTEXT = multiprocessing.get_context("forkserver")
FORK_CONTEXT.set_forkserver_preload(list(PRELOADED_MODULES))
RUN_INTERPRETER = subprocess.run
EMPTY_IMAGES = {"svg": b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"></svg>', "png": b"\x89PNG\r\n\x1a\n"}
forking = True  # False with `pytest --no-fork`


class Ended(NamedTuple):
    """Outcome of a command."""

    returncode: int
    stdout: str
    stderr: str


def fork(function: Callable[..., object], *arguments: object) -> BaseProcess:
    """Starts an importable function in a process of its own."""
    process = FORK_CONTEXT.Process(target=function, args=arguments)
    process.start()
    return process


def commands_of(page: Path) -> list[list[str]]:
    """The words of every command of a page, one a line of its blocks of `bash`."""
    blocks = re.findall(r"^ *```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line.strip()]


def call(
    script: str | Path, *words: str, folder: Path, path: Path | None = None, timeout: float = 300, drawn: bool = False
) -> Ended:
    """Runs `python script words` in a folder.

    Args:
        script: a file, by its place in the project.
        words: its arguments.
        folder: where it is called.
        path: what `PYTHONPATH` holds.
        timeout: in seconds.
        drawn: whether figures are drawn, a third of an evaluation; else empty ones stand in their place.

    Raises:
        TimeoutError: if it takes longer; it is killed then.
    """
    if not forking:
        return _interpreted(script, words, folder, path, timeout)
    with TemporaryDirectory() as place:
        streams = [Path(place) / name for name in ("stdout", "stderr")]
        process = fork(
            _main, str(REPOSITORY_ROOT / script), words, str(folder), path, [str(stream) for stream in streams], drawn
        )
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"{script} {' '.join(words)}: not done after {timeout:g} s\n{streams[1].read_text()}")
        return Ended(process.exitcode, *(stream.read_text(encoding="utf-8") for stream in streams))


def _interpreted(script: str | Path, words: Sequence[str], folder: Path, path: Path | None, timeout: float) -> Ended:
    environment = {**os.environ, **({} if path is None else {"PYTHONPATH": str(path)})}
    try:
        done = RUN_INTERPRETER(
            [sys.executable, str(REPOSITORY_ROOT / script), *words],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{script} {' '.join(words)}: not done after {timeout:g} s\n{error.stderr}") from error
    return Ended(done.returncode, done.stdout, done.stderr)


def hear_interrupts() -> None:
    """For a new process: shells ignore Ctrl-C for what runs behind them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def empty_figure(drawn: object, form: str) -> bytes:
    """In the place of what renders a figure as `form`."""
    return EMPTY_IMAGES[form]


def _main(script: str, words: tuple[str, ...], folder: str, path: Path | None, streams: list[str], drawn: bool) -> None:
    from palisade.evaluation.figures import style
    from palisade.targets import engines

    if not drawn:
        style._render = empty_figure
    for descriptor, stream in enumerate(streams, start=1):
        os.dup2(os.open(stream, os.O_CREAT | os.O_WRONLY | os.O_APPEND), descriptor)
    os.chdir(folder)
    asked = engines.count
    engines.count = lambda number: 1 if number == "auto" else asked(number)
    subprocess.run = _python
    _run(script, words, path)


def _run(script: str, words: Sequence[str], path: Path | str | None) -> None:
    if path is not None:
        sys.path.insert(0, str(path))
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")


def _python(command: Sequence[Any], check: bool, env: Mapping[str, str] | None = None) -> None:
    """In the place of `subprocess.run`: what a script calls is a fork of it."""
    if threading.active_count() > 1:  # a fork inherits the locks of other threads, and none who would open them
        RUN_INTERPRETER(command, check=check, env=env)
        return
    _, script, *words = map(str, command)
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        code = 1
        try:
            _run(script, words, (env or {}).get("PYTHONPATH"))
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if check and code != 0:
        raise subprocess.CalledProcessError(code, command)
