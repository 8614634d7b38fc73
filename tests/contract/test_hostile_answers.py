"""Answers that are finite but hostile: every attack of `conf/attack` scores them without a warning or an infinity."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from scipy.special import softmax
from simulated_texts import TEXT_ATTACK_NAMES

from palisade.attacks import Attack, View

pytestmark = pytest.mark.slow

CONF_FOLDER = Path(__file__).parents[2] / "conf"
ATTACK_LISTS = ("quick", "standard", "full")
ATTACK_NAMES = sorted(
    {path.stem for path in (CONF_FOLDER / "attack").glob("*.yaml")} - {*ATTACK_LISTS, *TEXT_ATTACK_NAMES}
)
FLEET_MODELS, FLEET_RECORDS, POPULATION_RECORDS, FEATURE_COUNT, CLASS_COUNT = 8, 60, 40, 3, 3
ATTACK_SETTINGS = {"boundary": {"budget": 60}}


def attack_of(name: str) -> Attack:
    with initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        node: Any = compose("evaluate", overrides=[f"attack=[{name}]"]).attack[name]
    attack: Attack = instantiate(node, **ATTACK_SETTINGS.get(name, {}))
    return attack


def plain_view() -> View:
    """A fleet of linear classifiers that favor their members."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(FLEET_RECORDS + POPULATION_RECORDS, FEATURE_COUNT)).astype(np.float32)
    y, weights = rng.integers(CLASS_COUNT, size=len(x)), rng.normal(size=(FLEET_MODELS, FEATURE_COUNT, CLASS_COUNT))
    members = rng.random((FLEET_MODELS, FLEET_RECORDS)) < 0.5
    z = np.einsum("nf,mfc->mnc", x, weights)
    z[:, :FLEET_RECORDS] += 2 * members[:, :, None] * np.eye(CLASS_COUNT)[y[:FLEET_RECORDS]]
    z = np.stack([z, z + rng.normal(0, 0.1, z.shape)], axis=2).astype(np.float32)
    norms = rng.random((FLEET_MODELS, FLEET_RECORDS, 2))
    return View(
        logits=z[:, :FLEET_RECORDS], labels=y[:FLEET_RECORDS], membership=members, features=x[:FLEET_RECORDS],
        population_logits=z[:, FLEET_RECORDS:],
        population_labels=y[FLEET_RECORDS:], population_features=x[FLEET_RECORDS:],
        query=lambda model, inputs: inputs.reshape(len(inputs), -1) @ weights[model],
        gradient_norms=norms, activation_norms=norms, alignment=norms[:, :, 0], trajectory=norms,
        unguarded_logits=z[:, :FLEET_RECORDS, 0],
    )  # fmt: skip


def with_logits(view: View, change: Any) -> View:
    changed = {name: change(getattr(view, name)) for name in ("logits", "population_logits", "unguarded_logits")}
    return replace(view, **changed)


def with_probabilities(view: View, change: Any) -> View:
    probabilities = {
        f"{who}probabilities": change(softmax(getattr(view, f"{who}logits"), axis=-1)) for who in ("", "population_")
    }
    return replace(view, logits=None, population_logits=None, **probabilities)


def huge_in_one(size: float) -> Any:
    """The answers of one model about every third record are of that size."""

    def change(z: np.ndarray) -> np.ndarray:
        z = z.astype(np.float64)
        z[0, ::3] = size * np.sign(z[0, ::3])
        return z

    return change


def largest(p: np.ndarray) -> np.ndarray:
    return np.where(p >= p.max(axis=-1, keepdims=True), p, 0)


HOSTILE_ANSWERS: dict[str, Any] = {
    "float16 logits": lambda view: with_logits(view, lambda z: (2000 * z).astype(np.float16)),
    "float16 probabilities": lambda view: with_probabilities(view, lambda p: (p**40).astype(np.float16)),
    "logits of 1e30": lambda view: with_logits(view, lambda z: np.float32(1e30) * z),
    "logits of 1e300": lambda view: with_logits(view, lambda z: 1e300 * z.astype(np.float64)),
    "one model of 1e30": lambda view: with_logits(view, huge_in_one(1e30)),
    "one model of 1e308": lambda view: with_logits(view, huge_in_one(1e308)),
    "logits of zero": lambda view: with_logits(view, np.zeros_like),
    "constant logits": lambda view: with_logits(view, lambda z: 7 + np.arange(CLASS_COUNT, dtype=z.dtype) + 0 * z),
    "probabilities of zero": lambda view: with_probabilities(view, np.zeros_like),
    "zeros and ones": lambda view: with_probabilities(view, np.round),
    "top 1": lambda view: replace(with_probabilities(view, largest), top_k=1),
    "denormal probabilities": lambda view: with_probabilities(view, lambda p: p * np.float32(1e-44)),
    "all of one class": lambda view: replace(
        view, logits=None, population_logits=None,
        predictions=np.zeros(view.logits.shape[:3], dtype=np.int64),
        population_predictions=np.zeros(view.population_logits.shape[:3], dtype=np.int64),
    ),
}  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE_ANSWERS)
@pytest.mark.parametrize("name", ATTACK_NAMES)
def test_no_warning_and_no_infinity(name: str, hostile: str) -> None:
    view, attack = HOSTILE_ANSWERS[hostile](plain_view()), attack_of(name)
    if (reason := attack.missing(view)) is not None:
        pytest.skip(reason)
    with warnings.catch_warnings(), np.errstate(all="warn", under="ignore"):
        warnings.simplefilter("error")
        scores = attack.score(view)
    assert not np.isinf(scores).any()
    assert not np.isnan(scores).all(), "no score at all"
