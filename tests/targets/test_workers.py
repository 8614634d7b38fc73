"""Work comes back, in worker processes or here; what goes wrong comes back as itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from palisade.targets import progress, workers
from palisade.targets.progress import Progress
from palisade.targets.workers import count  # unpatched: as it is when tests are collected


def square(value: int) -> tuple[int, int]:
    if value < 0:
        from hydra.utils import instantiate

        instantiate({"_target_": "palisade.defenses.l2.L2", "weight_decay": value})
    return value * value, os.getpid()


def leave(value: int) -> None:
    raise SystemExit(value)


def test_one_worker_or_one_item_runs_here():
    assert list(workers.run(square, [(2,), (3,)], 1)) == [(4, os.getpid()), (9, os.getpid())]
    assert list(workers.run(square, [(2,)], 8)) == [(4, os.getpid())]


def test_several_workers_run_in_processes_of_their_own():
    results = list(workers.run(square, [(k,) for k in range(6)], 2))
    assert sorted(value for value, _ in results) == [0, 1, 4, 9, 16, 25]
    assert os.getpid() not in {process for _, process in results}
    pool = workers._pool
    list(workers.run(square, [(1,), (2,)], 2))
    assert workers._pool is pool
    with pytest.raises(ValueError, match=r"weight_decay=-1"):
        list(workers.run(square, [(-1,), (2,)], 2))
    assert workers._pool is None
    for items in ([(0,)], [(0,), (0,)]):
        with pytest.raises(ValueError, match=r"^code of this run called sys\.exit\(0\); let it raise an error instead"):
            list(workers.run(leave, items, 2))
    workers.stop()


def test_every_progress_line_counts_what_workers_report(tmp_path, capfd):
    for unit in ("models", "runs attacked"):  # the same processes, and those of a new pool of the same server
        with Progress(tmp_path, total=2, unit=unit):
            list(workers.run(progress.report, [("run", 1), ("run", 1)], 2))
    workers.stop()
    with Progress(tmp_path, total=2):
        list(workers.run(progress.report, [("run", 1), ("run", 1)], 2))
    list(workers.run(progress.report, [("run", 1), ("run", 1)], 2))  # no line, no file
    workers.stop()
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(" · ")[0] for line in lines] == ["2/2 models", "2/2 runs attacked", "2/2 models"]
    assert not list(tmp_path.iterdir())


WORKER_SCRIPT = """
from palisade.targets import workers
print(sorted(workers.run(divmod, [(7, 2), (9, 2)], 2)), __file__)
"""


def test_script_on_standard_input_has_workers():
    done = subprocess.run([sys.executable, "-"], input=WORKER_SCRIPT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "[(3, 1), (4, 1)] <stdin>\n"), done.stderr


def test_script_that_workers_cannot_import_is_named_as_the_cause(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(WORKER_SCRIPT)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert workers.SCRIPT_NOT_IMPORTABLE in done.stderr and workers.WORKER_KILLED not in done.stderr
    script.write_text(WORKER_SCRIPT.replace("print", 'if __name__ == "__main__": print'))
    assert subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60).returncode == 0


def test_count_is_set_or_one_per_core(monkeypatch):
    assert count(3) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 5}, raising=False)
    assert count("auto") == 3


def test_count_where_the_cores_of_a_process_are_unknown_as_on_macos(monkeypatch):
    from palisade.defenses.dp_sgd.noise import core_is_idle

    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert count("auto") == 7
    assert core_is_idle()


def test_joblib_has_processes_enough(monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra `sweep`")
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig

    with initialize_config_dir(str(Path(__file__).parents[2] / "conf"), version_base="1.3"):
        config = compose("train", overrides=["hydra/launcher=joblib"], return_hydra_config=True)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", config)
    assert count("auto") == workers.count(1) == 1
    with pytest.raises(ValueError, match=r"^fleet\.workers=2"):
        count(2)
