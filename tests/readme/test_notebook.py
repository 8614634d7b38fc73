"""The notebook runs from top to bottom, and is kept without outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

REPOSITORY_ROOT = Path(__file__).parents[2]
NOTEBOOK_FILE = REPOSITORY_ROOT / "examples" / "tradeoff.ipynb"


def test_it_runs_and_shows_the_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK_FILE, as_version=4)
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    shown = "".join(output.get("data", {}).get("text/plain", "") for output in outputs)
    assert "l2 0.03" in shown and "dp_sgd" in shown, "the table"
    assert "differential privacy per record" in printed and "no formal guarantee" in printed
    assert "test accuracy" in printed.splitlines()[-1], "a run is chosen"
    assert any("image/svg+xml" in output.get("data", {}) for output in outputs)


def test_it_is_stored_without_outputs() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK_FILE, as_version=4).cells if cell.cell_type == "code"]
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)
