"""Baselines beside results: a linear model, copies of records, the spread of models, a blind classifier."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.stats import rankdata, t

from palisade.attacks import View
from palisade.attacks.parts.signals import centers_and_spreads
from palisade.data.dataset import Dataset
from palisade.evaluation.result import AUC, GUESSING_AUC, Row
from palisade.evaluation.statistics.metrics import roc_auc
from palisade.evaluation.utility import CALIBRATION_METRIC, measures

DUPLICATE_SHARE = "duplicates"
"""The name of a metric: share of the records with a copy in the pool."""
LOG_ODDS_SPREAD = "log_odds_spread"
"""The name of a metric: the spread of a model's log-odds over the median model's."""
SPREAD_RATIO = 10
"""A spread so many times that of the median model, or as small a part of it, is another kind of model's."""
LINEAR_RECORDS, LINEAR_STEPS = 5_000, 20
"""Enough for a level to compare with, in about two seconds at most."""


def of_base(metric: str) -> str:
    """The name of a metric of the public model that training began with, such as `base_test_perplexity`."""
    return f"base_{metric}"


def linear(metric: str) -> str:
    """The name of a metric of a linear model, such as `linear_test_accuracy`."""
    return f"linear_{metric}"


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearInputs:
    """Inputs and labels that a linear model is fitted to and tested on.

    Args:
        x: inputs of drawn records of the pool, flattened.
        y: their labels.
        test: inputs of the test records.
    """

    x: Float[np.ndarray, "records features"]
    y: Int[np.ndarray, "records"]
    test: Float[np.ndarray, "tested features"]


def linear_inputs(dataset: Dataset, size: int, seed: int) -> LinearInputs | None:
    """Records for a linear model, N of the pool but at most 5,000; None where inputs are words or nothing is to learn.

    Args:
        dataset: whose inputs are numbers.
        size: N, the public size of a model's training set.
        seed: public; draws the records.
    """
    split = dataset.split
    drawn = np.random.default_rng(seed).permutation(split.pool)[: min(size, LINEAR_RECORDS)]
    if dataset.x.dtype.kind != "f" or not len(split.test) or len(np.unique(dataset.y[drawn])) < 2:
        return None
    x, test = (dataset.x[records].reshape(len(records), -1) for records in (drawn, split.test))
    return LinearInputs(x=x, y=dataset.y[drawn], test=test)


def mean_utilities(
    dataset: Dataset, answers: Float[np.ndarray, "models tested classes"], named: Callable[[str], str]
) -> Mapping[str, float]:
    """Utility of probabilities on the test records by every measure that is defined, under another name each."""
    contributions = measures(answers, dataset.y[dataset.split.test], "probabilities")
    means = {metric: float(values.mean()) for metric, values in contributions.items() if metric != CALIBRATION_METRIC}
    return {named(metric): mean for metric, mean in means.items() if not np.isnan(mean)}


@lru_cache(maxsize=2)
def linear_utilities(dataset: Dataset, size: int, seed: int) -> Mapping[str, float]:
    """Utility by every measure of multinomial logistic regression on the inputs of the networks, without protection.

    Args:
        dataset: whose inputs are numbers; nothing is measured where they are words.
        size: N, the public size of a model's training set; as many records of the pool are drawn, at most 5,000.
        seed: public; draws them.
    """
    if (inputs := linear_inputs(dataset, size, seed)) is None:
        return {}
    from sklearn.exceptions import ConvergenceWarning  # slow to import; flags of measured runs need none of it
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=LINEAR_STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(inputs.x, inputs.y)
    answers = np.zeros((1, len(inputs.test), len(dataset.classes)))
    answers[0][:, model.classes_] = model.predict_proba(inputs.test)
    return mean_utilities(dataset, answers, linear)


@lru_cache(maxsize=2)
def duplicated_share(dataset: Dataset) -> float:
    """Share of the audited records with an exact copy, input and label, among the pool's other records.

    A model that was trained on the copy was trained on the record as well, whatever its membership says: attacks are
    told that they are wrong where they are right. A person's copies of a record share its fate and do not count.
    """
    split = dataset.split
    owner = split.pool if split.persons is None else split.persons
    _, content = np.unique(
        [content_digest(dataset.x[record], dataset.y[record]) for record in split.pool.tolist()], return_inverse=True
    )
    owned = np.unique(np.column_stack([content, owner]), axis=0)[:, 0]
    owners = np.bincount(owned)[content]
    return float((owners[split.is_audited] > 1).mean())


def content_digest(row: np.ndarray, label: int | np.integer | np.ndarray) -> bytes:
    """16 bytes that records share whose input and label are the same."""
    content = hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=16)
    content.update(np.asarray(label, dtype="<i8").tobytes())
    return content.digest()


def spread_rows(seen: View) -> Iterator[Row]:
    """The spread of every model's log-odds beside the median model's; one row without a value where none is defined."""
    if seen.outputs == "label" or seen.models == 1:
        return
    if (measured := centers_and_spreads(seen.log_odds)) is None:
        yield Row(metric=LOG_ODDS_SPREAD, value=None)
        return
    _, spread = measured
    for model, value in enumerate(spread[:, 0] / np.median(spread[:, 0])):
        yield Row(metric=LOG_ODDS_SPREAD, model=model, value=float(value))


MAX_FITTED_RECORDS = 5_000
"""Records that the blind baseline is fitted on; more cost time and change little."""
PCA_COMPONENTS = 64
CROSS_FITTING_FOLDS = 5
MOST_DRAWN = 19
"""Permutations at most: if none of them reaches the real AUC, sides are random with a probability of 1 in 20."""
Members = Bool[np.ndarray, "records"]
Scores = Float[np.ndarray, "records"]


@dataclass(frozen=True, kw_only=True, eq=False)
class BlindTest:
    """Result of the blind baseline on records of two sides.

    Args:
        scores: higher = more likely a member; NaN for what exceeds 5,000 records, drawn at random.
        p: the probability of so large an AUC where sides are random, at most.
        spread: standard deviation of the AUC over random sides; None where no difference shows, and few were tried.
    """

    scores: Scores
    p: float
    spread: float | None

    def widened(self, row: Row) -> Row:
        """The row; of an AUC with an interval that counts how much the fits differ from one draw of sides to another.

        Scores of several fits are no independent ones, so that an interval over records alone is too narrow. Where no
        difference shows there is none: the p-value stands for it.
        """
        if row.metric != AUC or row.value is None:
            return row
        if self.spread is None:
            return replace(row, low=None, high=None)
        half = float(t.ppf(0.975, MOST_DRAWN - 1)) * self.spread
        low, high = row.value - half, row.value + half
        return replace(
            row,
            low=max(0.0, low if row.low is None else min(row.low, low)),
            high=min(1.0, high if row.high is None else max(row.high, high)),
        )


def blind_test(
    features: Shaped[np.ndarray, "records ..."] | None,
    labels: Int[np.ndarray, "records"],
    members: Members,
    persons: Int[np.ndarray, "records"] | None = None,
) -> BlindTest:
    """Test of whether members and non-members differ by themselves, by permuting membership and fitting anew.

    Records of one distribution differ in nothing but their use in training. Where this classifier succeeds, members
    and non-members differ by themselves, and every attack may only be seeing that difference (Das, Zhang & Tramèr 2024,
    "Blind Baselines Beat Membership Inference Attacks for Foundation Models").

    Args:
        features: the records; None: only their classes are compared.
        labels: the true classes.
        members: which records the model was trained on.
        persons: whose record each one is, at least 5 persons a side, each on one side; None: each another person's.
    """
    drawn = np.random.default_rng(0).permutation(len(labels))[:MAX_FITTED_RECORDS]
    seen, unit = _inputs(features, labels, drawn), None if persons is None else persons[drawn]
    own = _scores(seen, members[drawn], unit)
    p, spread = permutation_test(lambda sides: _scores(seen, sides, unit), members[drawn], unit, own)
    scores = np.full(len(labels), np.nan)
    scores[drawn] = own
    return BlindTest(scores=scores, p=p, spread=spread)


def distinct_texts(view: View) -> Members:
    """The first of all copies of each text on one side, which alone tell something new; of other records all.

    A fit on some copies would know the side of the others.

    Args:
        view: of one model; features of texts are counts of their words.
    """
    first = np.ones(view.records, dtype=np.bool_)
    if view.tokens is not None and view.features is not None and view.persons is None:
        content = np.column_stack([view.features, view.membership[0]])
        first[:] = False
        first[np.unique(content, axis=0, return_index=True)[1]] = True
    return first


def permutation_test(
    score: Callable[[Members], Scores], members: Members, persons: Int[np.ndarray, "records"] | None, own: Scores
) -> tuple[float, float | None]:
    """The p-value of the real sides among permuted ones, and the spread of the AUC over these if it is at most 0.05.

    At 0.05 the test holds its level whatever the classifier: where sides are random, the real ones are one draw like
    the others. It stops at the first permutation that reaches the real AUC (Besag & Clifford 1991, "Sequential Monte
    Carlo p-values").

    Args:
        score: fits and scores, given the sides.
        members: the real sides.
        persons: whose record each one is; sides are permuted among persons. None: among records.
        own: scores by the real sides.
    """
    rng, real = np.random.default_rng(1), roc_auc(own, members)
    if real <= GUESSING_AUC:
        return 1.0, None
    unit = np.arange(len(members)) if persons is None else persons
    _, first, person = np.unique(unit, return_index=True, return_inverse=True)
    aucs: list[float] = []
    while len(aucs) < MOST_DRAWN:
        sides = rng.permutation(members[first])[person]
        aucs.append(roc_auc(score(sides), sides))
        if aucs[-1] >= real:
            return 1 / len(aucs), None
    return 1 / (1 + MOST_DRAWN), float(np.std(aucs, ddof=1))


def blind_scores(
    features: Shaped[np.ndarray, "records ..."] | None,
    labels: Int[np.ndarray, "records"],
    members: Members,
    persons: Int[np.ndarray, "records"] | None = None,
) -> Scores:
    """Scores of a classifier that sees the records and not one answer, each by a fit without that record.

    Where a person has several records, the fit lacks all of them: one's others would give away its side. Arguments are
    those of `blind_test`.
    """
    return _scores(_inputs(features, labels, np.arange(len(labels))), members, persons)


def _inputs(
    features: Shaped[np.ndarray, "records ..."] | None, labels: Int[np.ndarray, "records"], drawn: np.ndarray
) -> Float[np.ndarray, "drawn inputs"]:
    """Inputs of the classifier: at most 64 numbers of each record, and its class."""
    seen = np.equal.outer(labels[drawn], np.unique(labels)).astype(np.float64)
    if features is None:
        return seen
    from sklearn.decomposition import PCA  # slow to import; flags of measured runs need none of it

    flat = features[drawn].reshape(len(drawn), -1).astype(np.float64)
    if flat.shape[1] > PCA_COMPONENTS:
        flat = PCA(min(PCA_COMPONENTS, len(flat)), random_state=0).fit_transform(flat)
    return np.hstack([flat, seen])


def _scores(
    seen: Float[np.ndarray, "records inputs"], members: Members, persons: Int[np.ndarray, "records"] | None
) -> Scores:
    from sklearn.ensemble import HistGradientBoostingClassifier  # slow to import
    from sklearn.model_selection import StratifiedKFold

    leaf = min(20, max(2, len(seen) // 20))
    trees = HistGradientBoostingClassifier(
        max_iter=50, max_leaf_nodes=15, min_samples_leaf=leaf, early_stopping=False, random_state=0
    )
    folds = StratifiedKFold(CROSS_FITTING_FOLDS, shuffle=True, random_state=0)
    scores = np.full(len(seen), np.nan)
    unit = np.arange(len(seen)) if persons is None else persons
    _, first, person = np.unique(unit, return_index=True, return_inverse=True)
    for _, left_out in folds.split(first, members[first]):
        apart = np.isin(person, left_out)
        fitted_on, scored = np.flatnonzero(~apart), np.flatnonzero(apart)
        margins = trees.fit(seen[fitted_on], members[fitted_on]).decision_function(seen[scored])
        # Ranks: a fold that holds more members leaves fewer to fit on, and would score below the others as a whole.
        scores[scored] = rankdata(margins) / len(scored)
    return scores
