"""Processes that may be killed; a fork server has everything imported already, so that each starts at once."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

FOLDERS = (Path(__file__).parents[2], Path(__file__).parent)


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Makes processes that have torch and Lightning already."""
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, FOLDERS))  # the fork server starts with no other path
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sweeps", "targets.training", "defenses.dp_sgd"])
    return context


@pytest.fixture
def start(processes: ForkServerContext) -> Iterator[Callable[..., BaseProcess]]:
    """Starts a function in a process of its own, which does not outlive the test."""
    started: list[BaseProcess] = []

    def run(function: Callable[..., object], *arguments: object) -> BaseProcess:
        process = processes.Process(target=function, args=arguments)
        process.start()
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.join()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, processes: ForkServerContext) -> Path:
    """The runs of a sweep that nobody disturbed."""
    from sweeps import sweep

    runs = tmp_path_factory.mktemp("undisturbed") / "runs"
    process = processes.Process(target=sweep, args=(runs,))
    process.start()
    process.join()
    assert process.exitcode == 0
    return runs
