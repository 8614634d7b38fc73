"""Answers of language models about documents, token by token, as an attacker's view holds them."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, Shaped

from palisade.attacks import ThreatModel
from palisade.attacks.parts.answers import MappedAnswers
from palisade.attacks.parts.neighbor_copies import neighbor_copies
from palisade.attacks.parts.signals import token_rows
from palisade.attacks.parts.tokens import TokenAnswers
from palisade.data.dataset import Dataset
from palisade.data.sequences import NO_TOKEN, Sequences
from palisade.data.settings import instantiated
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.signals.inner import inner_signals
from palisade.evaluation.signals.stored import answers, cached, is_cached, mean_log_probability
from palisade.targets.base_model import has_base
from palisade.targets.run import Run

COLUMNS_OF_FIELDS = {
    "log_probabilities": "log_probability",
    "means": "mean",
    "variances": "variance",
    "greedy": "greedy",
}
"""Fields of `TokenAnswers`, and the columns of stored answers that they come from."""
NEIGHBOR_LOSSES = "neighbor_losses"
"""Name of the losses of copies that are drawn, among the signals of a run."""


def document_fields(run: Run, grant: Grant, threats: Sequence[ThreatModel]) -> dict[str, Any]:
    """Parts of a view of language models: answers to every token, and the signals of whole documents.

    Args:
        run: a complete run on documents.
        grant: what attackers are granted.
        threats: what they need; edited copies of documents and what weights give are looked at only where one does.

    Raises:
        ValueError: if the grant holds back more than whole answers, for which there is no form on documents.
    """
    for name, value in (("outputs", grant.outputs), ("decimals", grant.decimals), ("top_k", grant.top_k)):
        if value not in (None, "logits", "probabilities"):
            raise ValueError(
                f"threat.{name}={value}: expected whole answers of language models, since attackers look at the"
                " probability of each token; leave it out"
            )
    data, split = run.dataset, run.dataset.split
    copies = neighbor_losses(run) if any("neighbors" in threat.tokens for threat in threats) else None
    tokens = token_answers(run, "pool", split.is_audited, copies)
    fields: dict[str, Any] = {"tokens": tokens, "signals": tokens.rows()}
    if len(split.population):
        others = token_answers(run, "population", np.ones(len(split.population), dtype=np.bool_))
        fields |= {"population_tokens": others, "population_signals": others.rows()}
        fields |= {
            "population_labels": data.labels[split.population],
            "population_features": data.x[split.population],
        }
    return fields | inner_signals(run, threats) if grant.weights and run.has_weights() else fields


def token_answers(
    run: Run,
    role: str,
    counted: Bool[np.ndarray, "records"],
    copies: Float[np.ndarray, "models counted copies"] | None = None,
) -> TokenAnswers:
    """Answers of all models about some documents of a role, in memory.

    Args:
        run: a complete run.
        role: of the split.
        counted: which of its documents.
        copies: losses of their edited copies, if they were asked for.
    """
    y = run.dataset.y[getattr(run.dataset.split, role)[counted]]
    base = base_rows(run, role)
    rows = list(answers(run, role).about(counted))
    return token_answers_of(rows, run.dataset, y, copies, None if base is None else base[counted])


def base_rows(run: Run, role: str) -> Shaped[np.ndarray, "documents T"] | None:
    """Answers of the public model that training began with about the documents of a role; None where there is none.

    Args:
        run: a complete run.
        role: of the split.
    """
    if not has_base(run.config["network"]):
        return None
    return cached(Run(run.folder), f"base-{role}", partial(_of_base, run, role))


def _of_base(run: Run, role: str) -> Shaped[np.ndarray, "documents T"]:
    """Answers of the public model that training began with: all begin alike, by what is public."""
    from palisade.targets.training import load_fleet

    records = getattr(run.dataset.split, role)
    first = load_fleet(run.config, run.dataset, run.folder, [0], epoch=0)
    return np.asarray(first.answers(run.dataset.x[records], run.dataset.y[records])[0])


def token_answers_of(
    rows: list[Shaped[np.ndarray, "documents T"]],
    data: Dataset,
    y: Int64[np.ndarray, "documents T"],
    copies: Float[np.ndarray, "models documents copies"] | None = None,
    base: Shaped[np.ndarray, "documents T"] | None = None,
) -> TokenAnswers:
    """Answers as attackers see them.

    Args:
        rows: of each model, of `data.sequences.TOKEN_ROW`, or behind a guard of `GUARDED_TOKEN_ROW`.
        data: that the documents are of.
        y: their tokens, −1 behind the last one.
        copies: losses of their edited copies.
        base: rows of the public model that training began with, if it did.
    """
    mask = y != NO_TOKEN
    parts = {
        field: np.stack([_filled(own[column], mask) for own in rows]) for field, column in COLUMNS_OF_FIELDS.items()
    }
    refused = None
    if all("blocked" in (own.dtype.names or ()) for own in rows):
        refused = np.stack([_filled(own["blocked"], mask) for own in rows])
    return TokenAnswers(
        mask=mask,
        blocked=refused,
        **{
            f"base_{field}": _filled(base[column], mask)
            for field, column in COLUMNS_OF_FIELDS.items()
            if base is not None
        },
        zlib_bytes=np.array([len(zlib.compress(text)) for text in texts_of(data, y)]),
        neighbor_losses=copies,
        **parts,
    )


def _filled(values: Shaped[np.ndarray, "documents T"], mask: Bool[np.ndarray, "documents T"]) -> np.ndarray:
    """Values on tokens, 0 behind the last one."""
    return np.where(mask, values, np.zeros(1, values.dtype))


def texts_of(data: Dataset, y: Int64[np.ndarray, "documents T"]) -> Iterator[bytes]:
    """The texts of documents as far as they are read, in UTF-8."""
    assert isinstance(data.preprocessing, Sequences)
    for tokens in y:
        yield data.preprocessing.decode(tokens[tokens != NO_TOKEN].tolist())


def shown_texts(run: Run) -> dict[int, str]:
    """Audited documents of a run as far as they are read, by record; none of classifiers."""
    data, audited = run.dataset, run.dataset.split.audited
    if not data.positional:
        return {}
    texts = (text.decode("utf-8", "replace") for text in texts_of(data, data.y[audited]))
    return dict(zip(audited.tolist(), texts, strict=True))


def document_signals(run: Run, role: str) -> MappedAnswers:
    """Signals of all models for the documents of a role, a row of `attacks.parts.signals.token_rows` each."""
    return answers(run, role).changed(lambda rows: token_rows(mean_log_probability(rows)))


def neighbor_losses(run: Run) -> Float32[np.ndarray, "models audited copies"] | None:
    """Mean −ℓ_t of 20 copies of each audited document with a tenth of their tokens drawn anew; None where signals alone
    are there, or nothing to draw from.

    Tokens are drawn by their frequency in reference records, else in the population: in no document that a model may
    have been trained on (Mattern et al. 2023, "Membership Inference Attacks against Language Models via Neighbourhood
    Comparison", section 3, with a language model in the place of this law).
    """
    if not run.has_weights():
        return None
    if (paraphrases := _paraphrases(run)) is not None:
        name = f"neighbor_losses-{_digest(paraphrases)}"
        return cached(Run(run.folder), name, partial(_of_paraphrases, run, paraphrases))
    return cached(Run(run.folder), NEIGHBOR_LOSSES, partial(copy_losses, run)) if len(_drawn_from(run)) else None


def lacks_neighbor_losses(run: Run, threats: Sequence[ThreatModel]) -> bool:
    """True if attacks need losses of copies with tokens drawn anew, and no file of the run holds them."""
    asked = run.dataset.positional and any("neighbors" in threat.tokens for threat in threats)
    if not asked or not run.has_weights() or is_cached(Run(run.folder), NEIGHBOR_LOSSES):
        return False
    return len(_drawn_from(run)) > 0 and _paraphrases(run) is None


def copy_losses_of_some(
    folder: Path, models: Sequence[int]
) -> tuple[Path, int, Float32[np.ndarray, "some audited copies"]]:
    """The work item of a process: losses of copies under some models of a run, with the run and the first of them."""
    return folder, models[0], copy_losses(Run(folder), models)


def keep_copy_losses(run: Run, parts: Sequence[Float32[np.ndarray, "some audited copies"]]) -> None:
    """Keeps the losses of copies under the models of a run, whose parts are in order."""
    cached(Run(run.folder), NEIGHBOR_LOSSES, partial(np.concatenate, parts))


def _drawn_from(run: Run) -> Int64[np.ndarray, "others"]:
    """Records whose tokens copies are drawn from."""
    split = run.dataset.split
    return split.reference if len(split.reference) else split.population


def digest_of_paraphrases(run: Run) -> str | None:
    """Hash of the paraphrases of audited documents, for cache keys; None where there are none."""
    return None if (paraphrases := _paraphrases(run)) is None else _digest(paraphrases)


def _digest(paraphrases: list[list[str]]) -> str:
    return hashlib.blake2b(json.dumps(paraphrases).encode(), digest_size=4).hexdigest()


def _paraphrases(run: Run) -> list[list[str]] | None:
    """Paraphrases of each audited document that the user wrote; None where there are none, as of canaries."""
    source: Any = instantiated("data", run.config["data"], object)
    paraphrases = source.read_paraphrases() if hasattr(source, "read_paraphrases") else None
    audited = run.dataset.split.audited
    return None if paraphrases is None or audited.max() >= len(paraphrases) else [paraphrases[k] for k in audited]


def _of_paraphrases(run: Run, paraphrases: list[list[str]]) -> Float32[np.ndarray, "models audited copies"]:
    tokens = run.dataset.preprocessing
    assert isinstance(tokens, Sequences)
    return _losses(run, np.stack([tokens.labels(texts) for texts in zip(*paraphrases, strict=True)]), run.models())


def copy_losses(run: Run, models: Sequence[int] | None = None) -> Float32[np.ndarray, "models audited copies"]:
    """Losses of copies of each audited document with tokens drawn anew, as `neighbor_losses` keeps them.

    Args:
        run: a complete run.
        models: which are asked; None: all.
    """
    data, tokens = run.dataset, run.dataset.preprocessing
    assert isinstance(tokens, Sequences)
    y, drawn_from = data.y[data.split.audited], data.y[_drawn_from(run)]
    counts = np.bincount(drawn_from[drawn_from != NO_TOKEN], minlength=tokens.vocabulary)
    edited = neighbor_copies(y, y != NO_TOKEN, counts / counts.sum(), seed=run.config["seed"])
    return _losses(run, edited, run.models() if models is None else models)


def _losses(
    run: Run, copies: Int64[np.ndarray, "copies audited T"], models: Sequence[int]
) -> Float32[np.ndarray, "models audited copies"]:
    from palisade.targets.training import load_fleet

    tokens = run.dataset.preprocessing
    assert isinstance(tokens, Sequences)
    losses = np.empty((len(models), copies.shape[1], len(copies)), dtype=np.float32)
    for place, model in enumerate(models):
        fleet = load_fleet(run.config, run.dataset, run.folder, [model])
        for copy, changed in enumerate(copies):
            losses[place, :, copy] = -mean_log_probability(fleet.answers(tokens.inputs_of(changed), changed)[0])
    return losses
