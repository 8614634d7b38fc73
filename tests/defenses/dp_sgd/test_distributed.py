"""Two real processes train what one would: the same batches, the noise once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_callback import SECRET, Plain, blobs, fit
from torch.utils.data import DataLoader

from defenses.dp_sgd import DPSGD

TESTS = Path(__file__).parent
SCRIPT = """
import sys, warnings
import torch
sys.path.insert(0, {tests!r})
warnings.filterwarnings("ignore")
from test_callback import DPSGD, SECRET, Plain, DataLoader, blobs, trainer
{planted}
torch.set_num_threads(1)
torch.manual_seed(1)
module = Plain()
callback = DPSGD(**{settings}, secret=SECRET if {given} else None)
run = trainer(callback, strategy="ddp", devices=2, max_epochs=2, use_distributed_sampler={given})
run.fit(module, DataLoader(blobs(), batch_size=24, shuffle=True))
torch.save(
    {{"state": module.state_dict(), "epsilon": callback.epsilon(), "steps": callback.steps}},
    {folder!r} + f"/{{run.global_rank}}.pt",
)
"""


def train_in_two_processes(folder: Path, planted: str = "", given: bool = True, **settings: Any) -> list[Any]:
    script = folder / "script.py"
    values = {"tests": str(TESTS), "planted": planted, "settings": settings, "given": given, "folder": str(folder)}
    script.write_text(SCRIPT.format(**values))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def check_two_processes(folder: Path, planted: str = "") -> None:
    settings: Any = {"noise_multiplier": 1.0, "max_grad_norm": 0.5, "clipping": "adaptive"}
    first, second = train_in_two_processes(folder, planted, **settings)
    torch.manual_seed(1)
    callback = DPSGD(**settings, secret=SECRET)
    alone = fit(callback, Plain(), DataLoader(blobs(), batch_size=24, shuffle=True), max_epochs=2)
    for name, expected in alone.state_dict().items():
        assert torch.equal(first["state"][name], second["state"][name])
        assert torch.allclose(first["state"][name], expected, atol=1e-4), name
    assert first["steps"] == second["steps"] == callback.steps == 20
    assert first["epsilon"] == second["epsilon"] == callback.epsilon()


@pytest.mark.filterwarnings("ignore")
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    check_two_processes(tmp_path)


def test_processes_agree_on_a_secret_that_nobody_gave(tmp_path: Path) -> None:
    first, second = train_in_two_processes(tmp_path, given=False, noise_multiplier=1.0)
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name])
