"""Small releases behind any guard, for servers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running_redis import DURABLE_OPTIONS, redis_server
from running_server import free_port

from palisade.data.secret import Secret
from palisade.targets.guards import adversarial_noise, discriminator
from palisade.targets.shipping import ship
from palisade.train import composed


@pytest.fixture(scope="session")
def digits_release(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a folder with a release of the digits behind a guard, once for each guard."""
    folders: dict[str, Path] = {}

    def make(guard: str) -> Path:
        if guard not in folders:
            folders[guard] = tmp_path_factory.mktemp(guard)
            small = ("data=digits", "network.hidden=[16]", "trainer.epochs=3", "split.reference=0.1")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(adversarial_noise, "MAX_SEARCH_STEPS", 40)
                patch.setattr(discriminator, "MAX_STEPS", 50)
                config = composed(*small, f"guard={guard}")
                ship(config, [], Secret.from_text("s")).save(folders[guard] / "released")
        return folders[guard]

    return make


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """Address of a Redis that forgets nothing, with a folder of its own."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server here; .ci/run installs Debian's")
    port = free_port()
    server = redis_server(port, tmp_path, *DURABLE_OPTIONS)
    yield f"redis://127.0.0.1:{port}/0"
    server.kill()
    server.wait()
