"""Targets of one run attacked with shadow models of another: the attacker does not know the recipe."""

from __future__ import annotations

from typing import Any

import numpy as np

from palisade.attacks import View

ANSWERS = ("logits", "probabilities", "predictions")


def mismatch_view(targets: View, shadows: View) -> View:
    """A view in which the shadows of every target are all models of another run, and no others.

    The targets come first and are left out together; only their rows of scores mean anything. Gradients and checkpoints
    are left behind: other networks have other layers.

    Args:
        targets: the models that are attacked.
        shadows: models whose membership was drawn independently of the targets'.

    Raises:
        ValueError: if the two do not answer about the same records at the same output level.
    """
    _check(targets, shadows, "records", "labels")
    _check(targets, shadows, "population records", "population_labels")
    if (targets.outputs, targets.top_k) != (shadows.outputs, shadows.top_k):
        raise ValueError(f"outputs={targets.outputs} and {shadows.outputs} differ; grant both runs the same level")
    own = np.arange(shadows.models) if shadows.groups is None else np.unique(shadows.groups, return_inverse=True)[1]
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(targets, name), getattr(shadows, name)])
        for name in ("membership", *ANSWERS, *(f"population_{answer}" for answer in ANSWERS), "unguarded_logits")
        if getattr(targets, name) is not None
    }

    def query(model: int, x: np.ndarray) -> np.ndarray:
        assert targets.query is not None and shadows.query is not None
        return targets.query(model, x) if model < targets.models else shadows.query(model - targets.models, x)

    return View(
        labels=targets.labels,
        top_k=targets.top_k,
        population_labels=targets.population_labels,
        features=targets.features,
        population_features=targets.population_features,
        query=None if targets.query is None or shadows.query is None else query,
        groups=np.concatenate([np.zeros(targets.models, dtype=np.int64), 1 + own]),
        persons=targets.persons,
        **joined,
    )


def same_secret(target: str, shadows: str) -> str:
    """The reason why two runs made with one secret are no pair of targets and shadows."""
    return (
        f"target={target} and shadows={shadows} were made with the same secret, hence with the same membership: the"
        " shadows would give the targets' members away; train one of them without secret=…"
    )


def _check(targets: View, shadows: View, noun: str, name: str) -> None:
    one, other = getattr(targets, name), getattr(shadows, name)
    if (one is None) != (other is None) or (one is not None and not np.array_equal(one, other)):
        raise ValueError(f"{name} differ between targets and shadows; choose runs with the same {noun}: data and seed")
