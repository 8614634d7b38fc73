"""A fleet from a DataFrame: trained, attacked, reported and shipped from a program as the commands do it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import palisade

SMALL_FLEET = ("fleet.models=4", "trainer.epochs=2", "secret=notebook", "quiet=true")


def people(rows: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    age = rng.integers(18, 90, rows)
    ill = np.where(age + rng.normal(0, 20, rows) > 60, "yes", "no")
    return pd.DataFrame(
        {"age": age, "income (USD)": rng.normal(40, 9, rows).round(1), "sex": ["f", "m"] * (rows // 2)}
    ).assign(ill=ill)


@pytest.mark.usefixtures("undrawn")
def test_a_frame_becomes_a_fleet_a_report_and_a_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frame = people()
    fleet = palisade.train_fleet(frame, *SMALL_FLEET, label="ill", name="people")
    assert fleet.run.folder.parent == Path("runs/people") and fleet.run.is_complete()
    assert fleet.result.strongest in fleet.result.attacks
    assert 0.4 < (fleet.result.get("auc", attack="loss").value or 0) < 0.7
    again = palisade.train_fleet(frame.copy(), *SMALL_FLEET, label="ill", name="people")
    assert again.run.folder == fleet.run.folder, "the same rows are the same run"

    palisade.write_report("runs=runs/people/*", "name=people", "attack=quick")
    assert (tmp_path / "reports" / "people" / "report.html").exists()
    release = palisade.ship_release(fleet, "quiet=true")
    assert set(release.predict(frame.drop(columns="ill")[:5])) <= {"yes", "no"}


def test_wrong_settings_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^label=None: expected the column to predict"):
        palisade.train_fleet(people())
    with pytest.raises(ValueError, match=r"^data\.label=health: expected a column of .*; choose one of age, "):
        palisade.train_fleet(people(), *SMALL_FLEET, label="health")
    with pytest.raises(ValueError, match=r"^fleet\.models=0: expected an integer >= 1"):
        palisade.train_fleet(people(), "fleet.models=0", label="ill")
    assert not (tmp_path / "runs" / "table").exists()
