"""Setup of all tests: one thread, runs in a temporary folder, configurations composed as the commands do."""

from __future__ import annotations

import functools
import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import pytest

REPOSITORY_ROOT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-fork", action="store_true", help="call commands by an interpreter of their own: slow")
    parser.addoption("--write-golden", action="store_true", help="keep the outputs of now as those of tests/golden")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Starts the server that commands are forks of, before worker processes of the project start it with less.

    What its forks print goes nowhere, unless a test sends it somewhere.
    """
    if "commands" not in sys.modules:
        return
    sys.modules["commands"].forking = not session.config.getoption("--no-fork")
    copies = [os.dup(stream) for stream in (1, 2)]
    with Path(os.devnull).open("w") as nowhere:
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
        forkserver.ensure_running()
        for stream, saved in zip((1, 2), copies, strict=True):
            os.dup2(saved, stream)
            os.close(saved)


@pytest.fixture(autouse=True, scope="session")
def composed_once() -> Iterator[None]:
    """Equal overrides mean an equal configuration: Hydra takes a tenth of a second for it, thousands of times."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    load, known = ConfigLoaderImpl.load_configuration, {}

    def loaded(self: Any, config_name: str | None, overrides: list[str], **how: Any) -> Any:
        key = (str(self.config_search_path), config_name, *overrides, *map(str, how.values()))
        if key not in known:
            known[key] = pickle.dumps(load(self, config_name, overrides, **how))
        return pickle.loads(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigLoaderImpl, "load_configuration", loaded)
        yield


@pytest.fixture(autouse=True, scope="session")
def installed_once() -> Iterator[None]:
    """Installed packages stay so: every `Trainer` reads the metadata of all packages anew, a hundredth of a second."""
    from lightning_fabric.utilities import registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "entry_points", functools.cache(registry.entry_points))
        yield


@pytest.fixture(autouse=True, scope="session")
def one_worker() -> Iterator[None]:
    """Worker processes, which import torch anew, are for the tests that ask for a number of them."""
    from palisade.targets import engines

    count = engines.count
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "count", lambda asked: 1 if asked == "auto" else count(asked))
        yield


LIGHTNING_BANNERS = ("GPU available", "TPU available", "💡", "Loading `train_dataloader`", "`Trainer.fit` stopped")


@pytest.fixture(autouse=True, scope="session")
def no_banners() -> Iterator[None]:
    """Lightning's banners of every fit hide the output of a failed test."""

    def is_news(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(LIGHTNING_BANNERS)

    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    logger.addFilter(is_news)
    yield
    logger.removeFilter(is_news)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_line_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands called in this process ask Hydra for whole errors; later ones must not inherit that as a wish."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")


@pytest.fixture(autouse=True)
def progress_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of progress are shown at the start of each test: `quiet=true` silences the process that it is called in."""
    from palisade.targets import progress

    monkeypatch.setattr(progress, "_silent", False)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty figures, where only tables and words matter."""
    from commands import empty_figure

    from palisade.evaluation.figures import style

    monkeypatch.setattr(style, "_render", empty_figure)


@pytest.fixture
def compose(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Composes the configuration of `train.py` with overrides, as plain values; runs go to a temporary folder.

    What is `auto` is chosen, as `train_run` does before it trains, unless the data cannot be read.
    """
    from palisade.data.dataset import from_config
    from palisade.targets.defaults import resolved
    from palisade.train import composed

    def chosen(*overrides: str, runs: Path = tmp_path / "runs") -> dict[str, Any]:
        settings = composed(*overrides) | {"runs": str(runs)}
        try:
            return resolved(settings, from_config(settings))
        except (ValueError, TypeError, OSError, KeyError):
            return settings

    return chosen
