"""Models that are there already: weights with the user's class, exported programs, and releases behind their guard."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from simulated_device import SIMULATED_DEVICE, counting
from torch import nn

from palisade.data.secret import Secret
from palisade.evaluation.subjects import model_file
from palisade.evaluation.subjects.audited_model import numbers
from palisade.evaluation.subjects.model_file import of_file, of_release
from palisade.targets.shipping import ship

INPUT_ROWS = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)


class Net(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.Dropout(0.5), nn.ReLU(), nn.Linear(width, 3))

    def forward(self, x):
        return self.layers(x)


@pytest.fixture
def own(monkeypatch, tmp_path):
    module = ModuleType("my_package")
    module.MyNet = Net
    monkeypatch.setitem(sys.modules, "my_package", module)
    net = Net(width=5).eval()
    save_file(net.state_dict(), tmp_path / "mine.safetensors")
    return net, str(tmp_path / "mine.safetensors")


def test_weights_with_the_users_class(own):
    net, path = own
    model = of_file(path, {"_target_": "my_package.MyNet", "width": 5}, "logits")
    np.testing.assert_allclose(model.ask(INPUT_ROWS), net(torch.from_numpy(INPUT_ROWS)).detach().numpy(), rtol=1e-6)


def test_weights_are_asked_on_the_device(own, monkeypatch):
    _, path = own
    expected = of_file(path, {"_target_": "my_package.MyNet", "width": 5}, "logits").ask(INPUT_ROWS)
    monkeypatch.setattr(model_file, "chosen", lambda: SIMULATED_DEVICE)
    model = of_file(path, {"_target_": "my_package.MyNet", "width": 5}, "logits")
    with counting() as costs:
        np.testing.assert_array_equal(model.ask(INPUT_ROWS), expected)
    assert costs.total["kernel"] > 0


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({}, r"expected a class for its weights; name it with network\._target_=my_package\.MyNet"),
        ({"_target_": "my_package.Other"}, r"my_package\.Other: cannot be imported \(AttributeError: .*Other"),
        ({"_target_": "nowhere.Net"}, r"nowhere\.Net: cannot be imported \(ModuleNotFoundError: .*PYTHONPATH"),
        (
            {"_target_": "my_package.MyNet", "width": 9},
            r"size mismatch .*; name the class that was saved",
        ),
        ({"_target_": "my_package.MyNet", "depth": 9}, r"unexpected keyword .*; name the class that was saved"),
    ],
)
def test_a_class_that_does_not_fit(own, network, message):
    with pytest.raises(ValueError, match=message) as error:
        of_file(own[1], network, "logits")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fixed", [False, True])
def test_an_exported_program_of_any_or_of_a_fixed_batch_size(tmp_path, fixed):
    net, path = Net().eval(), tmp_path / "mine.pt2"
    shapes = None if fixed else ({0: torch.export.Dim("records")},)
    torch.export.save(torch.export.export(net, (torch.zeros(4, 4),), dynamic_shapes=shapes), path)
    model = of_file(str(path), {}, "logits")
    np.testing.assert_allclose(
        model.ask(INPUT_ROWS), net(torch.from_numpy(INPUT_ROWS)).detach().numpy(), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match=r"cannot take features of shape \(7, 2\)") as error:
        model.ask(INPUT_ROWS[:, :2])
    assert "\n" not in str(error.value)


def test_what_is_no_model(tmp_path, own):
    with pytest.raises(FileNotFoundError, match=r"model=none\.pt2"):
        of_file("none.pt2", {}, "logits")
    with pytest.raises(ValueError, match=r"^model=~nobodyhere/a\.pt2"):
        of_file("~nobodyhere/a.pt2", {}, "logits")
    for name, message in (
        ("a.txt", r": expected a \.safetensors, \.pt2, \.onnx or \.skops file, or the dotted name of a function; "),
        ("a.pt2", r"expected a program of one input .*; save one with torch\.export\.save"),
        ("a.safetensors", "name the class that was saved"),
    ):
        (tmp_path / name).write_bytes(b"nonsense")
        with pytest.raises(ValueError, match=message):
            of_file(str(tmp_path / name), {"_target_": "my_package.MyNet"}, "logits")


def test_a_table_without_words_becomes_numbers():
    assert numbers(pd.DataFrame({"a": [1, 2], "b": [0.5, 1]})).shape == (2, 2)
    for wrong in (["x", "y"], [1.0, np.nan]):
        with pytest.raises(ValueError, match="column b holds words or misses values; give numbers, or a release"):
            numbers(pd.DataFrame({"a": [1, 2], "b": wrong}))


@pytest.mark.parametrize(
    ("guard", "answers", "top_k"),
    [
        ("none", "probabilities", None),
        ("label_only", "predictions", None),
        ("topk", "probabilities", 1),
    ],
)
def test_a_release_answers_raw_rows_behind_its_guard(compose, tmp_path, guard, answers, top_k):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"color": rng.choice(["red", "green"], 200), "size": rng.normal(size=200)})
    verdict = np.where(frame["size"] > 0.5, "yes", np.where(frame["size"] < -0.5, "no", "maybe"))
    frame.assign(verdict=verdict).to_csv(tmp_path / "things.csv", index=False)
    words = [f"data.path={tmp_path / 'things.csv'}", "data.label=verdict", "trainer.epochs=2", "fleet.models=1"]
    extra = ["guard.k=1"] if guard == "topk" else []
    ship(compose("data=csv", f"guard={guard}", *words, *extra), [], Secret.from_text("s")).save(tmp_path / "released")
    model = of_release(str(tmp_path / "released"), {})
    assert (model.answers, model.top_k, model.classes) == (answers, top_k, ("maybe", "no", "yes"))
    outputs = model.ask(frame)
    assert outputs.shape == ((200,) if answers == "predictions" else (200, 3))
    assert model.inputs(frame).shape[0] == 200 and model.is_guarded == (guard != "none")
