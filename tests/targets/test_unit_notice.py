"""A claim about single records is told at once where persons have several, and by the name of what would fix it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from palisade.data.dataset import from_config
from palisade.targets.job import notice_of_unit
from palisade.train import train_run

PERSON_COUNT, MAX_VISITS = 40, 6


@pytest.fixture
def visits(tmp_path):
    """A table in which the first person has 6 visits, and each other one 1 to 3."""
    rng = np.random.default_rng(0)
    counts = np.r_[MAX_VISITS, 1 + np.arange(PERSON_COUNT - 1) % 3]
    size = int(counts.sum())
    frame = pd.DataFrame({"patient": np.repeat(np.arange(PERSON_COUNT), counts), "a": rng.normal(size=size)})
    frame.assign(sick=rng.choice(["yes", "no"], size)).to_csv(tmp_path / "visits.csv", index=False)
    path = f"data.path={tmp_path / 'visits.csv'}"
    return ["data=csv", path, "data.label=sick", "fleet.models=1"]


def notice(compose, *words):
    settings = compose(*words)
    return notice_of_unit(settings, from_config(settings))


def test_persons_with_several_records_are_reported(compose, visits):
    private = (*visits, "data.person=patient", "defense=dp_sgd", "defense.epsilon=8")
    counts = np.unique(from_config(compose(*private)).split.persons, return_counts=True)[1]
    said = notice(compose, *private)
    assert said is not None and 1 < counts.max() <= MAX_VISITS
    assert said.startswith(f"ε is about single records; {len(counts)} persons have up to {counts.max()} of them")
    assert "defense.records_per_person=<count>" in said
    base = "+defense.base={_target_:palisade.defenses.dp_sgd.DPSGDDefense,epsilon:8}"
    inner = notice(compose, *visits, "data.person=patient", "defense=selena", base)
    assert inner is not None and "defense.base.records_per_person" in inner


@pytest.mark.parametrize(
    "words",
    [
        ("defense=dp_sgd", "defense.epsilon=8"),
        ("data.person=patient", "defense=none"),
        ("data.person=patient", "defense=dp_sgd", "defense.epsilon=inf"),
        ("data.person=patient", "defense=dp_sgd", "defense.epsilon=8", "defense.records_per_person=2"),
    ],
)
def test_no_notice_without_persons_or_a_claim_per_record(compose, visits, words):
    assert notice(compose, *visits, *words) is None


def test_train_says_it_before_anything_is_trained(compose, visits, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("palisade.targets.job.Job.try_out", stop)
    with pytest.raises(KeyboardInterrupt):
        train_run(compose(*visits, "data.person=patient", "defense=dp_sgd", "defense.epsilon=8"))
    assert "ε is about single records" in capsys.readouterr().err
