"""The shapes and types in signatures hold while a run is trained, attacked and reported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from beartype import BeartypeConf, beartype

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
COMMANDS = (
    "train.py data=digits fleet.models=4 fleet.workers=1 split.pool=300 defense=dp_sgd defense.trainer.epochs=1",
    "evaluate.py data=digits",
)
PROGRAM = f"""
import runpy, sys
from jaxtyping import install_import_hook
install_import_hook('palisade', 'test_shapes.checked')
for command in {COMMANDS!r}:
    sys.argv = command.split()
    try:
        runpy.run_path({str(ROOT)!r} + '/' + sys.argv[0], run_name='__main__')
    except SystemExit as ended:
        if ended.code:
            raise
"""


def test_types_hold_from_data_to_report(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "reports" / "digits" / "report.html").exists()
