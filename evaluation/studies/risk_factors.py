"""Risk factors of leakage: runs that differ in one of width, records and epochs, and in nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from palisade.data.split import Membership
from palisade.evaluation.labels import label
from palisade.evaluation.measuring.runs import results_of
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.result import AUC, Result
from palisade.evaluation.studies.studies import ACCURACY_GAP, UTILITY_METRICS, StudyRow, study_rows
from palisade.targets.config import flat
from palisade.targets.recipe import Recipe
from palisade.targets.run import Run

WIDTH_FACTOR, RECORDS_FACTOR, EPOCHS_FACTOR = "network width", "training records", "epochs"
FACTOR_SETTINGS = {
    WIDTH_FACTOR: ("network.hidden", "network.channels", "network.width"),
    RECORDS_FACTOR: ("split.pool", "membership.share"),
    EPOCHS_FACTOR: ("trainer.epochs", "defense.trainer.epochs"),
}
"""The settings that each factor stands for."""
CORRECTNESS_ATTACK = "correctness"
DECIDE_NOTHING = ("data.root", "data.path", "fleet.")


@dataclass(frozen=True, kw_only=True)
class FactorLine:
    """Runs that differ in one factor alone.

    Args:
        factor: which one.
        runs: by its value, rising; at least two.
        shared: the settings in which they agree.
    """

    factor: str
    runs: Mapping[float, Run]
    shared: Mapping[str, Any]


def risk_rows(runs: Sequence[Run], protocol: AttackProtocol) -> list[StudyRow]:
    """Leakage and accuracy over each factor.

    Args:
        runs: complete runs of one data set; those that differ from all others in more than a factor are left out.
        protocol: how they are attacked.

    Raises:
        ValueError: if no two runs differ in one factor alone.
    """
    drawn = lines(runs)
    wanted = {(run.folder, run.guard): run for line in drawn for run in line.runs.values()}
    result = dict(zip(wanted, results_of(list(wanted.values()), protocol), strict=True))
    measured = [{value: result[run.folder, run.guard] for value, run in line.runs.items()} for line in drawn]
    rows = []
    for line, results, target in zip(drawn, measured, targets(drawn, measured), strict=True):
        for value, one in results.items():
            named = {"target": target, "varied": line.factor, "setting": f"{value:g}"}
            rows += [*study_rows(one, **named), *accuracies(one, **named)]
    return rows


def lines(runs: Sequence[Run]) -> list[FactorLine]:
    """All runs that differ in one factor alone, by factor."""
    factor_lines = []
    for factor, keys in FACTOR_SETTINGS.items():
        alike: dict[str, dict[float, Run]] = defaultdict(dict)
        shared: dict[str, dict[str, Any]] = {}
        for run in runs:
            if (value := _values(run)[factor]) is not None:
                settings = {key: held for key, held in _settings(run).items() if key not in keys}
                group = str(sorted(settings.items()))
                alike[group].setdefault(value, run)
                shared[group] = settings
        factor_lines += [
            FactorLine(factor=factor, runs=dict(sorted(group.items())), shared=shared[name])
            for name, group in alike.items()
            if len(group) > 1
        ]
    if not factor_lines:
        raise ValueError(
            f"study=risk_factors: expected two runs that differ in {WIDTH_FACTOR}, {RECORDS_FACTOR} or {EPOCHS_FACTOR}"
            f" alone, and of {len(runs)} no two do; train them with experiment=risk_factors"
        )
    return factor_lines


def targets(drawn: Sequence[FactorLine], measured: Sequence[Mapping[float, Result]]) -> list[str]:
    """Titles of the lines: the defense, and the settings that differ from others of its factor with this defense."""
    names = [label(next(iter(results.values()))) for results in measured]
    titles = []
    for line, name in zip(drawn, names, strict=True):
        same = [
            other.shared
            for other, its_name in zip(drawn, names, strict=True)
            if (other.factor, its_name) == (line.factor, name)
        ]
        keys = [key for key in line.shared if len({str(shared.get(key)) for shared in same}) > 1]
        titles.append(", ".join([name, *(f"{key}={line.shared[key]}" for key in keys)]))
    return titles


def accuracies(result: Result, **named: Any) -> list[StudyRow]:
    """Test and train accuracy, and the gap that overfitting opens.

    The gap is that between each model's members and its non-members in the pool, which the correctness attack measures
    with one interval over models and records: AUC = ½ + gap/2. Test records would be others for every size of the pool.
    """
    rows = [
        StudyRow(attack="", metric=row.metric, value=row.value, low=row.low, high=row.high, **named)
        for row in map(result.get, UTILITY_METRICS)
    ]
    if CORRECTNESS_ATTACK not in result.attacks:
        return rows
    auc = result.get(AUC, attack=CORRECTNESS_ATTACK)
    value, low, high = (None if end is None else 2 * end - 1 for end in (auc.value, auc.low, auc.high))
    return [*rows, StudyRow(attack="", metric=ACCURACY_GAP, value=value, low=low, high=high, **named)]


def _values(run: Run) -> dict[str, float | None]:
    """Each factor's value in a run; no width where the network has none of its own."""
    network, split = run.config["network"], run.dataset.split
    widths = next((network[key] for key in ("hidden", "channels", "width") if network.get(key)), None)
    size = Membership(**run.config["membership"]).public_size(len(split.pool), len(split.canaries))
    return {
        WIDTH_FACTOR: max(widths) if isinstance(widths, Sequence) else widths,
        RECORDS_FACTOR: size,
        EPOCHS_FACTOR: Recipe.of(run.config).epochs,
    }


def _settings(run: Run) -> dict[str, Any]:
    """Settings that decide a run, by keys such as `trainer.epochs`; two networks of one width may differ in depth."""
    widths = run.config["network"].get("hidden") or run.config["network"].get("channels") or ()
    settings = flat({**run.config, "guard": run.guard, "depth": len(widths)})
    return {key: value for key, value in settings if not key.startswith(DECIDE_NOTHING)}
