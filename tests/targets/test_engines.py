"""Work comes back, in worker processes or here; what goes wrong comes back as itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from palisade.targets import engines, progress
from palisade.targets.engines import LocalEngine, count, local, worker  # unpatched: as it is when tests are collected
from palisade.targets.progress import Progress


def square(value: int) -> tuple[int, int]:
    if value < 0:
        from hydra.utils import instantiate

        instantiate({"_target_": "palisade.defenses.l2.L2", "weight_decay": value})
    return value * value, os.getpid()


def leave(value: int) -> None:
    raise SystemExit(value)


def test_one_worker_or_one_item_runs_here():
    assert list(engines.run(square, [(2,), (3,)], 1)) == [(4, os.getpid()), (9, os.getpid())]
    assert list(engines.run(square, [(2,)], 8)) == [(4, os.getpid())]


def test_several_workers_run_in_processes_of_their_own():
    results = list(engines.run(square, [(k,) for k in range(6)], 2))
    assert sorted(value for value, _ in results) == [0, 1, 4, 9, 16, 25]
    assert os.getpid() not in {process for _, process in results}
    pool = local._pool
    list(engines.run(square, [(1,), (2,)], 2))
    assert local._pool is pool
    with pytest.raises(ValueError, match=r"weight_decay=-1"):
        list(engines.run(square, [(-1,), (2,)], 2))
    assert local._pool is None
    for items in ([(0,)], [(0,), (0,)]):
        with pytest.raises(ValueError, match=r"^code of this run called sys\.exit\(0\); let it raise an error instead"):
            list(engines.run(leave, items, 2))
    engines.stop()


class OddError(ValueError):
    """An error that no pickle can make again: it asks for more than its text."""

    def __init__(self, value: int, reason: str) -> None:
        super().__init__(f"{value} is odd: {reason}")


def fail_oddly(value: int) -> None:
    raise OddError(value, "own")


def test_an_error_that_no_pickle_can_make_again_comes_back_by_its_name(capfd):
    with pytest.raises(ValueError, match=r"^OddError: \d is odd: own$"):
        list(engines.run(fail_oddly, [(1,), (3,)], 2))
    assert "died" not in capfd.readouterr().err


def die_once(folder: str, item: int) -> tuple[int, int]:
    """The first item's worker is killed by the first call, the others wait for that."""
    mark = Path(folder, "dead")
    if item == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    while not mark.exists():
        time.sleep(0.01)
    return item, os.getpid()


def test_what_a_dead_worker_left_is_run_once_more(tmp_path, capfd):
    results = dict(engines.run(die_once, [(str(tmp_path), k) for k in range(5)], 2))
    engines.stop()
    assert sorted(results) == [0, 1, 2, 3, 4]
    assert capfd.readouterr().err == "a worker process died; what it left is run once more\n"


def test_a_worker_that_died_while_it_had_no_work_is_replaced():
    (_, first), _ = engines.run(square, [(1,), (2,)], 2)
    os.kill(first, signal.SIGKILL)
    assert sorted(value for value, _ in engines.run(square, [(1,), (2,)], 2)) == [1, 4]
    engines.stop()


def end(how: str) -> None:
    os._exit(7) if how == "exit" else os.kill(os.getpid(), getattr(signal, how))


@pytest.mark.parametrize(
    ("how", "reason"), [("SIGKILL", "lack of memory"), ("SIGSEGV", "by SIGSEGV"), ("exit", "with exit code 7")]
)
def test_a_second_death_is_reported_with_its_true_reason(how, reason):
    with pytest.raises(ChildProcessError, match=reason):
        list(engines.run(end, [(how,), (how,)], 2))
    assert local._pool is None


def seen_gpus(item: int) -> tuple[int, str | None]:
    time.sleep(0.3)  # every worker gets some
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [("auto", "3,GPU-a", {"3": 2, "GPU-a": 2}), ("cpu", "3,GPU-a", {"3,GPU-a": 4}), ("auto", "", {"": 4})],
)
def test_workers_see_the_gpu_that_is_theirs_alone(monkeypatch, device, visible, expected):
    monkeypatch.setenv("PALISADE_DEVICE", device)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    seen = dict(engines.run(seen_gpus, [(k,) for k in range(12)], 4))
    engines.stop()
    assert Counter(seen.values()) == expected


def test_workers_share_a_gpu_and_its_memory(monkeypatch):
    monkeypatch.setenv("PALISADE_DEVICE", "auto")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert LocalEngine(per_gpu=3).count("auto") == 6
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    shares: list[float] = []
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", shares.append)
    monkeypatch.setattr(local, "_own_environment", {})
    local.take_gpu("1", per_gpu=2)
    assert shares == [0.5] and os.environ["CUDA_VISIBLE_DEVICES"] == "1"


def process_of(models: list[int]) -> int:
    time.sleep(0.5)
    return os.getpid()


def test_a_run_of_64_models_spreads_over_four_workers():
    items = [(list(range(first, first + 8)),) for first in range(0, 64, 8)]  # as `training.chunks` cuts them
    processes = list(engines.run(process_of, items, 4))
    engines.stop()
    assert len(processes) == 8 and len({*processes}) == 4


def test_every_progress_line_counts_what_workers_report(tmp_path, capfd):
    for unit in ("models", "runs attacked"):  # the same processes, and those of a new pool of the same server
        with Progress(tmp_path, total=2, unit=unit):
            list(engines.run(progress.report, [("run", 1), ("run", 1)], 2))
    engines.stop()
    with Progress(tmp_path, total=2):
        list(engines.run(progress.report, [("run", 1), ("run", 1)], 2))
    list(engines.run(progress.report, [("run", 1), ("run", 1)], 2))  # no line, no file
    engines.stop()
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(" · ")[0] for line in lines] == ["2/2 models", "2/2 runs attacked", "2/2 models"]
    assert not list(tmp_path.iterdir())


WORKER_SCRIPT = """
from palisade.targets import engines
print(sorted(engines.run(divmod, [(7, 2), (9, 2)], 2)), __file__)
"""


def test_script_on_standard_input_has_workers():
    done = subprocess.run([sys.executable, "-"], input=WORKER_SCRIPT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "[(3, 1), (4, 1)] <stdin>\n"), done.stderr


def test_function_of_a_script_on_standard_input_is_named_as_the_cause():
    script = "from palisade.targets import engines\ndef work(k): pass\nlist(engines.run(work, [(1,), (2,)], 2))\n"
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "ValueError: a worker process could not load its work (Can't get attribute 'work'" in done.stderr
    assert "killed" not in done.stderr


def test_script_that_workers_cannot_import_is_named_as_the_cause(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(WORKER_SCRIPT)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert worker.SCRIPT_NOT_IMPORTABLE in done.stderr and local.WORKER_KILLED not in done.stderr
    script.write_text(WORKER_SCRIPT.replace("print", 'if __name__ == "__main__": print'))
    assert subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300).returncode == 0


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
    assert count("auto") == engines.count(1) == 1
    with pytest.raises(ValueError, match=r"^fleet\.workers=2"):
        count(2)
