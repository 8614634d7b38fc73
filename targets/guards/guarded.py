"""Models behind a guard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Real, Shaped
from torch import Tensor

from palisade.targets.fleet import Fleet
from palisade.targets.guards.guard import Guard, Query


class Guarded:
    """A fleet, each model behind the guard that was fitted to it.

    Args:
        fleet: the models.
        guard: which one.
        states: what it learned about each of them.
    """

    def __init__(self, fleet: Fleet, guard: Guard, states: Sequence[Mapping[str, Tensor]]) -> None:
        self.fleet, self.guard, self.states = fleet, guard, states

    def one(self, position: int) -> Guarded:
        """A single one of these models."""
        return Guarded(self.fleet.one(position), self.guard, [self.states[position]])

    def predict(
        self,
        x: Real[np.ndarray, "records ..."],
        logits: Float32[np.ndarray, "models records classes"] | None = None,
    ) -> Shaped[np.ndarray, "models records *classes"]:
        """Answers of every model's guard.

        Args:
            x: the inputs.
            logits: of the models, where they are known already.
        """
        logits = self.fleet.predict(x) if logits is None else logits
        return np.stack(
            [
                self.guard.answer(Query(x, np.asarray(of_model), state, self._asker(position)))
                for position, (of_model, state) in enumerate(zip(logits, self.states, strict=True))
            ]
        )

    def _asker(self, position: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda x: self.fleet.one(position).predict(x)[0]
