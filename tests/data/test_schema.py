"""`palisade schema`: what it prints is read as a schema, and says of itself that it came from the records."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from palisade.data.dataset import Dataset, prepare
from palisade.data.schema import schema_text
from palisade.data.split import Roles
from palisade.data.table import Table

PATIENT_ROWS = pd.DataFrame({
    "patient": [f"p{k // 2}" for k in range(120)],
    "age": [None if k == 3 else 20 + k % 50 for k in range(120)],
    "ward": ["north" if k % 3 else "süd" for k in range(120)],
    "admitted": [f"2020-0{1 + k % 9}-11" for k in range(120)],
    "ill": ["yes" if k % 4 else "no" for k in range(120)],
})  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    PATIENT_ROWS.to_csv(tmp_path / "people.csv", index=False)
    return tmp_path / "people.csv"


def loaded(path: Path, schema: str) -> Dataset:
    (path.parent / "schema.yaml").write_text(schema, encoding="utf-8")
    table = Table(path=path, label="ill", person="patient", schema=path.parent / "schema.yaml", missing="impute")
    return prepare(table, Roles(), seed=0)


def test_what_is_printed_is_a_schema_that_names_its_origin(path: Path) -> None:
    settings: dict[str, Any] = {"person": "patient", "dates": ["admitted"]}
    text = schema_text(str(path), settings)
    dataset = loaded(path, text)
    assert list(dataset.preprocessing.columns) == ["age", "ward", "admitted"]  # type: ignore[union-attr]
    assert any("were taken from the pool" in reason for reason in dataset.not_covered(()))
    fitted = prepare(Table(path=path, label="ill", missing="impute", **settings), Roles(pool=0.99), seed=0)
    np.testing.assert_allclose(dataset.x, fitted.x, atol=0.1)
    entries = yaml.safe_load(text)["columns"]
    assert "fill" in entries["age"] and "fill" not in entries["ward"]
    edited = text.replace("statistics: private\n", "")
    assert not any("pool" in reason for reason in loaded(path, edited).not_covered(()))


def test_the_command(path: Path) -> None:
    def schema(*words: str) -> subprocess.CompletedProcess[str]:
        program = "from palisade.commandline import console; console()"
        command = [sys.executable, "-c", program, "schema", *words]
        return subprocess.run(command, cwd=path.parent, capture_output=True, text=True, env={**os.environ})

    done = schema("people.csv", "data.drop=[patient,admitted]")
    assert done.returncode == 0 and list(yaml.safe_load(done.stdout)["columns"]) == ["age", "ward"]
    for words, message in (
        ((), "error: no file: expected one file; palisade schema <file>"),
        (("nowhere.csv",), "error: data.path=nowhere.csv is no file"),
        (("people.csv", "fleet.models=3"), "error: people.csv fleet.models: expected one file"),
        (("people.csv",), "error: data.dates=[]: expected column admitted too"),
    ):
        wrong = schema(*words)
        assert (wrong.returncode, wrong.stdout) == (2, "") and wrong.stderr.startswith(message), wrong.stderr
        assert wrong.stderr.count("\n") == 1
