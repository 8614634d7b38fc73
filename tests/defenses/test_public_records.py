"""Defenses that teach a student on reference records take inputs from them and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

SMALL_SETTINGS = ["data=digits", "network.hidden=[16]", "split.reference=0.15", "trainer.epochs=2"]


@pytest.mark.parametrize(
    "defense", [["defense=distillation"], ["defense=pate", "defense.teachers=4", "defense.noise_multiplier=1.5"]]
)
def test_classes_of_reference_records_are_not_used(compose, fitting, defense) -> None:
    states = []
    for shift in (0, 1):
        job = fitting(compose(*SMALL_SETTINGS, *defense), [0])
        y = job.dataset.y.copy()
        y[job.split.reference] = (y[job.split.reference] + shift) % 10
        job.fitter = replace(job.fitter, dataset=replace(job.dataset, y=y))
        states.append(job.fit().states[0])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
