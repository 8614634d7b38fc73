"""A full disk: one line, nothing damaged, and with room the same command goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from file_limits import files_of_at_most
from sweeps import SWEEP_SETTINGS, content, sweep

from palisade.commandline import is_bad_input, one_line
from palisade.targets.run import Run
from palisade.train import train_run

pytestmark = pytest.mark.slow

DISK_REMEDY = "; make room, and the same command goes on from there"


def refused(runs: Path) -> str:
    with pytest.raises(OSError) as full:
        train_run({**SWEEP_SETTINGS[0], "runs": str(runs)})
    assert is_bad_input(full.value)
    return one_line(full.value)


def test_model_that_finds_no_room_is_named_and_trained_later(undisturbed, tmp_path):
    runs = tmp_path / "runs"
    with files_of_at_most(8192):
        said = refused(runs)
    assert said.endswith(f"/models/0.safetensors: File too large{DISK_REMEDY}")
    (folder,) = (runs / "digits").iterdir()
    assert (folder / "FAILED").read_text() == said + "\n" and not Run(folder).is_complete()
    sweep(runs)
    assert content(runs) == content(undisturbed)


def test_models_that_are_there_stay(undisturbed, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(undisturbed, runs)
    folder = next((runs / "digits").glob("mlp-none-*"))
    (folder / "complete.json").unlink()
    for k in (2, 3):
        (folder / "models" / f"{k}.safetensors").unlink()
    weights = {path.name: path.read_bytes() for path in (folder / "models").glob("*.safetensors")}
    with files_of_at_most(8192):
        assert "2.safetensors" in refused(runs)
    assert {name: (folder / "models" / name).read_bytes() for name in weights} == weights
    sweep(runs)
    assert content(runs) == content(undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A disk of a given size in memory, which may grow."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size: str) -> Path:
        again = ["remount,"] if os.path.ismount(disk) else [""]
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"{again[0]}size={size}", "tmpfs", disk], check=False)
        if done.returncode:
            pytest.skip("this process may not mount a disk")
        return disk

    yield mount
    if os.path.ismount(disk):
        subprocess.run(["umount", disk], check=True)


def test_full_disk(undisturbed, small_disk):
    runs = small_disk("100k") / "runs"
    assert refused(runs).endswith(f": No space left on device{DISK_REMEDY}")
    small_disk("10m")
    sweep(runs)
    assert content(runs) == content(undisturbed)
