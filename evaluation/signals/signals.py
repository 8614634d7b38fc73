"""View of a run's models as an attacker sees them: their answers about its records, and what else is granted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from palisade.attacks import ThreatModel, View
from palisade.attacks.parts.view import is_vectors
from palisade.data.queries import PLAIN_QUERY, augmented
from palisade.data.sequences import Sequences
from palisade.evaluation.signals.documents import document_fields
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.signals.inner import inner_signals, last_hidden
from palisade.evaluation.signals.saved import saved
from palisade.evaluation.signals.shadows import further_shadows
from palisade.evaluation.signals.stored import answers, cached
from palisade.targets.guards import NoGuard
from palisade.targets.run import Run

if TYPE_CHECKING:
    from palisade.targets.guards.guarded import Guarded

Continue = Callable[[int, Sequence[str], int], list[str]]
"""Greedy continuations of prompts by a model: its number, the prompts, and how many tokens at most."""


def view(
    run: Run, grant: Grant | None = None, queries: Sequence[str] = PLAIN_QUERY, threats: Sequence[ThreatModel] = ()
) -> View:
    """View of a run for attackers: every model's answers for every audited record, and who is a member.

    Args:
        run: a complete run; where its weights were removed, its view holds the signals that were saved instead.
        grant: what they are granted.
        queries: how each record is put to the models, by `evaluation.signals.augmentations`.
        threats: what attacks need; gradients, checkpoints and hidden layers are read only where one
            of them does.
    """
    grant, guard = grant or Grant(), run.registered_guard
    data, split = run.dataset, run.dataset.split
    if data.positional:
        augmented(queries[-1], data.x[:0])  # there are no copies of documents
        fields = document_fields(run, grant, threats)
    else:
        fields = record_fields(run, grant, queries, threats)
    held_back = [k for k in (grant.top_k, guard.top_k) if k is not None and k < len(data.classes)]
    return View(
        labels=data.labels[split.audited],
        membership=run.membership()[:, split.is_audited],
        groups=run.groups(),
        persons=None if split.persons is None else split.persons[split.is_audited],
        features=data.x[split.audited],
        top_k=min(held_back, default=None),
        **fields,
    )


def record_fields(run: Run, grant: Grant, queries: Sequence[str], threats: Sequence[ThreatModel]) -> dict[str, Any]:
    """Parts of a view of classifiers: answers about the audited records and the population, and what weights give.

    Args:
        run: a complete run.
        grant: what attackers are granted.
        queries: how each record is put to the models.
        threats: what they need.
    """
    data, split, whole = run.dataset, run.dataset.split, run.has_weights()

    def released(role: str, queries: Sequence[str], counted: Bool[np.ndarray, "records"]) -> dict[str, Any]:
        if whole:
            return grant.released(answers(run, role, queries).about(counted), run.registered_guard.level)
        return grant.released_signals(saved(run, role, queries).about(counted))

    fields = released("pool", queries, split.is_audited)
    if len(split.population):
        population = released("population", PLAIN_QUERY, np.ones(len(split.population), dtype=np.bool_))
        fields |= {f"population_{name}": answered for name, answered in population.items()}
        fields |= {"population_labels": data.y[split.population], "population_features": data.x[split.population]}
    return fields | (of_weights(run, grant, threats) if whole else {"weights_removed": True})


def of_weights(run: Run, grant: Grant, threats: Sequence[ThreatModel]) -> dict[str, Any]:
    """Parts of a view that only models themselves give: answers to further inputs, and what lies inside of them.

    Args:
        run: whose weights are there.
        grant: what attackers are granted.
        threats: what they need.
    """
    models, guard, split = cache(lambda: guarded(run)), run.registered_guard, run.dataset.split
    fields: dict[str, Any] = {
        "query": lambda model, x: grant.answer(models().one(model).predict(x)[0], guard.level),
    }
    if guard.keeps_label and grant.decimals is None:
        fields["query_label"] = lambda model, x: models().fleet.one(model).predict(x)[0].argmax(axis=-1)
    if not isinstance(guard, NoGuard):
        fields["unguarded_logits"] = answers(Run(run.folder), "pool").about(split.is_audited)
    if any(threat.shadow_features for threat in threats) and not is_vectors(run.dataset.x):
        plain = Run(run.folder)
        hidden = cached(plain, "last_hidden", partial(last_hidden, plain))
        fields["shadow_features"] = hidden if hidden.shape[-1] else None
    if grant.weights:
        fields |= inner_signals(run, threats)
    if any(threat.further_shadows for threat in threats):
        fields["further_shadows"] = further_shadows(run, grant, answers(run, "pool"))
    return fields


def guarded(run: Run) -> Guarded:
    """The models of a run behind its guard."""
    from palisade.targets.training import load_guarded

    return load_guarded(run.config, run.dataset, run.folder, run.models(), run.guard)


def continuation(run: Run) -> Continue | None:
    """Generates texts by the models of a run, as whoever queries them gets them; None where weights were removed."""
    if not run.has_weights():
        return None
    models, tokens = guarded(run), run.dataset.preprocessing
    assert isinstance(tokens, Sequences)

    def goes_on(model: int, prompts: Sequence[str], count: int) -> list[str]:
        texts = [np.array(tokens.encode(prompt)[: tokens.length], dtype=np.int64) for prompt in prompts]
        room = [min(count, tokens.length - len(text)) for text in texts]
        generated = models.one(model).generate(texts, room, tokens.begin)
        return [tokens.decode(text.tolist()).decode("utf-8", "replace") for text in generated]

    return goes_on
