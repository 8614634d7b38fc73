"""Fleets trained straight from a configuration, without a run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from palisade.data.dataset import Dataset, from_config
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.targets.fleet import Defense, Fitter, Fleet
from palisade.targets.training import make_fitter

TEST_SECRET = Secret.from_text("defenses")


class Fitting:
    """Arguments of a defense's `fit` for some models of a run.

    Args:
        settings: of the run.
        models: their numbers.
        at_once: models of a stack.
        defense: another one, instead of the run's.
    """

    def __init__(
        self, settings: dict[str, Any], models: Sequence[int], at_once: int = 1, defense: Defense | None = None
    ):
        self.dataset: Dataset = from_config(settings)
        membership = Membership(**settings["membership"])
        config = {**settings, "fleet": {"at_once": at_once}}
        fitter = make_fitter(config, self.dataset, TEST_SECRET, models, membership)
        self.fitter: Fitter = fitter if defense is None else replace(fitter, defense=defense)
        self.split = self.dataset.split
        self.membership: np.ndarray = membership.draw(self.split, models, TEST_SECRET)

    @property
    def defense(self) -> Defense:
        return self.fitter.defense

    def fit(self) -> Fleet:
        return self.defense.fit(self.fitter, self.split, self.membership)


@pytest.fixture
def fitting() -> type[Fitting]:
    return Fitting


@pytest.fixture
def known_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """DP-SGD with σ = 2, whatever ε is asked for: calibration takes seconds, and has tests of its own."""
    monkeypatch.setattr("palisade.defenses.dp_sgd.mechanism.calibrate", lambda *_: 2.0)
    monkeypatch.setattr("palisade.defenses.dp_sgd.mechanism.privacy_curve", lambda *_: ())
