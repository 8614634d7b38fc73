"""Random numbers of a step are a model's own, alone and in a stack."""

from __future__ import annotations

import torch

from palisade.data.draws import Draws
from palisade.data.secret import Secret

TEST_SECRET = Secret.from_text("draws")


def draws(models, step=3, stacked=True, secret=TEST_SECRET):
    return Draws(secret=secret, models=models, step=step, stacked=stacked)


def normal(rows):
    return lambda rng: rng.normal(size=(rows, 2))


def test_model_draws_the_same_alone_and_in_a_stack():
    stacked = draws([4, 5, 6])("x", normal(3))
    assert stacked.shape == (3, 3, 2)
    assert torch.equal(draws([5], stacked=False)("x", normal(3)), stacked[1])


def test_padded_rows_change_nothing_for_the_others():
    assert torch.equal(draws([5])("x", normal(9))[:, :3], draws([5])("x", normal(3)))


def test_every_model_step_purpose_and_stage_has_numbers_of_its_own():
    drawn = [
        draws([0])("x", normal(3)),
        draws([1])("x", normal(3)),
        draws([0], step=4)("x", normal(3)),
        draws([0])("y", normal(3)),
        draws([0], secret=TEST_SECRET.stage("teacher"))("x", normal(3)),
    ]
    assert len({tuple(values.flatten().tolist()) for values in drawn}) == len(drawn)
