"""Small releases behind any guard, for servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from palisade.data.secret import Secret
from palisade.targets.guards import adversarial_noise, discriminator
from palisade.targets.release import ship
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
