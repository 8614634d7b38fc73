"""Whole outputs of a few seeded commands, kept in this folder: a change of structure may change none of them.

Where a number or a sentence was meant to change: `pytest tests/golden --write-golden`, and read the diff.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Ended, call
from golden.outputs import csv_of, differences, json_of, page_of, printed_of

GOLDEN_FOLDER = Path(__file__).parent
SHOWN_LINES = 30
SWEEP_GRIDS = '["defense=none","defense=l2 defense.weight_decay=1e-2","defense=dp_sgd defense.epsilon=8"]'
SWEEP_SETTINGS = (
    *("-m", "hydra/sweeper=grids", f"hydra.sweeper.grids={SWEEP_GRIDS}", "data=digits", "canary=label_noise"),
    *("canary.count=240", "guard=rounding", "fleet.models=6", "trainer.epochs=5", "secret=golden"),
)


@pytest.fixture
def golden(request, tmp_path):
    """Compares an output with the kept one, or keeps it."""
    write = request.config.getoption("--write-golden")

    def check(name: str, actual: Any) -> None:
        path = GOLDEN_FOLDER / name
        if write:
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(actual, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        changed = differences(json.loads(path.read_text(encoding="utf-8")), actual)
        shown = "\n".join(changed[:SHOWN_LINES])
        assert not changed, f"{name}: {len(changed)} places differ from the kept output\n{shown}"

    return check


def ended(script: str, *words: str, folder: Path, code: int = 0) -> Ended:
    end = call(script, *words, folder=folder)
    assert end.returncode == code, end.stderr
    return end


def test_sweep_with_guard_and_canaries(golden, tmp_path):
    trained = ended("train.py", *SWEEP_SETTINGS, folder=tmp_path)
    evaluated = ended("evaluate.py", "data=digits", "attack=standard", folder=tmp_path)
    report = tmp_path / "reports" / "digits"
    golden("sweep/train.json", printed_of(trained.stdout + trained.stderr, tmp_path))
    golden("sweep/evaluate.json", printed_of(evaluated.stdout, tmp_path))
    golden("sweep/results.json", csv_of(report / "results.csv", tmp_path))
    golden("sweep/report.json", json_of(report / "report.json", tmp_path))
    golden("sweep/page.json", page_of(report / "report.html", tmp_path))


def test_ship(golden, tmp_path):
    ended("train.py", "data=digits", "defense=dp_sgd", "defense.epsilon=8", "defense.trainer.epochs=5",
          "fleet.models=2", "secret=golden", folder=tmp_path)  # fmt: skip
    (run,) = (tmp_path / "runs" / "digits").iterdir()
    shipped = ended(
        "train.py", f"ship={run}", "guard=topk", "guard.k=3", "secret=golden", "ship_unaudited=true", folder=tmp_path
    )
    (card,) = (tmp_path / "released").glob("*/card.json")
    golden("ship/card.json", json_of(card, tmp_path))
    golden("ship/train.json", printed_of(shipped.stdout, tmp_path))


@pytest.fixture
def answers(tmp_path):
    """Answers of a model that fits members better, about members, non-members and half of both."""
    rng = np.random.default_rng(0)
    weights, sides = rng.normal(size=(4, 3)), {}
    for name, fit, count in (("in", 2.0, 200), ("out", 0.0, 250), ("fresh", 0.0, 100)):
        labels, features = rng.integers(3, size=count), rng.normal(size=(count, 4)).astype(np.float32)
        logits = features @ weights
        logits[np.arange(count), labels] += fit * rng.exponential(size=count)
        sides[name] = {"logits": logits, "labels": labels, "features": features}
        np.savez(tmp_path / f"{name}.npz", **sides[name])
    half = {key: np.concatenate([sides["in"][key][:100], sides["fresh"][key]]) for key in sides["in"]}
    np.savez(tmp_path / "half.npz", **half)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("outputs", ("audit=outputs", "members=in.npz", "nonmembers=out.npz", "attack=quick", "gate.max_tpr=0.05")),
        ("records", ("audit=records", "records=half.npz", "nonmembers=out.npz")),
    ],
)
def test_audit(golden, answers, name, words):
    end = ended("evaluate.py", *words, folder=answers, code=4 if "gate.max_tpr=0.05" in words else 0)
    report = answers / "reports" / f"audit_{name}"
    golden(f"audit_{name}/evaluate.json", printed_of(end.stdout, answers))
    golden(f"audit_{name}/report.json", json_of(report / "report.json", answers))
    golden(f"audit_{name}/page.json", page_of(report / "report.html", answers))
    if name == "outputs":
        golden(f"audit_{name}/results.json", csv_of(report / "results.csv", answers))
