"""Models of a run on a table as shadows of a model that takes rows of that table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import call

from palisade.data.dataset import from_config
from palisade.data.secret import Secret
from palisade.evaluation.subjects.audited_model import AuditedModel
from palisade.evaluation.subjects.shadow_fleet import ShadowFleet
from palisade.targets.shipping import ship
from palisade.train import composed

PEOPLE_COUNT, SHADOW_COUNT = 240, 6
RECIPE_WORDS = (
    *("data=csv", "data.label=ill", "data.rare=1", "network=mlp", "network.hidden=[64]", "trainer.epochs=60"),
    *("trainer.optimizer.lr=0.01", "split.population=0"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release on half of a table whose labels are noise, so that it knows its members, and a run on nearly all."""
    place, rng = tmp_path_factory.mktemp("tables"), np.random.default_rng(0)
    rows = [
        f"{age},{town},{pressure:.2f},{ill}"
        for age, town, pressure, ill in zip(
            rng.integers(18, 90, PEOPLE_COUNT), rng.choice(["ash", "birch", "cedar"], PEOPLE_COUNT),
            rng.normal(120, 15, PEOPLE_COUNT), rng.choice(["yes", "no"], PEOPLE_COUNT), strict=True,
        )
    ]  # fmt: skip
    write(place / "all.csv", rows)
    write(place / "own.csv", rows[: PEOPLE_COUNT // 2])
    own = composed(*RECIPE_WORDS, f"data.path={place}/own.csv", "split.pool=100")
    ship(own, [], Secret.from_text("target")).save(place / "released")
    write(place / "in.csv", [rows[k] for k in from_config(own).split.pool])
    write(place / "out.csv", rows[PEOPLE_COUNT // 2 :][:100])
    done = call(
        "train.py", *RECIPE_WORDS, "data.path=all.csv", "split.pool=230", "secret=shadows",
        f"fleet.models={SHADOW_COUNT}", "quiet=true", folder=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return place


def write(path: Path, rows: list[str]) -> None:
    path.write_text("\n".join(["age,town,pressure,ill", *rows]) + "\n")


def test_shadows_know_the_rows_of_a_table(folder: Path) -> None:
    (run,) = (folder / "runs" / "all").iterdir()
    words = ("audit=model", "release=released", "members=in.csv", "nonmembers=out.csv", "label=ill", "quiet=true")
    done = call("evaluate.py", *words, "attack=[loss,lira,votes]", f"shadows={run}", "name=beside", folder=folder)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "reports" / "beside" / "report.json").read_text())
    rows = {(row["attack"], row["metric"]): row["value"] for row in report["rows"] if row["group"] == "all"}
    assert report["shadow_models"] == SHADOW_COUNT and set(report["skipped"]) == {"votes"}
    assert rows["lira", "auc"] > 0.55 and rows["lira", "unscored"] < 0.1, rows


def test_shadows_of_another_kind_are_refused(folder: Path) -> None:
    (run,) = map(str, (folder / "runs" / "all").iterdir())
    arrays = AuditedModel(name="a model", answers="probabilities", ask=lambda rows: rows, inputs=lambda rows: rows)
    texts = replace(arrays, answers="token_logprobs", takes_inputs=False)
    rows = replace(arrays, takes_inputs=False, classes=("no", "yes"))
    with pytest.raises(ValueError, match=r"shadows=.*: expected a run on records of the same kind"):
        ShadowFleet.named(run, arrays, has_tables=False)
    with pytest.raises(ValueError, match=r"shadows=.*: expected null for a model that takes neither arrays nor tables"):
        ShadowFleet.named(run, texts, has_tables=True)
    shadows = ShadowFleet.named(run, rows, has_tables=True)
    assert shadows.models == SHADOW_COUNT and not shadows.asking(rows).takes_inputs
