"""The white-box classifier: gradients and activations in every layer, as shadow models taught it to read them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, Int

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.cross_fitting import boosted_trees, cross_fit
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View
from palisade.fields import Seed

MIN_NORM = 1e-12  # of a norm: a saturated layer has none, and its logarithm would be −∞


@dataclass(frozen=True, kw_only=True)
class WhiteBox(Attack):
    """Score: log-odds of membership by a classifier fitted on shadows (Nasr et al. 2019, sections 3 and 4).

    It sees the norms of each layer's gradient and output besides φ and the loss. What training fits is separated from
    what is easy by where in the network the loss still pulls, which no restriction of the outputs hides from those who
    hold the weights. Boosted trees take the place of the paper's neural network: they need no tuning.

    Args:
        seed: of the (model, record) pairs that the classifier is fitted on.
    """

    seed: Seed = 0

    name = "white_box"
    idea = "Holds the weights, and learns from models of its own how members show inside the network."
    threat = ThreatModel(outputs="top-k", shadows="online", gradients=True)

    def missing(self, view: View) -> str | None:
        """The reason why this attack is skipped on this view, None if it can run."""
        if view.activation_norms is None and view.signals is None:
            return "needs the norms of activations; threat=white_box grants them"
        return super().missing(view)

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        of_gradients, of_activations = view.gradient_norms, view.activation_norms
        assert of_gradients is not None and of_activations is not None

        def features(model: int, records: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n d"]:
            norms = (every[model, records] for every in (of_gradients, of_activations))
            logarithms = [np.log(np.maximum(of_layers, MIN_NORM)) for of_layers in norms]
            return np.concatenate([*logarithms, view.log_odds[model, records], view.loss[model, records]], axis=-1)

        return cross_fit(
            features,
            view.membership,
            view.others,
            partial(boosted_trees, self.seed),
            parts=view.parts,
            seed=self.seed,
        )
