"""Steps of the page's container file, run one after the other in an environment of their own."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
from running_server import DIGIT_IMAGES, free_port
from test_page import PAGE_TEXT, block

REPOSITORY_ROOT = Path(__file__).parents[2]
OWN_NAMES = ("palisade", "__editable__", "_palisade")
CONTAINER_FOLDERS = ("/tmp/install", "/private", "/released")
"""Folders of the container, which lie in a temporary one here."""


def steps() -> list[tuple[str, str]]:
    """Instructions of the file with their arguments."""
    lines = block("dockerfile").replace("\\\n", " ").splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


class Container:
    """A folder in the place of an image's root, with a Python of its own.

    Packages that are installed here are found there too, but for this one: nothing is downloaded.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.bin, self.log = root, root / "venv" / "bin", root / "log"
        (root / "tmp").mkdir()
        subprocess.run([sys.executable, "-m", "venv", str(root / "venv")], check=True)
        packages = root / "packages"
        packages.mkdir()
        for place in filter(Path.is_dir, map(Path, reversed(sys.path))):
            if place.name in ("site-packages", "dist-packages"):
                for entry in place.iterdir():
                    if not entry.name.startswith(OWN_NAMES) and entry.suffix != ".pth":
                        (packages / entry.name).unlink(missing_ok=True)
                        (packages / entry.name).symlink_to(entry)
        (site,) = (root / "venv").glob("lib/*/site-packages")
        for own in (site / "setuptools", site / "pkg_resources", *site.glob("setuptools-*")):
            shutil.rmtree(own, ignore_errors=True)  # older than those that are installed here
        (site / "here.pth").write_text(f"{packages}\n")
        for name in ("useradd", "chown"):  # nobody is added to this machine
            shim = self.bin / name
            shim.write_text(f'#!/bin/sh\necho {name} "$@" >> {self.log}\n')
            shim.chmod(0o755)

    def inside(self, text: str) -> str:
        """A command with the container's folders in their places here."""
        for place in CONTAINER_FOLDERS:
            text = re.sub(rf"(?<![\w.-]){place}\b", str(self.root) + place, text)
        return text

    @property
    def environment(self) -> dict[str, str]:
        """Variables of its processes."""
        return {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(self.root),
            "PIP_NO_INDEX": "1",
            "OMP_NUM_THREADS": "1",
        }

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of a shell to its end."""
        return subprocess.run(
            ["sh", "-ec", self.inside(command)], env=self.environment, cwd=self.root, capture_output=True, text=True,
            timeout=300,
        )  # fmt: skip

    def start(self, words: list[str]) -> subprocess.Popen[str]:
        """Starts a command, in the folder of WORKDIR."""
        own = [self.inside(word) for word in words]
        return subprocess.Popen(
            own, env=self.environment, cwd=self.inside("/private"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Container:
    """What the steps of building leave behind."""
    root = tmp_path_factory.mktemp("container")
    built, context = Container(root), root / "context"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY_ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY_ROOT / name).is_file():
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY_ROOT / name, context / name)
    (wheel,) = re.findall(r"built in a clone after `(pip wheel .*?)`", PAGE_TEXT)
    done = built.run(f"cd context && {wheel} --no-build-isolation")
    assert done.returncode == 0, done.stderr
    for step, words in steps():
        if step == "COPY":
            *sources, target = words.split()
            place = Path(built.inside(target))
            place.mkdir(parents=True)
            for path in [path for source in sources for path in context.glob(source)]:
                shutil.copy(path, place)
        if step == "RUN":
            done = built.run(words)
            assert done.returncode == 0, done.stdout + done.stderr
    return built


@pytest.mark.slow
def test_the_steps_make_a_server_that_asks_for_a_key_first(container: Container, digits_release) -> None:
    shutil.copytree(digits_release("none") / "released", container.root / "released" / "model")
    assert not (container.root / "tmp" / "install").exists()
    assert container.log.read_text().splitlines() == [
        "useradd --uid 10001 --no-create-home palisade", f"chown palisade {container.root}/private",
    ]  # fmt: skip
    assert (container.root / "private").stat().st_mode & 0o077 == 0
    described = dict(steps())
    entry, words = json.loads(described["ENTRYPOINT"]), json.loads(described["CMD"])
    port = free_port()
    words = [*words, f"port={port}", "metrics_port=null"]
    first = container.start([*entry, *words])
    _, error = first.communicate(timeout=120)
    assert first.returncode == 2 and "make one with keys=make" in error
    (first_key,) = re.findall(r"`docker run … (.*?)`", PAGE_TEXT)
    key, error = container.start([*entry, *shlex.split(first_key)]).communicate(timeout=120)
    assert not error, error
    server = container.start([*entry, *words])
    try:
        body = {"instances": DIGIT_IMAGES[:1].tolist()}
        headers = {"Authorization": f"Bearer {key.strip()}"}
        end = time.monotonic() + 120
        while True:
            try:
                answer = requests.post(
                    f"http://127.0.0.1:{port}/v1/models/model:predict", json=body, headers=headers, timeout=20
                )
                break
            except requests.ConnectionError:
                assert time.monotonic() < end and server.poll() is None
                time.sleep(0.2)
        assert answer.status_code == 200, answer.text
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)
    assert server.returncode == 0


def test_the_file_has_no_known_mistakes(tmp_path: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("no hadolint here; it is in the extra dev")
    (tmp_path / "Dockerfile").write_text(block("dockerfile"))
    done = subprocess.run([hadolint, str(tmp_path / "Dockerfile")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
