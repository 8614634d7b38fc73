"""The shapes and types in signatures hold while a run is trained, attacked and reported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from beartype import BeartypeConf, beartype

pytestmark = pytest.mark.slow

REPOSITORY_ROOT = Path(__file__).parent.parent
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
SHAPE_COMMANDS = (
    "train.py data=digits fleet.models=4 fleet.workers=1 split.pool=300 defense=dp_sgd defense.trainer.epochs=1",
    "evaluate.py data=digits",
)
IMPORT_HOOK = """
import runpy, sys
from jaxtyping import install_import_hook
install_import_hook('palisade', 'test_shapes.checked')
"""
TEST_PROGRAM = f"""{IMPORT_HOOK}
for command in {SHAPE_COMMANDS!r}:
    sys.argv = command.split()
    try:
        runpy.run_path({str(REPOSITORY_ROOT)!r} + '/' + sys.argv[0], run_name='__main__')
    except SystemExit as ended:
        if ended.code:
            raise
"""
WRONG_PROGRAMS = {
    "palisade.evaluation.statistics.metrics": "roc_auc(np.zeros((2, 2)), np.zeros(2, dtype=bool))",
    "palisade.attacks.parts.signals": "log_odds_of_logits(np.zeros(3), np.zeros(3, dtype=int))",
    "palisade.targets.networks": "MLP(shape='4', classes=2)",
    "palisade.data.split": "Membership(how='bernoulli', share='half')",
}
"""A call with a wrong shape or type in a module of each package."""


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY_ROOT / "tests"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def test_types_hold_from_data_to_report(tmp_path):
    done = run(TEST_PROGRAM, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "reports" / "digits" / "report.html").exists()


@pytest.mark.parametrize("module", WRONG_PROGRAMS)
def test_a_wrong_shape_is_noticed(tmp_path, module):
    done = run(f"{IMPORT_HOOK}\nimport numpy as np\nfrom {module} import *\n{WRONG_PROGRAMS[module]}", tmp_path)
    assert done.returncode == 1 and "TypeCheckError" in done.stderr, done.stderr[-3000:]
