"""The report knows the release of a run, and a public one keeps what a real run would give away."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose as composed_of
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from palisade import evaluate
from palisade.targets.run import Run
from palisade.targets.shipped import releases
from palisade.targets.shipping import ship_run
from palisade.train import composed, train_run

REPOSITORY_ROOT = Path(__file__).parents[2]
SHIP_UNAUDITED = "ship_unaudited=true"
SMALL_RUN = ("data=digits", "trainer.epochs=1", "fleet.models=2", "fleet.workers=1", "secret=released")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("released")


@pytest.fixture(scope="module")
def run(place: Path) -> Run:
    """A small run with a release."""
    trained = Run(Path(train_run(composed(f"runs={place / 'runs'}", *SMALL_RUN))["folder"]))
    ship_run(composed(f"ship={trained.folder}", f"released={place / 'released'}", "secret=shipped", SHIP_UNAUDITED))
    return trained


def evaluated(place: Path, *overrides: str) -> dict[str, Any]:
    """Content of report.json after `evaluate.py` with these overrides."""
    words = ["data=digits", "attack=loss", f"root={place / 'runs'}", f"reports={place / 'reports'}", *overrides]
    with initialize_config_dir(version_base="1.3", config_dir=str(REPOSITORY_ROOT / "conf")):
        settings: Any = OmegaConf.to_container(composed_of("evaluate", overrides=words), resolve=True)
    evaluate.evaluate_runs({**settings, "command": "python evaluate.py " + " ".join(words)})
    folder = place / "reports" / "digits" / ("public" if "report.scope=public" in overrides else "")
    content: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return content


def test_a_release_is_known_by_data_and_recipe(run: Run, place: Path) -> None:
    assert releases([run], place / "released") == {run.name: str(place / "released" / "digits-mlp-none")}
    longer = Run(Path(train_run(composed(f"runs={place / 'longer'}", *SMALL_RUN, "trainer.epochs=2"))["folder"]))
    smaller = Run(Path(train_run(composed(f"runs={place / 'smaller'}", *SMALL_RUN, "split.pool=0.5"))["folder"]))
    assert releases([longer, smaller], place / "released") == {}
    assert releases([run], place / "nothing") == {}


def test_private_data_of_the_same_name_and_size_are_distinguished(tmp_path: Path) -> None:
    runs = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        rng = np.random.default_rng(number)
        np.savez(tmp_path / str(number) / "mine.npz", x=rng.random((200, 3)), y=np.arange(200) % 2)
        words = (
            f"data.path={tmp_path / str(number) / 'mine.npz'}",
            *(word for word in SMALL_RUN if "data=" not in word),
        )
        runs.append(Run(Path(train_run(composed(f"runs={tmp_path / 'runs'}", "data=npz", *words))["folder"])))
        ship_run(composed(f"ship={runs[-1].folder}", f"released={tmp_path / f'released{number}'}", SHIP_UNAUDITED))
    assert runs[0].folder != runs[1].folder
    for number, run in enumerate(runs):
        folder = tmp_path / f"released{number}"
        assert releases(runs, folder) == {run.name: str(folder / "mine-mlp-none")}


def test_other_cards_are_passed_over(run: Run, tmp_path: Path) -> None:
    texts = ("{", "[]", '{"model": "other"}', '{"data": []}', '{"data": {}, "guard": 5}', "[" * 10**5)
    for number, text in enumerate(texts):
        name = str(number)
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text(text)
    assert releases([run], tmp_path) == {}


@pytest.mark.usefixtures("undrawn")
def test_the_report_tells_of_it(run: Run, place: Path) -> None:
    released = place / "released"
    content = evaluated(place, f"released={released}")
    assert content["released"]["releases"] == {"undefended": str(released / "digits-mlp-none")}
    facts = content["released"]["facts"]
    assert facts["records"] == 1797 and sum(facts["roles"].values()) == 1797 and facts["roles"]["pool"] == 1258
    assert facts["published"] and facts["checksum"].startswith("sha256:")


def test_a_public_report_stands_apart(run: Run, place: Path) -> None:
    evaluated(place)
    content = evaluated(place, "report.scope=public")
    folder = place / "reports" / "digits" / "public"
    assert content["scope"] == "public" and not list(folder.glob("expos*"))
    assert (folder.parent / "exposed.csv").exists()
    secretive = re.compile(f"{run.folder.name[-8:]}|{re.escape(str(place))}")
    for path in folder.iterdir():
        assert path.suffix == ".png" or not secretive.search(path.read_text()), path.name


def test_a_wrong_scope_stops_before_anything_is_attacked(run: Run, place: Path) -> None:
    with pytest.raises(ValueError, match=r"^report\.scope=everyone"):
        evaluated(place, "report.scope=everyone", "name=never")
    assert not (place / "reports" / "never").exists()
