"""Models of a run as shadows of one model: calibrated votes on labels alone, which single answers know little of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import call
from running_server import running
from sklearn.datasets import load_digits

from palisade.data.dataset import from_config
from palisade.data.secret import Secret
from palisade.targets.shipping import ship
from palisade.train import composed

DIGIT_ROWS, DIGIT_CLASSES = (load_digits().images[:320, None] / 16).astype(np.float32), load_digits().target[:320]
SHADOW_COUNT = 6
pytestmark = pytest.mark.slow
RECIPE_WORDS = ("data=npz", "network=mlp", "network.hidden=[32]", "trainer.epochs=25", "split.population=0")
VOTES_WORDS = (
    *("attack=[correctness,calibrated_correctness,votes]", "attack.votes.copies=4"),
    *("attack.votes.strengths=[0.3]", "attack.votes.moves=[1]"),
)
FILE_WORDS = ("members=in.npz", "nonmembers=out.npz", "quiet=true")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release behind label_only, trained on half of 300 digits, and a run whose pool is nearly all of them."""
    place = tmp_path_factory.mktemp("shadows")
    np.savez(place / "own.npz", x=DIGIT_ROWS[:160], y=DIGIT_CLASSES[:160])
    np.savez(place / "all.npz", x=DIGIT_ROWS, y=DIGIT_CLASSES)
    own = composed(*RECIPE_WORDS, f"data.path={place}/own.npz", "split.pool=150", "guard=label_only")
    ship(own, [], Secret.from_text("target")).save(place / "released")
    sides = {"in": from_config(own).split.pool, "out": np.arange(160, 310)}
    for name, rows in sides.items():
        np.savez(place / f"{name}.npz", features=DIGIT_ROWS[rows], labels=DIGIT_CLASSES[rows])
    done = call(
        "train.py", *RECIPE_WORDS, "data.path=all.npz", "split.pool=310", "secret=shadows",
        f"fleet.models={SHADOW_COUNT}", "quiet=true", folder=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return place


def audited(folder: Path, name: str, *words: str) -> dict[str, Any]:
    (run,) = (folder / "runs" / "all").iterdir()
    done = call("evaluate.py", *words, *FILE_WORDS, *VOTES_WORDS, f"shadows={run}", f"name={name}", folder=folder)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "reports" / name / "report.json").read_text())


def values(report: dict[str, Any]) -> dict[tuple[str, str], float]:
    return {(row["attack"], row["metric"]): row["value"] for row in report["rows"] if row["group"] == "all"}


def test_calibrated_votes_tell_what_one_label_does_not(folder: Path) -> None:
    report = audited(folder, "here", "audit=model", "release=released")
    rows = values(report)
    assert not report["skipped"] and report["shadow_models"] == SHADOW_COUNT
    assert rows["votes", "auc"] > rows["calibrated_correctness", "auc"] > rows["correctness", "auc"] > 0.5
    assert 0 < rows["votes", "unscored"] < 0.1, "records that the run keeps for its test"


def test_an_endpoint_that_returns_labels_gives_the_same(folder: Path, tmp_path: Path) -> None:
    here = values(audited(folder, "here", "audit=model", "release=released"))
    unlimited = ("limits.rate=null", "limits.day=null", "limits.budget=null")
    with running(folder, f"private={tmp_path}", *unlimited) as server:
        url = f"endpoint={server.url}/v1/models/released:predict"
        over_http = values(audited(folder, "http", "audit=endpoint", url, "answers=predictions", "batch=256"))
    assert over_http.keys() == here.keys()
    for key, value in here.items():
        assert over_http[key] == pytest.approx(value, abs=1e-6), key
