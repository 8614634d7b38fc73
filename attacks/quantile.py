"""Quantile regression: is the record fitted better than non-members like it?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Real
from sklearn.decomposition import PCA
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import RidgeCV

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.blocks import blocks, in_blocks
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View
from palisade.fields import Seed

LEAST_POPULATION = 20  # records; of fewer, a regression learns nothing
PRINCIPAL_COMPONENTS = 32  # principal components of the records
LANDMARK_RECORDS = 500  # population records that a record is compared with
KERNEL_EXPONENT = (
    0.5  # exponent of the kernel between records at unit distance; another class is two squared units away
)
RIDGE_PENALTIES = np.logspace(-2, 3, 11)
LEAST_ERROR = 0.01  # of the φ's own spread: what smaller errors count as, before taking logarithms


@dataclass(frozen=True, kw_only=True)
class Quantile(Attack):
    """Score (φ − μ(x, y))/σ(x, y): the level of the quantile that a record's log-odds reach among non-members like it.

    Bertran et al. 2023, "Scalable Membership Inference Attacks via Quantile Regression", section 3, in its Gaussian
    form: the mean and the spread of φ given the record are learnt on the population alone, by kernel ridge regression.
    Hard records then no longer hide behind easy ones, though not one shadow model is trained.

    Args:
        seed: of the population records that others are compared with.
    """

    seed: Seed = 0

    name = "quantile"
    idea = (
        "Learns from records that were not used how well the model fits such a record, and looks for those"
        " fitted better."
    )
    threat = ThreatModel(outputs="top-k", population=True, features=True)

    def missing(self, view: View) -> str | None:
        """The reason why it is skipped: besides its needs, too few population records to regress on."""
        if (reason := super().missing(view)) is not None:
            return reason
        if view.population_features is None:
            return "needs the population records themselves; pass population_features"
        if (size := len(view.population_features)) < LEAST_POPULATION:
            return f"needs population records to regress on; population={size} is below {LEAST_POPULATION}, take more"
        return None

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        population, known, records = view.population, view.population_features, view.features
        assert population is not None and known is not None and records is not None
        reduction = PCA(min(PRINCIPAL_COMPONENTS, known[0].size, len(known)), random_state=self.seed).fit(_flat(known))
        unit = max(np.sqrt(reduction.explained_variance_.sum()), 1e-12)
        kernel = Nystroem(gamma=KERNEL_EXPONENT, n_components=min(LANDMARK_RECORDS, len(known)), random_state=self.seed)

        def described(x: Real[np.ndarray, "n *shape"], labels: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n d"]:
            return np.hstack([reduction.transform(_flat(x)) / unit, np.equal.outer(labels, np.arange(view.classes))])

        # In float64, as φ is: a regression on float32 would round φ to it, where large ones overflow.
        fitted_on = kernel.fit_transform(described(known, population.labels))
        phi = population.log_odds[:, :, 0].T
        mean = RidgeCV(RIDGE_PENALTIES, alpha_per_target=True, store_cv_results=True).fit(fitted_on, phi)
        errors = np.sqrt(mean.cv_results_)  # of each population record, by a regression without it
        best = mean.cv_results_.mean(axis=0).argmin(axis=-1)
        error = np.take_along_axis(errors, best[None, :, None], axis=-1)[:, :, 0]
        floor = np.maximum(LEAST_ERROR * phi.std(axis=0), 1e-12)
        spread = RidgeCV(RIDGE_PENALTIES, alpha_per_target=True).fit(fitted_on, np.log(error + floor))
        log_odds = view.log_odds[:, :, 0]

        def score(block: slice) -> Float[np.ndarray, "models block"]:
            seen = kernel.transform(described(records[block], view.labels[block]))
            return (log_odds[:, block] - mean.predict(seen).T) / np.exp(spread.predict(seen).T)

        rows = max(view.models, kernel.n_components, known[0].size)
        return in_blocks(log_odds.shape, blocks(rows, view.records), score)


def _flat(x: Real[np.ndarray, "n *shape"]) -> Float[np.ndarray, "n d"]:
    return x.reshape(len(x), -1).astype(np.float64)
