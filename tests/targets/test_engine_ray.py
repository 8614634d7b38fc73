"""Ray: two raylets without a common folder give the bytes of a plain loop, also when a worker and a node go away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_engines_agree import (
    ON_RAY,
    SMALL_FLEET,
    SPREAD_FLEET,
    THREE_ATTACKS,
    expected,
    logged,
    most_at_once,
    restored,
    trained,
    weights,
)

from palisade.evaluation.measuring import runs
from palisade.evaluation.measuring.runs import results_of
from palisade.targets import engines
from palisade.targets.engines.ray import RayEngine, disconnect
from palisade.targets.progress import Progress
from palisade.targets.run import Run
from palisade.train import composed, train_run

__all__ = ["expected", "restored"]  # fixtures

NODE_SETTINGS: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 100 * 2**20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two raylets of this machine."""
    pytest.importorskip("ray", reason="needs the extra `ray`")
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # or tests beside it leave it no time
    both = Cluster(initialize_head=True, head_node_args={**NODE_SETTINGS, "include_dashboard": False})
    both.add_node(**NODE_SETTINGS)
    yield both
    engines.stop()
    both.shutdown()


def on_ray(cluster: Any) -> tuple[str, ...]:
    return (*ON_RAY, "fleet.workers=4", f"engine.address='{cluster.address}'")


def ray_tasks(title: str = "ray::carried_out") -> list[int]:
    """Processes of this cluster that are at a task; others of this machine may have a cluster of their own."""
    tasks = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith(title):
                tasks.append(process.pid)
    return tasks


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_ray_agrees_to_the_byte_and_never_sees_the_secret(expected: Run, cluster: Any, tmp_path: Path) -> None:
    with Progress(tmp_path, total=32) as line:
        run = trained(tmp_path / "runs", *SMALL_FLEET, *on_ray(cluster), "fleet.workers=2")
    assert weights(run) == weights(expected) and logged(run) == logged(expected) and line.done == 32
    import ray

    assert {job["Entrypoint"] for job in ray._private.state.state.job_table()} == {"palisade"}, "a command line"
    session = Path(cluster.head_node.get_session_dir_path())
    secret = run.secret
    for path in session.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for form in (secret.value, secret.value.hex().encode(), b"unspoken"):
                assert form not in content, path


def test_a_command_may_leave_a_cluster_and_join_it_again(cluster: Any) -> None:
    """In a process of its own: a thread that waits inside Ray while it shuts down is a segmentation fault."""
    script = (
        "from palisade.targets.engines.ray import RayEngine, disconnect\n"
        "for _ in range(3):\n"
        f"    RayEngine(address={cluster.address!r})._connected()\n"
        "    disconnect()\n"
        "print('left')"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (0, "left\n"), ended.stderr


@pytest.mark.slow
def test_keys_come_although_the_desk_is_killed(expected: Run, cluster: Any, tmp_path: Path) -> None:
    RayEngine(address=cluster.address)._connected()
    gone: list[int] = []

    def kill_desk() -> None:
        wait_for(lambda: bool(ray_tasks()))
        gone.extend(ray_tasks("ray::KeyDesk"))
        for process in gone:
            os.kill(process, signal.SIGKILL)

    thread = threading.Thread(target=kill_desk, daemon=True)
    thread.start()
    run = trained(tmp_path, *SMALL_FLEET, *on_ray(cluster))
    thread.join(timeout=60)
    assert gone and weights(run) == weights(expected)


@pytest.mark.slow
def test_an_evaluation_by_ray_is_the_same(expected: Run, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although each attack is another task."""
    monkeypatch.setattr(runs, "MIN_SCORES_TO_CUT", 1)
    monkeypatch.setattr(engines, "count", lambda asked: 2)
    protocol = THREE_ATTACKS
    engines.choose({"_target_": "palisade.targets.engines.ray.RayEngine", "address": cluster.address})
    (there,) = results_of([expected], protocol)
    written = expected.metrics.read_bytes()
    expected.metrics.unlink()
    engines.choose({"_target_": "palisade.targets.engines.local.LocalEngine"})
    monkeypatch.setattr(engines, "count", lambda asked: 1)
    (here,) = results_of([expected], protocol)
    assert here.to_json() == there.to_json() and expected.metrics.read_bytes() == written


@pytest.mark.slow
def test_a_run_of_64_models_spreads_over_four_tasks(cluster: Any, tmp_path: Path) -> None:
    engines.choose({"_target_": "palisade.targets.engines.ray.RayEngine", "address": cluster.address})
    list(engines.run(time.sleep, [(5,)] * 4, 4, []))  # or tasks that wait for a process to start are taken by others
    run, most = most_at_once(lambda: len(ray_tasks()), lambda: trained(tmp_path, *SPREAD_FLEET, *on_ray(cluster)))
    assert len(weights(run)) == 64 and most == 4


@pytest.mark.slow
def test_own_files_that_a_node_lacks_are_named_before_anything_starts(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)  # where a relative place is another one on a node
    settings = {"data": {}, "network": {"_target_": "palisade.targets.networks.MLP", "base": "weights"}}
    engines.choose({"_target_": "palisade.targets.engines.ray.RayEngine", "address": cluster.address})
    with pytest.raises(ValueError, match=r"^network\.base=weights: expected on every node of engine=ray"):
        list(engines.run(print, [(settings,)], 2, []))


@pytest.mark.slow
def test_tasks_end_with_the_command(cluster: Any, tmp_path: Path, expected: Run) -> None:
    engines.choose({"_target_": "palisade.targets.engines.ray.RayEngine", "address": cluster.address})
    results = engines.run(time.sleep, [(0,), (100,), (100,)], 2, [])
    assert next(results) is None
    wait_for(lambda: bool(ray_tasks()))
    results.close()  # as Ctrl-C does
    wait_for(lambda: not ray_tasks())


@pytest.mark.slow
def test_a_killed_worker_and_a_removed_node_lose_nothing(expected: Run, cluster: Any, tmp_path: Path) -> None:
    gone: list[int] = []
    disconnect()  # a driver dies with its own raylet, and to which of two it is connected is chance
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node)
    RayEngine(address=cluster.address)._connected()  # to the head, which stays
    cluster.add_node(**NODE_SETTINGS)

    def take_away() -> None:
        while not list(tmp_path.glob("runs/*/*/models/*.safetensors")) or not (tasks := ray_tasks()):
            time.sleep(0.02)
        gone.append(tasks[0])
        os.kill(gone[0], signal.SIGKILL)
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    thread = threading.Thread(target=take_away, daemon=True)
    thread.start()
    with Progress(tmp_path, total=32) as line:
        run = Run(Path(train_run(composed(f"runs={tmp_path / 'runs'}", *SMALL_FLEET, *on_ray(cluster)))["folder"]))
    thread.join(timeout=120)
    assert gone and len(cluster.list_all_nodes()) == 1
    assert weights(run) == weights(expected) and logged(run) == logged(expected) and line.done == 32
