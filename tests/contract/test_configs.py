"""Every YAML composes, and what it makes trains a step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate

from palisade.data.dataset import Dataset, from_config
from palisade.data.records import Source
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.targets.fleet import Fleet
from palisade.targets.training import make_fitter

CONF_FOLDER = Path(__file__).parents[2] / "conf"
SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF_FOLDER / group).glob("*.yaml"))


COMBINED_OVERRIDES = [
    *(
        ("auto", "digits"),
        ("linear", "digits"),
        ("mlp", "breast_cancer"),
        ("cnn", "digits"),
        *(("resnet9", "digits"), ("resnet18", "digits"), ("wrn16_4", "digits")),
        ("mlp", "csv"),
        ("mlp", "npz"),
    ),
    *(("mlp", "location30"), ("cnn", "mnist"), ("cnn", "fashion_mnist"), ("transformer", "sst2")),
    *(("auto", "documents"), ("gpt", "ag_news"), ("gpt", "sst2_base")),
    pytest.param("cnn", "cifar10", marks=pytest.mark.slow),  # half a minute to decompress
]
"""Every network with data that it is for, and every data set; scattering features are tested with the images."""


def small(data: str, folder: Path) -> list[str]:
    """Overrides for a small pool of a data set; skips the test where its files are not at hand."""
    overrides = [f"data={data}", "split.pool=200", "split.test=60", "trainer.epochs=1"]
    if data in ("digits", "breast_cancer"):
        return overrides
    if data == "documents":
        lines = (json.dumps({"text": f"document {number} of {number % 7} kinds"}) for number in range(300))
        (folder / "own.jsonl").write_text("\n".join(lines))
        return [*overrides, f"data.path={folder}/own.jsonl", "data.length=16"]
    if data in ("csv", "npz"):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(300, 4)), rng.integers(0, 2, 300)
        np.savez(folder / "own.npz", x=x, y=y)
        np.savetxt(folder / "own.csv", np.c_[x, y], delimiter=",", header="a,b,c,d,label", comments="")
        return [*overrides, f"data.path={folder}/own.{data}", *(["data.label=label"] if data == "csv" else [])]
    folder = SHARED_DATA / data.removesuffix("_base")
    if not folder.is_dir():
        pytest.skip(f"no {folder.name} under ../shared/data")
    return [*overrides, f"data.root={folder}"]


def trained(settings: dict[str, Any]) -> tuple[Fleet, Dataset]:
    dataset, secret, membership = from_config(settings), Secret.from_text("contract"), Membership()
    fitter = make_fitter(settings, dataset, secret, [0], membership)
    return fitter.train(dataset.split, membership.draw(dataset.split, [0], secret)), dataset


@pytest.mark.parametrize("experiment", names("experiment"))
def test_experiments_compose(compose, experiment):
    settings = compose(f"experiment={experiment}")
    assert settings["data"]["_target_"]


def test_a_base_on_documents_of_ones_own_is_filed_under_their_name(compose, tmp_path):
    public = compose("experiment=lm_base")["data"]
    assert (public["name"], public["tokens"], public["length"]) == ("sst2_base", "bytes", 64)
    own = compose("experiment=lm_base", *small("documents", tmp_path))
    assert from_config(own).name == "own"


@pytest.mark.parametrize("data", names("data"))
def test_data_sources_compose(compose, data):
    required = {"csv": ["data.path=a.csv", "data.label=b"], "npz": ["data.path=a.npz"], "documents": ["data.path=a"]}
    overrides = required.get(data, [])
    assert isinstance(instantiate(compose(f"data={data}", *overrides)["data"]), Source)


@pytest.mark.parametrize(("network", "data"), COMBINED_OVERRIDES)
def test_networks_and_data_train_a_step(compose, tmp_path, network, data):
    fleet, dataset = trained(compose(f"network={network}", *small(data, tmp_path)))
    shape = (1, 3, *dataset.y.shape[1:], len(dataset.classes))
    assert fleet.predict(dataset.x[dataset.split.test[:3]]).shape == shape


@pytest.mark.parametrize("canary", names("canary"))
def test_canaries_train_a_step(compose, tmp_path, canary):
    few = [] if canary == "none" else ["canary.count=20"]
    data = small("digits", tmp_path)
    if canary in ("secret", "new_token"):
        data = [*small("documents", tmp_path), "network=gpt", "data.new_tokens=20", "data.length=32"]
        few += ["canary.copies=[1]"] if canary == "secret" else []
    fleet, dataset = trained(compose(f"canary={canary}", *few, *data))
    assert len(dataset.split.canaries) == 20 * min(len(few), 1)
    assert np.isfinite(fleet.predict(dataset.x[dataset.split.audited[:3]])).all()


def test_no_network_and_no_data_set_is_left_out():
    pairs = [getattr(pair, "values", pair) for pair in COMBINED_OVERRIDES]
    # own needs a class, the others a file or a folder
    assert {network for network, _ in pairs} == set(names("network")) - {"own", "pretrained", "hf"}
    assert {data for _, data in pairs} == {name for name in names("data") if not name.endswith("_scattering")}


@pytest.mark.parametrize(
    ("network", "data", "message"),
    [
        ("mlp", "sst2", "network=mlp or linear: expected records of numbers, not words; use transformer"),
        ("linear", "sst2", "network=mlp or linear: expected records of numbers, not words; use transformer"),
        ("cnn", "sst2", r"not \(64,\); use mlp, or transformer for texts"),
        (
            "transformer",
            "digits",
            "network=transformer: expected records of words, not numbers; use cnn for images, mlp for tables",
        ),
        (
            "transformer",
            "breast_cancer",
            "network=transformer: expected records of words, not numbers; use cnn for images, mlp for",
        ),
        ("cnn", "breast_cancer", r"not \(30,\); use mlp"),
        ("gpt", "digits", "network=gpt: expected documents, for a language model; use data=documents or ag_news"),
        ("transformer", "documents", "for images, mlp for tables, gpt for documents$"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_one_line(compose, tmp_path, network, data, message):
    with pytest.raises(ValueError, match=message) as error:
        trained(compose(f"network={network}", *small(data, tmp_path)))
    assert "\n" not in str(error.value)
