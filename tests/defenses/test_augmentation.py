"""Augmented copies are what they are said to be, in training alone, and the same alone and in a stack."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from palisade.data.draws import Draws
from palisade.data.loaders import Batch
from palisade.data.secret import Secret
from palisade.defenses.augmentation import Augmentation
from palisade.targets.networks import MLP


def draws(step=0, models=(0,), stacked=False) -> Draws:
    return Draws(secret=Secret.from_text("copies"), models=list(models), step=step, stacked=stacked)


def batch_of(x) -> Batch:
    y = torch.zeros(len(x), dtype=torch.int64)
    return Batch(x, y, torch.ones_like(y, dtype=torch.bool), y)


def copies(kind, amount, x, step=0):
    batch = batch_of(x)
    changed = Augmentation(kind=kind, amount=amount).inputs(batch, draws(step))
    assert all(a is b for a, b in zip(changed[1:], batch[1:], strict=True))  # nothing but x
    assert changed.x.dtype == torch.float32
    return changed.x


def test_bits_are_flipped_with_the_probability_of_the_setting():
    x = (torch.rand(400, 100) < 0.2).float()
    flipped = (copies("bits", 0.1, x) != x).float()
    assert stats.binomtest(int(flipped.sum()), x.numel(), 0.1).pvalue > 1e-3
    assert stats.binomtest(int(flipped[x == 1].sum()), int(x.sum()), 0.1).pvalue > 1e-3
    assert set(copies("bits", 0.5, x).unique().tolist()) == {0.0, 1.0}


def test_noise_is_normal_with_the_deviation_of_the_setting():
    noise = (copies("gaussian", 0.3, torch.full((200, 50), 2.0)) - 2) / 0.3
    assert stats.kstest(noise.flatten().numpy(), stats.norm.cdf).pvalue > 1e-3


@settings(deadline=None, max_examples=30)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(4, 6), st.integers(4, 6)),
    most=st.integers(1, 3),
    step=st.integers(0, 99),
)
def test_images_are_shifted_and_mirrored(shape, most, step):
    """Every copy is one of the possible ones, made one by one."""
    x = torch.rand(6, *shape) + 1
    _, height, width = shape
    for image, copy in zip(x.numpy(), copies("crop_flip", most, x, step).numpy(), strict=True):
        framed = np.pad(image, ((0, 0), (most, most), (most, most)))
        shifted = [
            framed[:, down : down + height, right : right + width]
            for down in range(2 * most + 1)
            for right in range(2 * most + 1)
        ]
        assert any(np.array_equal(copy, way) for one in shifted for way in (one, one[:, :, ::-1]))


def test_every_shift_and_mirror_image_is_equally_likely():
    """One bright pixel tells the shift; a second one to its right, darker, tells which way the image looks."""
    image = torch.zeros(1, 5, 5)
    image[0, 2, 2], image[0, 2, 3] = 2, 1
    shifted = copies("crop_flip", 1, image.expand(3600, 1, 5, 5))[:, 0]
    bright = (shifted == 2).flatten(1).float().argmax(1)
    mirrored = shifted.flatten(1).gather(1, (bright - 1).unsqueeze(1)).squeeze(1) == 1
    counts = torch.bincount(bright * 2 + mirrored, minlength=50).numpy()
    assert (counts > 0).sum() == 18 and stats.chisquare(counts[counts > 0]).pvalue > 1e-3


@pytest.mark.parametrize(("kind", "amount"), [("bits", 0.3), ("gaussian", 0.3), ("crop_flip", 2)])
def test_model_in_a_stack_sees_the_copies_it_sees_alone(kind, amount):
    defense, x = Augmentation(kind=kind, amount=amount), torch.randint(2, (2, 6, 1, 4, 5)).float()
    y = torch.zeros(2, 6, dtype=torch.int64)
    stacked = defense.inputs(Batch(x, y, torch.ones_like(y, dtype=torch.bool), y), draws(5, (3, 8), stacked=True)).x
    for k, model in enumerate((3, 8)):
        for rows in (6, 4):  # alone, a batch is not padded
            torch.testing.assert_close(defense.inputs(batch_of(x[k, :rows]), draws(5, (model,))).x, stacked[k, :rows])
    first = defense.inputs(batch_of(x[0]), draws(5, (3,))).x
    for other in (draws(6, (3,)), draws(5, (4,))):
        assert not torch.equal(defense.inputs(batch_of(x[0]), other).x, first)


def test_nothing_is_augmented_after_training(compose, fitting):
    config = compose("data=digits", "trainer.epochs=2", "defense=augmentation", "defense.amount=0.5")
    job = fitting(config, [0])
    dataset, fleet = job.dataset, job.fit()
    plain = MLP(shape=dataset.shape, classes=10, hidden=[128])
    plain.load_state_dict(fleet.states[0])
    x = dataset.x[dataset.split.test]
    expected = plain(torch.from_numpy(x)).detach().numpy()
    assert np.allclose(fleet.predict(x)[0], expected, atol=1e-5)
    assert np.array_equal(fleet.predict(x), fleet.predict(x))


def test_names_the_attack_that_asks_with_such_copies():
    assert Augmentation(kind="crop_flip", amount=2).attacks == ("noise_agreement", "votes", "augmentation_agreement")
    assert Augmentation(kind="bits", amount=0.1).attacks == ("noise_agreement", "votes")
    assert Augmentation(kind="bits", amount=0.1).strength == 0.1


@pytest.mark.parametrize(
    ("kind", "amount", "message"),
    [
        ("rotation", 1, "kind=rotation: expected"),
        ("bits", 0, "amount=0: expected"),
        ("bits", 0.6, "amount=0.6: expected"),
        ("gaussian", -1, "amount=-1: expected"),
        ("gaussian", float("nan"), "amount=nan: expected"),
        ("crop_flip", 0.5, "amount=0.5: expected"),
    ],
)
def test_wrong_settings_are_refused(kind, amount, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Augmentation(kind=kind, amount=amount)


@pytest.mark.parametrize(
    ("kind", "amount", "x", "message"),
    [
        ("bits", 0.1, torch.rand(3, 4), "defense.kind=bits: expected inputs of zeros and ones; choose"),
        (
            "crop_flip",
            1,
            torch.rand(3, 4),
            "defense.kind=crop_flip: expected images (channels, height, width), not record",
        ),
        ("crop_flip", 4, torch.rand(3, 1, 4, 6), "defense.amount=4: expected at most 3 pixels for 4×6 images"),
        (
            "gaussian",
            1,
            torch.ones(3, 4).long(),
            "defense=augmentation: expected inputs of numbers, not of words; choose another",
        ),
    ],
)
def test_records_of_another_kind_are_refused(kind, amount, x, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        copies(kind, amount, x)
    assert "\n" not in str(error.value)
