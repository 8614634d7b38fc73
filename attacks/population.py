"""Attack-P: is the record's loss low among records that the model has certainly not seen?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.blocks import room
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View


class Population(Attack):
    """Score the share of the population with a larger loss under the target (Ye et al. 2022, Attack P).

    It ranks exactly as the loss does, but gives its error rate: 1 − score is a p-value, so an attack that accuses
    where it is at most f is wrong about a share f of non-members, to within 1/(n + 1) of n population records. A
    shadow is not needed, the population is: members among it would make all others look like non-members.

    Records between the same two population losses tie, all below the smallest one in particular; their own order
    then decides, by less than one step of the share.
    """

    name = "population"
    idea = "Compares the record with others that were surely not used: does the model fit it better than most of these?"
    threat = ThreatModel(outputs="top-k", population=True)

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        assert view.population is not None
        losses, of_population = view.loss[:, :, 0], view.population.loss[:, :, 0]
        scores = room(losses.shape)
        for own, loss, population in zip(scores, losses, of_population, strict=True):
            own[:] = _share_above(loss, population)
        return scores


def _share_above(
    loss: Float[np.ndarray, "records"], population: Float[np.ndarray, "population"]
) -> Float[np.ndarray, "records"]:
    """(Population records with a larger loss + a fraction that breaks ties) / (n + 1)."""
    larger = len(population) - np.searchsorted(np.sort(population), loss, side="right")
    distinct, rank = np.unique(loss, return_inverse=True)
    return (larger + 1 - (rank + 1) / (len(distinct) + 1)) / (len(population) + 1)
