"""The shapes and types in signatures hold while a run is trained, attacked and reported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from beartype import BeartypeConf, beartype

ROOT = Path(__file__).parent.parent
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def test_types_hold_from_data_to_report(tmp_path):
    small = ["data=digits", "fleet.models=4", "fleet.workers=1"]
    commands = [
        ["train.py", *small, "defense=dp_sgd", "defense.trainer.epochs=1"],
        ["evaluate.py", "data=digits"],
    ]
    for script, *arguments in commands:
        program = (
            "from jaxtyping import install_import_hook\n"
            "packages = ['attacks', 'datamodules', 'targets', 'defenses', 'evaluation']\n"
            "install_import_hook(packages, 'test_shapes.checked')\n"
            f"import runpy\nrunpy.run_path({str(ROOT / script)!r}, run_name='__main__')\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr[-3000:]
