"""The time to answer does not tell members from others."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import requests
from running_server import DIGIT_IMAGES, running

from palisade.evaluation.statistics.metrics import roc_auc

NO_LIMITS = ("limits.rate=null", "limits.day=null", "limits.budget=null")


@pytest.mark.slow
@pytest.mark.parametrize("guard", ["none", "memguard"])
def test_time_to_answer_is_no_signal(digits_release, tmp_path: Path, guard: str) -> None:
    """The release was trained on most of the digits; those of its reference and test records are the others."""
    from palisade.data.dataset import from_config
    from palisade.train import composed

    split = from_config(composed("data=digits", "split.reference=0.1")).split
    rng = np.random.default_rng(0)
    members, others = rng.permutation(split.pool)[:250], rng.permutation(split.test)[:250]
    asked = rng.permutation(np.concatenate([np.repeat(members, 4), np.repeat(np.resize(others, 250), 4)]))
    is_member = np.isin(asked, members)
    with running(digits_release(guard), f"private={tmp_path}", *NO_LIMITS) as server:
        session, seconds = requests.Session(), []
        for record in asked:
            body = {"instances": DIGIT_IMAGES[record : record + 1].tolist()}
            began = time.perf_counter()
            assert session.post(f"{server.url}/v1/models/released:predict", json=body, timeout=20).ok
            seconds.append(time.perf_counter() - began)
    assert len(asked) == 2000
    auc = float(roc_auc(np.array(seconds), is_member))
    assert max(auc, 1 - auc) <= 0.55
