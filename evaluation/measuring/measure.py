"""Measurement of runs: scores of their attacks, leakage, utility and per-record vulnerability."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from palisade.attacks import Attack, LossThreshold, View
from palisade.data.slices import NO_SLICES, Slices
from palisade.data.split import Membership
from palisade.evaluation.claims import FAMILYWISE_ALPHA, record_way
from palisade.evaluation.epsilon_audit import audit_records
from palisade.evaluation.measuring.baselines import (
    DUPLICATE_SHARE,
    duplicated_share,
    linear_utilities,
    spread_rows,
)
from palisade.evaluation.measuring.exposure import ASSUMED_SPREAD, Exposure, over_dispersion
from palisade.evaluation.measuring.extraction import EXPOSED_SUFFIX, SECRET_EXPOSURE, shortest_prefixes
from palisade.evaluation.measuring.leakage import (
    NullTprs,
    leakage,
    leakage_of_groups,
    mean_roc,
    named,
    null_rows_of_groups,
    null_tprs_of,
    rows_of_nulls,
)
from palisade.evaluation.measuring.private_linear import private_linear_utilities
from palisade.evaluation.measuring.recitation import recitation_rows, secret_scores
from palisade.evaluation.measuring.usefulness import groups, usefulness
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.result import Result, Row
from palisade.evaluation.signals.shadows import mismatch_view
from palisade.evaluation.signals.signals import view
from palisade.evaluation.statistics.bootstrap import Bootstrap
from palisade.evaluation.subjects.subject import BudgetSpentError, FleetSubject, Subject
from palisade.targets.config import at_either_end, validate_guessed_records
from palisade.targets.recipe import Recipe
from palisade.targets.run import Run

ModelScores = Float[np.ndarray, "models records"]
BUDGET_SPENT = "the budget of queries is spent, raise it with budget=<queries>: answers so far are kept"


class AttackScores(NamedTuple):
    """Scores of attacks on one subject.

    Args:
        scores: by attack, (models, records).
        needs: by name, the threat model in words (`text`), its way in a layman's words (`idea`), the queries a record
            that it declares (`declared`) and those that it made (`measured`).
        skipped: by name, the reason why an attack did not run.
    """

    scores: Mapping[Attack, Float[np.ndarray, "models records"]]
    needs: Mapping[str, Mapping[str, Any]]
    skipped: Mapping[str, str]


def score_all(subject: Subject, attacks: Iterable[Attack], view: View, models: int) -> AttackScores:
    """Runs every attack that the subject allows for.

    Args:
        subject: that is attacked.
        attacks: those that are `applicable`.
        view: what they see.
        models: number of targets; shadows of another run may follow them in the view.
    """
    scores: dict[Attack, Float[np.ndarray, "models records"]] = {}
    needs: dict[str, Mapping[str, Any]] = {}
    skipped: dict[str, str] = {}
    for attack in map(subject.suited, attacks):
        if (reason := subject.lacking(attack, view)) is not None:
            skipped[attack.name] = reason
            continue
        try:
            result, queries = attack.run(view)
        except BudgetSpentError:
            skipped[attack.name] = f"needs up to {attack.threat.queries} queries a record; {BUDGET_SPENT}"
            continue
        if _fewest_scored(result[:models], view.membership[:models]) < subject.fewest_scored:
            skipped[attack.name] = subject.too_few_scored
            continue
        scores[attack] = result[:models]
        needs[attack.name] = {
            "text": attack.threat.describe(), "idea": attack.idea, "declared": attack.threat.queries,
            "measured": queries,
        }  # fmt: skip
    return AttackScores(scores, needs, skipped)


def applicable(attacks: Iterable[Attack], view: View) -> list[Attack]:
    """Attacks on data of this kind: lists hold attacks on texts, too, which say nothing where there are none.

    Args:
        attacks: those that were chosen; if all of them are attacks on texts, they stay, to be skipped with the reason.
        view: what they see.
    """
    chosen = list(attacks)
    return chosen if view.tokens is not None else [each for each in chosen if not each.threat.tokens] or chosen


def _fewest_scored(scores: Float[np.ndarray, "models records"], membership: Bool[np.ndarray, "models records"]) -> int:
    """Scored members or non-members in the attacked model that has fewest; an attack may leave models out."""
    scored = ~np.isnan(scores)
    attacked = scored.any(axis=1)
    counts = [(scored & side).sum(axis=1)[attacked] for side in (membership, ~membership)]
    return int(np.min(counts)) if attacked.any() else 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Sight:
    """A run as attackers and referee see it.

    Args:
        run: whose models are the targets.
        protocol: how they are attacked.
        slices: groups of records by which results are read.
        seen: view of the run.
        shadowed: view in which attacks look for members: `seen`, unless the shadows are another run's.
    """

    run: Run
    protocol: AttackProtocol
    slices: Slices
    seen: View
    shadowed: View

    @classmethod
    def of(cls, run: Run, protocol: AttackProtocol, slices: Slices, source: Run | None = None) -> Sight:
        """The sight of a run, whose models are asked where no file holds their answers.

        Args:
            run: whose models are the targets.
            protocol: how they are attacked.
            slices: groups of records by which results are read.
            source: another run whose models are the shadows, instead of the run's own.
        """
        threats = [attack.threat for attack in (*protocol.attacks_on(run), protocol.audit)]
        seen = FleetSubject(run).view(protocol.grant, protocol.queries, threats)
        shadowed = (
            seen if source is None else mismatch_view(seen, view(source, protocol.grant, protocol.queries, threats))
        )
        return cls(run=run, protocol=protocol, slices=slices, seen=seen, shadowed=shadowed)

    @cached_property
    def attacks(self) -> list[Attack]:
        """The attacks on this run and its defense, as far as they are about data of its kind."""
        return applicable(self.protocol.attacks_on(self.run), self.shadowed)

    @cached_property
    def bootstrap(self) -> Bootstrap:
        """Resampling of this run's models and records."""
        return Bootstrap(seed=self.run.config["seed"], groups=self.seen.groups, persons=self.seen.persons)


class RunFacts(NamedTuple):
    """Measurements of a run that rest on no attack but the audit.

    Args:
        rows: usefulness, facts of its data, the spread of its models.
        recitation: rows on texts that come out word by word.
        audit: lower bounds on ε.
    """

    rows: Sequence[Row]
    recitation: Sequence[Row]
    audit: Mapping[str, Any]


class AttackShare(NamedTuple):
    """Measurements of some of the attacks on a run, by their names, before they are compared with the others.

    Args:
        rows: leakage.
        roc: mean ROC.
        nulls: null distribution of the TPRs.
        fields: by which the rows of each are known.
        needs: see `AttackScores`.
        skipped: likewise.
    """

    rows: Mapping[str, Sequence[Row]]
    roc: Mapping[str, tuple[list[float], list[float]]]
    nulls: Mapping[str, NullTprs]
    fields: Mapping[str, Mapping[str, Any]]
    needs: Mapping[str, Mapping[str, Any]]
    skipped: Mapping[str, str]


def measure(
    run: Run,
    protocol: AttackProtocol,
    source: Run | None = None,
    *,
    slices: Slices | None = None,
    bounds: bool = True,
) -> Result:
    """Attacks a run; the strongest attack is also looked at by class, by slice and by record.

    Args:
        run: whose models are the targets.
        protocol: how they are attacked.
        source: another run whose models are the shadows, instead of the run's own.
        slices: groups of records by which results are read; None: read by the settings of both.
        bounds: whether ε is bounded from below: one way more of auditing the run, for which others pay.
    """
    sight = Sight.of(run, protocol, slices or protocol.slices_of(run), source)
    facts = facts_of(sight, bounds=bounds)
    share, scores = attack_share(sight, sight.attacks)
    return looked_into(sight, joined(run, protocol, facts, [share]), scores)


def facts_of(sight: Sight, *, bounds: bool = True) -> RunFacts:
    """Usefulness of a run, facts of its data, and bounds on its ε.

    Args:
        sight: of the run.
        bounds: whether ε is bounded from below.
    """
    run, protocol, seen, bootstrap = sight.run, sight.protocol, sight.seen, sight.bootstrap
    return RunFacts(
        rows=[*usefulness(run, bootstrap, sight.slices), *of_data(run), *spread_rows(seen)],
        recitation=[*recitation_rows(run, seen, bootstrap)],
        audit=lower_bounds(run, protocol.audit, seen, protocol.way_on(run)) if bounds else {},
    )


def attack_share(sight: Sight, attacks: Sequence[Attack]) -> tuple[AttackShare, Mapping[str, ModelScores]]:
    """Measurements of some of the attacks on a run, and the scores of those that ran, by name.

    Args:
        sight: of the run.
        attacks: some of those of `sight`.
    """
    seen, bootstrap = sight.seen, sight.bootstrap
    scores, needs, skipped = score_all(FleetSubject(sight.run), attacks, sight.shadowed, seen.models)
    everybody = np.ones(seen.records, dtype=bool)
    nulls = null_tprs_of([(own, everybody) for own in scores.values()], seen, bootstrap.seed)
    share = AttackShare(
        rows={attack.name: [*leakage(attack, own, seen, bootstrap)] for attack, own in scores.items()},
        roc={attack.name: mean_roc(own, seen.membership) for attack, own in scores.items()},
        nulls={attack.name: null for attack, null in zip(scores, nulls, strict=True)},
        fields={attack.name: named(attack) for attack in scores},
        needs=needs,
        skipped=skipped,
    )
    return share, {attack.name: own for attack, own in scores.items()}


def joined(run: Run, protocol: AttackProtocol, facts: RunFacts, shares: Sequence[AttackShare]) -> Result:
    """The result of a run from that of its attacks, whoever measured which of them.

    Args:
        run: that was attacked.
        protocol: how it was attacked.
        facts: of the run.
        shares: which together hold all attacks.
    """
    order = [attack.name for attack in protocol.attacks_on(run)]
    every = AttackShare(*(_in_order(order, fields) for fields in zip(*shares, strict=True)))
    return FleetSubject(run).result(
        rows=[
            *facts.rows,
            *(row for rows in every.rows.values() for row in rows),
            *rows_of_nulls([*every.nulls.values()], [*every.fields.values()]),
            *facts.recitation,
        ],
        roc=every.roc,
        skipped=every.skipped,
        needs=every.needs,
        threat=protocol.grant.access,
        released=protocol.grant.behind(run.registered_guard),
        audit=facts.audit,
    )


def _in_order(order: Sequence[str], shares: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    together = {name: value for share in shares for name, value in share.items()}
    return {name: together[name] for name in order if name in together}


def looked_into(sight: Sight, result: Result, scores: Mapping[str, ModelScores]) -> Result:
    """The result with the strongest attack by class, by slice and by record.

    Args:
        sight: of the run.
        result: of all attacks on it.
        scores: of the strongest attack, by its name.
    """
    if not result.attacks:
        return result
    run, seen, own = sight.run, sight.seen, scores[result.strongest]
    attack = next(attack for attack in sight.attacks if attack.name == result.strongest)
    split = run.dataset.split
    sliced = NO_SLICES if len(split.canaries) else sight.slices  # a canary is nobody's record
    parts = list(groups(run.dataset, split.audited, sliced))
    of_groups = [
        *leakage_of_groups(attack, own, seen, sight.bootstrap, parts),
        *null_rows_of_groups(attack, own, seen, sight.bootstrap.seed, parts),
    ]
    spread = over_dispersion(attack, own, seen) if sight.shadowed is seen else ASSUMED_SPREAD
    exposure = Exposure.of(own, seen.membership, seen.labels, split.audited, spread)
    exposed = exposure.to_json() if exposure.models.any() else {}
    if exposed and seen.tokens is not None and seen.tokens.greedy is not None:
        exposed["prefix"] = shortest_prefixes(seen.tokens, seen.membership, EXPOSED_SUFFIX)
    return replace(result, rows=[*result.rows, *of_groups], exposed=exposed)


def of_data(run: Run) -> Iterator[Row]:
    """Facts of the run's data: the number of records with copies, and the utility of linear models.

    One of them is without protection, the other under the run's own claim if that is a finite ε for one record.
    """
    data, membership = run.dataset, Membership(**run.config["membership"])
    yield Row(metric=DUPLICATE_SHARE, value=duplicated_share(data))
    size = membership.public_size(len(data.split.pool), len(data.split.canaries))
    for metric, value in linear_utilities(data, size, run.config["seed"]).items():
        yield Row(metric=metric, value=value)
    claim = run.statement
    if claim.unit != "record" or not claim.delta or claim.epsilon is None or math.isinf(claim.epsilon):
        return
    utilities = private_linear_utilities(data, size, run.config["seed"], claim.epsilon, claim.delta)
    for metric, value in utilities.items():
        yield Row(metric=metric, value=value)


def lower_bounds(run: Run, auditor: Attack, seen: View, way: Mapping[str, Any]) -> dict[str, Any]:
    """Lower bounds on ε of model 0, from guesses at who was in its training set; empty where they would be invalid.

    The bounds need memberships drawn independently with probability ½, hence neither a fixed split nor persons with
    several records. Where the auditor cannot run, as without checkpoints, the loss takes its place; of secrets, the
    guesses go by their exposure. Each bound is wrong with a probability of at most 0.05 over the number of ways in
    which the run was ever audited.

    Args:
        run: whose model 0 is audited.
        auditor: scores the records.
        seen: what it sees.
        way: of auditing the run, as `AttackProtocol.way_on` gives it; recorded before anything is guessed.

    Raises:
        ValueError: if it guesses nobody.
    """
    membership = Membership(**run.config["membership"])
    if (membership.how, membership.share) != ("bernoulli", 0.5):
        return {}
    if (of_secrets := secret_scores(run)) is not None:
        name, (scores, members) = SECRET_EXPOSURE, of_secrets
        if not at_either_end(float(way["guesses"]), len(scores)):
            return {}
    else:
        if auditor.missing(seen) is not None:
            auditor = LossThreshold()
        if auditor.missing(seen) is not None:
            return {}
        if seen.persons is not None and len(np.unique(seen.persons)) < seen.records:
            return {}
        name, scores, members = auditor.name, auditor.score(seen)[0], seen.membership[0]
    scored = ~np.isnan(scores)
    if min(members[scored].sum(), (~members[scored]).sum()) < 2:
        return {}
    size = membership.public_size(len(run.dataset.split.pool), len(run.dataset.split.canaries))
    delta = run.statement.delta or Recipe.of(run.config).schedule(size).delta
    guesses = float(way["guesses"])
    validate_guessed_records("threat.guesses", guesses, int(scored.sum()))
    ways = record_way(run, way)
    result = audit_records(
        scores[scored],
        members[scored],
        delta=delta,
        guesses=guesses,
        alpha=FAMILYWISE_ALPHA / ways,
        seed=run.config["seed"],
    )
    return {"attack": name, "ways": ways, **result.to_json()}
