"""Releases that somebody else may have written: loading one runs nothing, imports nothing, takes no memory."""

from __future__ import annotations

import json
import os
import pickle
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from palisade.data.secret import Secret
from palisade.targets.release import Release
from palisade.targets.run import Run
from palisade.targets.shipping import ship
from palisade.train import composed, train_run

TINY_RUN = ["data=digits", "fleet.models=1", "fleet.workers=1", "trainer.epochs=1", "network.hidden=[8]"]


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "good"
    ship(composed(*TINY_RUN), [], Secret.from_text("s")).save(folder)
    return folder


@pytest.fixture
def hostile(released, tmp_path):
    """A copy of a release with another card, other files, or both."""

    def make(change: Any = None, **files: bytes) -> Path:
        folder = tmp_path / "hostile"
        folder.mkdir()
        for path in released.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        card = json.loads((folder / "card.json").read_text())
        if change is not None:
            change(card)
        (folder / "card.json").write_text(json.dumps(card))
        for name, content in files.items():
            (folder / f"{name}.safetensors").write_bytes(content)
        return folder

    return make


def into(*path: str | int, value: Any) -> Any:
    def change(card: dict[str, Any]) -> None:
        node: Any = card
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value

    return change


HOSTILE_CARDS = {
    "network from elsewhere": into("network", "name", value="os.system"),
    "network of a module": into("network", "name", value="antigravity.MLP"),
    "network that is no word": into("network", "name", value=["palisade.targets.networks.MLP"]),
    "path as network": into("network", "name", value="../../evil.MLP"),
    "other settings": into("network", "settings", value={"hidden": [8], "evil": 1}),
    "settings that are none": into("network", "settings", value=[1]),
    "huge layer": into("network", "settings", "hidden", value=[10**12]),
    "layer beyond numbers": into("network", "settings", "hidden", value=[10**40]),
    "negative layer": into("network", "settings", "hidden", value=[-8]),
    "text as layer": into("network", "settings", "hidden", value="8"),
    "other layer": into("network", "settings", "hidden", value=[9]),
    "activation from elsewhere": into("network", "settings", "activation", value="__import__('os')"),
    "huge shape": into("data", "shape", value=[1, 10**9, 10**9]),
    "shape of text": into("data", "shape", value="abc"),
    "shape without lengths": into("data", "shape", value=[]),
    "flag as length": into("data", "shape", value=[True, 8, 8]),
    "no classes": into("data", "classes", value=[]),
    "classes of numbers": into("data", "classes", value=list(range(10))),
    "one text as classes": into("data", "classes", value="0123456789"),
    "more classes": into("data", "classes", value=["a"] * 10**6),
    "data that is none": into("data", value=5),
    "guard from elsewhere": into("guard", "name", value="os.system"),
    "guard that is no word": into("guard", "name", value={}),
    "guard with other settings": into("guard", "settings", value={"evil": 1}),
    "preprocessing from elsewhere": into("preprocessing", "kind", value="os.system"),
    "preprocessing that is no word": into("preprocessing", "kind", value=[]),
    "preprocessing of another shape": into("preprocessing", "shape", value=[64]),
    "factors that do not fit": into("preprocessing", "factor", value=[1.0, 2.0]),
    "unknown claim": into("statement", "evil", value=1),
    "claim without numbers": into("statement", "epsilon", value="very small"),
    "guarantee of nothing": into("statement", "guarantee", value=True),
    "claim that is none": into("statement", value="private"),
}


@pytest.mark.parametrize("case", HOSTILE_CARDS)
def test_hostile_card_is_refused_in_one_line(hostile, case):
    folder = hostile(HOSTILE_CARDS[case])
    before = set(sys.modules)
    with pytest.raises(ValueError, match=r"hostile") as error:
        Release.load(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    assert not set(sys.modules) - before


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


def header(content: dict[str, Any], rest: bytes = b"") -> bytes:
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text + rest


HOSTILE_FILES = {
    "pickle": pickle.dumps(Evil()),
    "nothing": b"",
    "noise": bytes(range(256)) * 4,
    "header beyond the file": (2**40).to_bytes(8, "little") + b"{}",
    "tensor beyond the file": header(
        {"0.weight": {"dtype": "F32", "shape": [10**9, 64], "data_offsets": [0, 256 * 10**9]}}
    ),
    "other type": header({"0.weight": {"dtype": "EVIL", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "negative shape": header({"0.weight": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
    "path as name": header({"../../x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
}


@pytest.mark.parametrize("case", HOSTILE_FILES)
@pytest.mark.parametrize("name", ["model", "guard"])
def test_hostile_weights_are_refused_in_one_line(hostile, tmp_path, monkeypatch, case, name):
    monkeypatch.chdir(tmp_path)
    folder = hostile(**{name: HOSTILE_FILES[case]})
    if (case, name) == ("path as name", "guard"):
        Release.load(folder)  # a name is a key, nothing is written under it
    else:
        with pytest.raises(ValueError, match=r"hostile is damaged|hostile cannot be read") as error:
            Release.load(folder)
        assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["hostile"]


@pytest.mark.parametrize("change", ["extra", "less", "double", "transposed"])
def test_weights_of_another_network_are_refused(hostile, change):
    folder = hostile()
    weights = load_file(folder / "model.safetensors")
    name = next(iter(weights))
    if change == "extra":
        weights["evil"] = torch.zeros(1)
    elif change == "less":
        del weights[name]
    elif change == "double":
        weights[name] = weights[name].double()
    else:
        weights[name] = weights[name].t().contiguous() if weights[name].ndim == 2 else weights[name][:-1].clone()
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"its weights are not those of palisade.targets.networks.MLP with"):
        Release.load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null", '{"data": 5}', "[" * 10**5, "\udcff", "NaN"])
def test_other_file_as_card_is_refused_in_one_line(hostile, text):
    folder = hostile()
    (folder / "card.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"card.json (is damaged|cannot be read)") as error:
        Release.load(folder)
    assert "\n" not in str(error.value)


def test_pipe_as_card_does_not_wait_for_a_writer(hostile):
    folder = hostile()
    (folder / "card.json").unlink()
    os.mkfifo(folder / "card.json")
    with pytest.raises(FileNotFoundError, match=r"holds no card.json"):
        Release.load(folder)


def test_card_of_gigabytes_is_not_read(hostile):
    folder = hostile()
    with (folder / "card.json").open("r+b") as file:
        file.truncate(2**33)
    with pytest.raises(ValueError, match=r"it has 8589934592 bytes, more than 67108864"):
        Release.load(folder)


def test_honest_release_loads_without_an_import_or_an_evaluation(released):
    Release.load(released)
    seen: list[str] = []
    forbidden = ("import", "exec", "compile", "os.system", "subprocess.Popen", "pickle.find_class")
    watching = True
    sys.addaudithook(lambda event, args: seen.append(f"{event} {args}") if watching and event in forbidden else None)
    release = Release.load(released)
    watching = False
    assert not seen
    assert len(release.predict(np.zeros((2, 1, 8, 8)))) == 2


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_private_folder_is_closed_whatever_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        run = Run(Path(train_run(composed(*TINY_RUN, f"runs={tmp_path}/runs"))["folder"]))
    finally:
        os.umask(before)
    assert stat.S_IMODE((run.folder / "private").stat().st_mode) == 0o700
    assert stat.S_IMODE((run.folder / "private" / "secret").stat().st_mode) == 0o600
    others = [path for path in run.folder.rglob("*") if path.is_file() and path.parent.name != "private"]
    assert not any(run.secret.value.hex() in path.read_bytes().decode("latin1") for path in others)
