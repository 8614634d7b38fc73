"""Work comes back, in worker processes or here; what goes wrong comes back as itself."""

from __future__ import annotations

import os

import pytest

from targets import workers


def square(value: int) -> tuple[int, int]:
    if value < 0:
        from hydra.utils import instantiate

        instantiate({"_target_": "defenses.l2.L2", "weight_decay": value})
    return value * value, os.getpid()


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
    with pytest.raises(ValueError, match=r"^defense\.weight_decay=-1 must be above 0"):
        list(workers.run(square, [(-1,), (2,)], 2))
    assert workers._pool is None
    workers.stop()


def test_count_is_given_or_one_per_core():
    assert workers.count(3) == 3
    assert workers.count("auto") == len(os.sched_getaffinity(0))
