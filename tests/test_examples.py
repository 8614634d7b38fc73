"""Every example runs as it stands, from a folder of its own, and says what it is there to show."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import call

pytestmark = pytest.mark.slow

REPOSITORY_ROOT = Path(__file__).parents[1]
EXAMPLE_NAMES = sorted(path.stem for path in (REPOSITORY_ROOT / "examples").glob("*.py"))
SHOWN_LINES = {
    "audit_endpoint": ["asked about 100 records"],
    "audit_outputs": ["blind baseline", "All 50 records together"],
    "bare_arrays": ["depth 2, lira: AUC", "Lower bounds on ε"],
    "own_csv": ["balanced", "dp_sgd", "age_band=65+", "sex=f", "reports/visits/report.html"],
    "own_lightning_module": ["undefended: ", "DP-SGD: ", "proven: (ε = "],
    "own_network": ["runs/digits/own-none-", "reports/digits/report.html"],
    "own_npz": ["none + label_only", "reports/embeddings/report.html"],
}


@pytest.mark.parametrize("name", EXAMPLE_NAMES)
def test_example_runs_and_shows_what_it_is_for(name: str, tmp_path: Path) -> None:
    done = call(REPOSITORY_ROOT / "examples" / f"{name}.py", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) > 3
    for words in SHOWN_LINES[name]:
        assert words in done.stdout, done.stdout
