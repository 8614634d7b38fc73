"""Processes that may be killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from commands import fork


@pytest.fixture
def start() -> Iterator[Callable[..., BaseProcess]]:
    """Starts a function in a process of its own, which does not outlive the test."""
    started: list[BaseProcess] = []

    def run(function: Callable[..., object], *arguments: object) -> BaseProcess:
        started.append(fork(function, *arguments))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.join()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of a sweep that nobody disturbed."""
    from sweeps import sweep

    runs = tmp_path_factory.mktemp("undisturbed") / "runs"
    process = fork(sweep, runs)
    process.join()
    assert process.exitcode == 0
    return runs
