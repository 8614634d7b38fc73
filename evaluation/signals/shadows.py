"""Shadow models besides a run's own: further ones that an attack trains, and those of another run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

from palisade.attacks import View
from palisade.attacks.parts.answers import MappedAnswers
from palisade.attacks.parts.outputs import ANSWER_FIELDS
from palisade.attacks.parts.tokens import TokenAnswers
from palisade.data.split import Membership
from palisade.evaluation.signals.grant import Grant
from palisade.targets.run import Run

FurtherShadows = Callable[[int, np.ndarray, np.ndarray, int], View]


def further_shadows(run: Run, grant: Grant, answers: MappedAnswers) -> FurtherShadows | None:
    """Trains shadows of a run with some memberships fixed, and shows them as attackers see the run's own models.

    None where `can_train_further` says so.

    Args:
        run: a complete run.
        grant: what attackers are granted.
        answers: of the run's models to the pool records, behind its guard.
    """
    split, guard = run.dataset.split, run.registered_guard
    if not can_train_further(run):
        return None

    def train(
        target: int, inside: Bool[np.ndarray, "records"], outside: Bool[np.ndarray, "records"], shadows: int
    ) -> View:
        from palisade.targets.cascade import Stage

        stage, rest = Stage.of(run.folder, target, inside, outside), ~(inside | outside)
        stage.train(run.config, guard, shadows)
        models = stage.load(run.config, run.dataset, guard, shadows)
        answered = np.concatenate([answers.of(target)[None], models.predict(run.dataset.x[split.pool])])
        membership = stage.membership(run.config, split, range(shadows))
        held_back = [k for k in (grant.top_k, guard.top_k) if k is not None and k < len(run.dataset.classes)]
        return View(
            labels=run.dataset.y[split.pool[rest]],
            membership=np.concatenate([np.zeros((1, rest.sum()), dtype=bool), membership[:, rest]]),
            top_k=min(held_back, default=None),
            **grant.released(answered[:, rest], guard.level),
        )

    return train


def can_train_further(run: Run) -> bool:
    """False where fixing the memberships of some records would say something on others, or leave nothing to find.

    They must be independent coins, one a record, on the whole pool.

    Args:
        run: a complete run.
    """
    split = run.dataset.split
    single = split.persons is None or len(np.unique(split.persons)) == len(split.persons)
    return bool(Membership(**run.config["membership"]).how == "bernoulli" and not len(split.canaries) and single)


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
    if (targets.signals is None) != (shadows.signals is None):
        raise ValueError(
            "fleet.keep=signals: expected of both runs, targets and shadows, or of none; train one of them with"
            " fleet.keep=both"
        )
    if (targets.outputs, targets.top_k) != (shadows.outputs, shadows.top_k):
        raise ValueError(
            f"outputs={targets.outputs}: expected {shadows.outputs}, as of the shadows; grant both runs the same level"
        )
    own = np.arange(shadows.models) if shadows.groups is None else np.unique(shadows.groups, return_inverse=True)[1]
    joined: dict[str, Any] = {
        name: _joined(getattr(targets, name), getattr(shadows, name))
        for name in (
            "membership",
            *ANSWER_FIELDS,
            *(f"population_{answer}" for answer in ANSWER_FIELDS),
            "unguarded_logits",
            "tokens",
            "population_tokens",
        )
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


def _joined(
    targets: Shaped[np.ndarray, "targets ..."] | MappedAnswers | TokenAnswers,
    shadows: Shaped[np.ndarray, "shadows ..."] | MappedAnswers | TokenAnswers,
) -> Shaped[np.ndarray, "models ..."] | MappedAnswers | TokenAnswers:
    if isinstance(targets, MappedAnswers) and isinstance(shadows, MappedAnswers):
        return targets.beside(shadows)
    if isinstance(targets, TokenAnswers) and isinstance(shadows, TokenAnswers):
        return targets.beside(shadows)
    return np.concatenate([np.asarray(targets), np.asarray(shadows)])


def _check(targets: View, shadows: View, noun: str, name: str) -> None:
    one, other = getattr(targets, name), getattr(shadows, name)
    if (one is None) != (other is None) or (one is not None and not np.array_equal(one, other)):
        raise ValueError(f"{name} differ between targets and shadows; choose runs with the same {noun}: data and seed")
