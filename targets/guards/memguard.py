"""MemGuard: noise on an answer that makes a membership classifier guess."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from jaxtyping import Float32, Int64
from pydantic import Field

from palisade.data.dataset import Dataset
from palisade.data.split import Split
from palisade.targets.guards import grid, keyed
from palisade.targets.guards.guard import Guard, Query
from palisade.targets.guards.keyed import generators
from palisade.targets.guards.probabilities import predicting, probabilities

if TYPE_CHECKING:
    from torch import Tensor

    from palisade.targets.fleet import Fitter, Fleet

DISCRIMINATOR_PREFIX = "discriminator."


@dataclass(frozen=True, kw_only=True)
class MemGuard(Guard):
    """Adversarial noise against attacks that classify answers (Jia et al. 2019, "MemGuard", section 4).

    A discriminator h learns to distinguish members from reference records by the model's sorted probabilities. For a
    query, the least noise is looked for after which h would change its mind while the predicted class stays. It is
    published with the probability that keeps the expected distortion within a budget, and only where h is nearer to a
    guess with it. That coin belongs to the query, since fresh ones would show the answer with and without noise; so
    does the noise, to the rounding of the model's own logits. It belongs to all inputs in one cell of a grid (`grid`):
    changes of last bits toss no other coin, a change by one step of the grid does.

    It hides nothing that labels reveal (the gap attack), nor anything from attackers who train on guarded answers (Song
    & Mittal 2021, section 5.2), and h changing its mind is itself a sign (`negated_classifier`).

    Args:
        budget: expected L1 distortion of a probability vector, above 0; at 2 nothing is held back.

    Raises:
        ValueError: if the budget is no such number.
    """

    budget: Annotated[float, Field(gt=0, le=2, examples=[1.0])]

    name = "memguard"
    uses_members = True
    attacks = (*Guard.attacks, "negated_classifier")

    @property
    def roles(self) -> frozenset[str]:
        """The reference records, on which the discriminator is fitted."""
        return frozenset({"reference"})

    @property
    def strength(self) -> float:
        """Expected L1 distortion of an answer, at most."""
        return self.budget

    def fit(
        self, model: Fleet, members: Int64[np.ndarray, " members"], fitter: Fitter, split: Split
    ) -> dict[str, Tensor]:
        """The discriminator's weights, and key and grid of the coins.

        Raises:
            ValueError: if there are no members or no reference records, or the model was trained on these.
        """
        from palisade.targets.guards import discriminator  # slow to import, as torch is; reading a guard needs neither

        split.require("reference", who="guard=memguard")
        if fitter.defense.staged and "reference" in fitter.defense.roles:
            name = type(fitter.defense).__name__
            raise ValueError(
                f"guard=memguard: expected reference records that are non-members, and {name} trains on them; choose"
                " another guard"
            )
        x = fitter.dataset.x
        inside, outside = (model.predict(x[records])[0] for records in (members, split.reference))
        weights = discriminator.fit(inside, outside, fitter.secret, fitter.models[0])
        named = {DISCRIMINATOR_PREFIX + name: weight for name, weight in weights.items()}
        return {**keyed.fit(self.name, fitter, split), **named}

    def not_covered(self, dataset: Dataset) -> str | None:
        """Sentence on the grid of queries, where it comes from private records."""
        return grid.not_covered(dataset)

    def answer(self, query: Query) -> Float32[np.ndarray, "records classes"]:
        """Probabilities, with noise where it fools the discriminator and a coin keeps the budget; labels stay."""
        from palisade.targets.guards import adversarial_noise

        weights = {
            name.removeprefix(DISCRIMINATOR_PREFIX): weight.double()
            for name, weight in query.state.items()
            if name.startswith(DISCRIMINATOR_PREFIX)
        }
        noisy, nearer = adversarial_noise.with_noise(query.logits, weights)
        # Logits closer than the noise's grid may have become equal.
        plain, changed = probabilities(query.logits), predicting(query.logits.argmax(axis=-1), probabilities(noisy))
        distortion = np.abs(changed.astype(np.float64) - plain).sum(axis=-1)
        coin = np.array([rng.random() for rng in generators(query.x, query.state)])
        published = nearer & (coin * distortion < self.budget)
        return np.where(published[:, None], changed, plain)
