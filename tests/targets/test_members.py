"""`palisade members`: the very rows that were trained on, for their owner's eyes, and usable in an audit."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from palisade.data.arrays import Arrays
from palisade.evaluation.subjects.saved_records import read
from palisade.targets.members import main, write_members
from palisade.targets.run import Run
from palisade.targets.shipping import ship_run
from palisade.train import train_run

PEOPLE_ROWS = 300


@pytest.fixture
def people(tmp_path, monkeypatch) -> pd.DataFrame:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"who": [f"p{k}" for k in range(PEOPLE_ROWS)], "wage": rng.normal(size=PEOPLE_ROWS).round(3)})
    frame["income"] = rng.choice(["no", "yes"], PEOPLE_ROWS)
    frame.to_csv("people.csv", index=False, sep=";", decimal=",")
    return frame


@pytest.fixture
def run(compose, people) -> Run:
    words = ["data=csv", "data.path=people.csv", "data.label=income", "data.person=who", "data.separator=';'"]
    words += ["data.decimal=','", "trainer.epochs=1", "fleet.models=2", "fleet.workers=1"]
    return Run(Path(train_run(compose(*words))["folder"]))


@pytest.fixture
def release(compose, run) -> Path:
    return ship_run(compose(f"ship={run.folder}", "ship_unaudited=true"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_of_a_release_the_whole_pool_as_the_file_has_it(release, run, people):
    path, count = write_members(release, Path("runs"))
    assert path == release / "private" / "members.csv" and (mode(path), mode(path.parent)) == (0o600, 0o700)
    pool = people.iloc[run.dataset.split.pool]
    assert pd.read_csv(path, decimal=",").equals(pool.reset_index(drop=True)) and count == len(pool) == 210
    saved = read("members", str(path), "income", "who")
    assert saved.labels.tolist() == pool["income"].tolist() and list(saved.rows) == ["wage"]


def test_of_a_run_what_any_model_was_trained_on(run, people):
    path, count = write_members(run.folder, Path("elsewhere"))
    used = run.membership().any(axis=0)
    assert path == run.folder / "private" / "members.csv" and (~used).sum() > 0 and count == used.sum()
    assert pd.read_csv(path)["who"].tolist() == people["who"].iloc[run.dataset.split.pool[used]].tolist()


def test_of_arrays_an_archive_that_is_data_again(compose, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    x, y, persons = rng.normal(size=(200, 3)).astype(np.float32), np.arange(200) % 2, np.arange(200) // 2
    np.savez("mine.npz", x=x, y=y, persons=persons)
    canaries = ["canary=label_noise", "canary.count=20"]
    words = ["data=npz", "data.path=mine.npz", "trainer.epochs=1", "fleet.models=2", "fleet.workers=1", *canaries]
    run = Run(Path(train_run(compose(*words))["folder"]))
    path, count = write_members(run.folder, Path("runs"))
    records = Arrays(path=str(path)).load()
    fixed = np.setdiff1d(run.dataset.split.pool, run.dataset.split.canaries)
    assert count == len(fixed) == len(run.dataset.split.pool) - 20
    np.testing.assert_array_equal(records.rows, x[fixed])
    np.testing.assert_array_equal(records.labels, y[fixed])


def test_bad_words_and_folders_write_nothing(release, run, capsys):
    for words in ([], ["run"], ["run=a", "released=b"], ["root=runs"]):
        with pytest.raises(ValueError, match=r"expected run=<folder>; palisade members run="):
            main(words)
    with pytest.raises(ValueError, match="no complete run"):
        main(["run=nowhere"])
    with pytest.raises(ValueError, match=r"run=released/\S+: expected a release whose run is in elsewhere/"):
        main([f"run={release}", "root=elsewhere"])
    (release / "card.json").write_text("{}")
    with pytest.raises(ValueError, match="expected a release whose run is in runs/"):
        main([f"run={release}"])
    assert not (release / "private").exists()
    main([f"run={run.folder}"])
    assert "members.csv: " in capsys.readouterr().out
    shutil.move("people.csv", "gone.csv")
    program = "from palisade.commandline import console; console()"
    command = [sys.executable, "-c", program, "members", f"run={run.folder}"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 2 and done.stderr.startswith("error: data.path=") and done.stderr.count("\n") == 1


def test_no_rows_lie_beside_a_release_unasked(release):
    assert sorted(path.name for path in release.iterdir()) == ["card.html", "card.json", "model.safetensors"]
