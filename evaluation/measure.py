"""Measures one run: every attack on every model, and how useful the models are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from jaxtyping import Bool, Float

from attacks import Attack, View
from evaluation.bootstrap import Bootstrap, FleetMetrics, fleet_mean, fleet_metrics
from evaluation.findings import AUC, FPRS, Findings, Row, tpr_at
from evaluation.metrics import Estimate, Ranking, Roc, tpr_at_fpr
from evaluation.runs import Run, canonical
from evaluation.signals import answers, view
from targets import progress, workers
from targets.files import write_json

PRIORS = (0.01, 0.1, 0.5)
"""Shares of members among all whom an attacker may suspect."""
METRICS: Mapping[str, Callable[[Roc], float]] = {
    AUC: Roc.auc,
    **{tpr_at(fpr): partial(Roc.tpr_at, fpr=fpr) for fpr in FPRS},
    **{f"ppv@{100 * prior:g}%prior": partial(Roc.ppv, prior=prior, fpr=FPRS[0]) for prior in PRIORS},
    "balanced_accuracy": Roc.balanced_accuracy,
    "advantage": Roc.advantage,
}
METHOD_VERSION = 1
"""Part of what kept findings are known by; raised when a change makes the same models give other numbers."""
ROC_POINTS = 121


def findings_of(runs: Sequence[Run], attacks: Mapping[str, Any]) -> list[Findings]:
    """What attacks find on runs: kept from an earlier call where nothing has changed, otherwise measured.

    Args:
        runs: complete runs.
        attacks: for each attack the Hydra node that makes it.
    """
    missing = [run for run in runs if kept(run, attacks) is None]
    if missing:
        with progress.Progress(missing[0].folder.parent, len(missing), "runs attacked"):
            items = [(str(run.folder), attacks) for run in missing]
            list(workers.run(measure_and_keep, items, workers.count("auto")))
    return [found for run in runs if (found := kept(run, attacks)) is not None]


def measure_and_keep(folder: str, attacks: Mapping[str, Any]) -> None:
    """The work item of a process: one run."""
    run = Run(Path(folder))
    findings = measure(run, [instantiate(attack) for attack in attacks.values()])
    write_json(
        run.folder / "metrics.json",
        {"key": _key(run, attacks), "models": len(run.models()), "findings": findings.to_json()},
    )
    progress.report(run.name, 1)


def kept(run: Run, attacks: Mapping[str, Any]) -> Findings | None:
    """The findings of these attacks on these very models, if they are there."""
    path = run.folder / "metrics.json"
    if not path.exists() or (content := json.loads(path.read_text()))["key"] != _key(run, attacks):
        return None
    return Findings.from_json(run, content["findings"])


def _key(run: Run, attacks: Mapping[str, Any]) -> str:
    identity = json.dumps([canonical(attacks), run.models(), METHOD_VERSION], sort_keys=True)
    return hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()


def measure(run: Run, attacks: Sequence[Attack]) -> Findings:
    """Attacks a run; the records of each class are looked at with its strongest attack."""
    seen = view(run)
    bootstrap = Bootstrap(seed=run.config["seed"], groups=run.groups(), persons=run.dataset.split.persons)
    rows = list(utility(run, seen, bootstrap))
    scores: dict[Attack, Float[np.ndarray, "models records"]] = {}
    skipped: dict[str, str] = {}
    for attack in attacks:
        if (reason := attack.missing(seen)) is not None:
            skipped[attack.name] = reason
            continue
        found = attack.score(seen)
        if not all(Ranking(*row).complete for row in zip(found, seen.membership, strict=True)):
            skipped[attack.name] = "gives some model no score for both a member and a non-member; train more models"
            continue
        scores[attack] = found
        rows += leakage(attack, scores[attack], seen, bootstrap)
    roc = {attack.name: mean_roc(scores[attack], seen.membership) for attack in scores}
    findings = Findings.of(run, rows=rows, roc=roc, skipped=skipped)
    for attack in scores:
        if attack.name == findings.strongest:
            rows += leakage_of_classes(attack, scores[attack], seen, bootstrap)
    return findings


def utility(run: Run, seen: View, bootstrap: Bootstrap) -> Iterator[Row]:
    """Accuracy on test records and on each model's own members."""
    labels = run.dataset.y[run.dataset.split.test]
    test = (answers(run, "test").argmax(axis=-1) == labels).astype(np.float64)
    members = np.where(seen.membership, seen.correct[:, :, 0], np.nan)
    for metric, correct in (("test_accuracy", test), ("train_accuracy", members)):
        # Test records are no pool records: the pool's persons do not group them.
        drawn = Bootstrap(seed=bootstrap.seed, groups=bootstrap.groups) if metric == "test_accuracy" else bootstrap
        yield Row(metric=metric, **_estimate(fleet_mean(correct, drawn)))
        for model, value in enumerate(np.nanmean(correct, axis=1)):
            yield Row(metric=metric, model=model, value=float(value))


def leakage(
    attack: Attack, scores: Float[np.ndarray, "models records"], seen: View, bootstrap: Bootstrap
) -> Iterator[Row]:
    """The attack's metrics, of the fleet and of each model."""
    named = _named(attack)
    whole = fleet_metrics(scores, seen.membership, METRICS, bootstrap)
    if seen.models == 1:  # resampling records says nothing on a threshold taken from these very non-members
        for fpr in FPRS:
            scored = ~np.isnan(scores[0])
            band = tpr_at_fpr(scores[0, scored], seen.membership[0, scored], fpr, interval="band")
            whole.estimates[tpr_at(fpr)] = band
    yield from _fleet_rows(whole, named)
    yield Row(metric="unscored", value=float(whole.dropped.mean() / scores.shape[1]), **named)
    for metric, values in whole.per_model.items():
        for model, value in enumerate(values):
            yield Row(
                metric=metric,
                model=model,
                value=_number(value),
                members=int(whole.members[model]),
                nonmembers=int(whole.nonmembers[model]),
                **named,
            )


def leakage_of_classes(
    attack: Attack, scores: Float[np.ndarray, "models records"], seen: View, bootstrap: Bootstrap
) -> Iterator[Row]:
    """The attack's metrics on the records of each class: a mean over all hides a class that is exposed."""
    for label in np.unique(seen.labels):
        of_class = seen.labels == label
        drawn = Bootstrap(
            seed=bootstrap.seed,
            groups=bootstrap.groups,
            persons=None if bootstrap.persons is None else bootstrap.persons[of_class],
        )
        part = fleet_metrics(scores[:, of_class], seen.membership[:, of_class], METRICS, drawn)
        yield from _fleet_rows(part, {**_named(attack), "group": f"class={label}"})


def mean_roc(
    scores: Float[np.ndarray, "models records"], membership: Bool[np.ndarray, "models records"]
) -> tuple[list[float], list[float]]:
    """The mean over models of the TPR at each FPR, on a logarithmic grid from one false positive on."""
    rocs = [Ranking(*row).roc() for row in zip(scores, membership, strict=True)]
    fprs = np.geomspace(1 / min(roc.nonmembers for roc in rocs), 1, ROC_POINTS)
    tprs = np.mean([[roc.tpr_at(min(fpr, 1.0)) for fpr in fprs] for roc in rocs], axis=0)
    return fprs.tolist(), tprs.tolist()


def _named(attack: Attack) -> dict[str, Any]:
    return {"attack": attack.name, "access": attack.threat.access}


def _fleet_rows(part: FleetMetrics, named: Mapping[str, Any]) -> Iterator[Row]:
    members, nonmembers = int(part.members.sum()), int(part.nonmembers.sum())
    for metric, estimate in part.estimates.items():
        # A mean over only the models that can resolve an FPR would be of another fleet.
        resolved = not np.isnan(part.per_model[metric]).any()
        numbers = _estimate(estimate) if resolved else {"value": None}
        yield Row(metric=metric, members=members, nonmembers=nonmembers, **numbers, **named)


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {name: _number(value) for name, value in estimate._asdict().items()}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
