"""Audits of tables: a model that knows its members by heart is told so, whoever reads the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose as composed
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from palisade.data.dataset import from_config
from palisade.data.secret import Secret
from palisade.evaluate import evaluate_runs
from palisade.evaluation.subjects.audited_model import numbers
from palisade.evaluation.subjects.saved_records import read
from palisade.targets.shipping import ship

pytestmark = pytest.mark.usefixtures("undrawn")

CONF_FOLDER = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release trained on random labels of three columns of 40 codes, its members, and as many others."""
    from palisade.train import composed as training

    folder = tmp_path_factory.mktemp("leaky")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: [f"{code:03}" for code in rng.integers(1, 41, 600)] for name in "abc"})
    frame["y"] = rng.choice(["1.0", "0.0"], 600)
    frame.to_csv(folder / "all.csv", index=False)
    words = [f"data.path={folder}/all.csv", "data.label=y", "split.pool=300", "trainer.epochs=60", "fleet.models=1"]
    config = training("data=csv", *words, "network.hidden=[256]", "data.rare=1")
    ship(config, [], Secret.from_text("s")).save(folder / "released")
    pool = from_config(config).split.pool
    for name, rows in (("in", frame.loc[pool]), ("out", frame.drop(pool))):
        rows.assign(y=rows["y"].str[:1]).to_csv(folder / f"{name}.csv", index=False)  # 1 is the class 1.0
    return folder


def audited(folder: Path, kind: str, *words: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        overrides = [
            f"audit={kind}", *words, f"reports={folder}/reports", "label=y", f"release={folder}/released",
        ]  # fmt: skip
        settings: Any = OmegaConf.to_container(composed("evaluate", overrides), resolve=True)
    evaluate_runs({**settings, "command": "python evaluate.py"})
    return json.loads((folder / "reports" / f"audit_{kind}" / "report.json").read_text())


def test_a_model_that_leaks_plainly_audits_as_such(leaky: Path) -> None:
    sides = [f"members={leaky}/in.csv", f"nonmembers={leaky}/out.csv", "attack=[loss]"]
    content = audited(leaky, "model", *sides)
    aucs = [row["value"] for row in _rows(content) if row.get("metric") == "auc" and row.get("attack") == "loss"]
    assert aucs and aucs[0] > 0.85


def test_words_without_a_category_are_counted_once_over_both_sides(leaky: Path) -> None:
    for name, wrong in (("in", 3), ("out", 2)):
        frame = pd.read_csv(leaky / f"{name}.csv", dtype=str).head(40)
        frame.loc[frame.index[:wrong], "a"] = "abc"
        frame.to_csv(leaky / f"{name}_abc.csv", index=False)
    sides = [f"records={leaky}/in_abc.csv", f"nonmembers={leaky}/out_abc.csv"]
    content = audited(leaky, "records", *sides)
    notes = [sentence for sentence in content["verdict"] if "no category" in sentence]
    assert notes == ["Records hold words that are no category: 5 of a, such as 'abc'."]


def _rows(content: Any) -> list[dict[str, Any]]:
    """Every mapping of the report that is a measurement."""
    if isinstance(content, dict):
        inner = [row for value in content.values() for row in _rows(value)]
        return [content, *inner] if "metric" in content else inner
    return [row for value in content for row in _rows(value)] if isinstance(content, list) else []


def test_a_table_for_an_endpoint_is_read_likewise(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a, b,flag,y\n001, 2.5,True,x \n 2,.5 ,False,x\n")
    saved = read("members", str(tmp_path / "t.csv"), "y")
    assert saved.labels.tolist() == ["x", "x"]
    np.testing.assert_array_equal(numbers(saved.rows), [[1, 2.5, 1], [2, 0.5, 0]])
