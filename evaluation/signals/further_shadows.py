"""Shadows that an attack has trained besides the run's own models, as its `View` grants them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Shaped

from palisade.attacks import View
from palisade.data.split import Membership
from palisade.evaluation.signals.grant import Grant
from palisade.targets.run import Run

FurtherShadows = Callable[[int, np.ndarray, np.ndarray, int], View]


def further_shadows(
    run: Run, grant: Grant, answers: Shaped[np.ndarray, "models records *classes"]
) -> FurtherShadows | None:
    """Trains shadows of a run with some memberships fixed, and shows them as attackers see the run's own models.

    None where fixing the memberships of some records would say something on others, or leave nothing to find: they
    must be independent coins, one a record, on the whole pool.

    Args:
        run: a complete run.
        grant: what attackers are granted.
        answers: of the run's models to the pool records, behind its guard.
    """
    split, guard = run.dataset.split, run.made_guard
    persons = split.persons
    single = persons is None or len(np.unique(persons)) == len(persons)
    if Membership(**run.config["membership"]).how != "bernoulli" or len(split.canaries) or not single:
        return None

    def train(
        target: int, inside: Bool[np.ndarray, "records"], outside: Bool[np.ndarray, "records"], shadows: int
    ) -> View:
        from palisade.targets.cascade import Stage

        stage, rest = Stage.of(run.folder, target, inside, outside), ~(inside | outside)
        stage.train(run.config, guard, shadows)
        models = stage.load(run.config, run.dataset, guard, shadows)
        answered = np.concatenate([answers[[target]], models.predict(run.dataset.x[split.pool])])
        membership = stage.membership(run.config, split, range(shadows))
        held_back = [k for k in (grant.top_k, guard.top_k) if k is not None and k < len(run.dataset.classes)]
        return View(
            labels=run.dataset.y[split.pool[rest]],
            membership=np.concatenate([np.zeros((1, rest.sum()), dtype=bool), membership[:, rest]]),
            top_k=min(held_back, default=None),
            **grant.released(answered[:, rest], guard.level),
        )

    return train
