"""Choice among runs: the most useful one that keeps a limit, and the command that ships it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.format import counted_runs
from palisade.evaluation.labels import label
from palisade.evaluation.limit import ENOUGH_MODELS, Limit, tpr_text, unseen, upper
from palisade.evaluation.result import Result
from palisade.targets.guards.registry import registered

ONLY_CANARIES = "only its canaries were attacked, and no release may hold any"
PASSED_OVER = "not "
"""The beginning of a line on a run that does not keep the limit."""
SELECTION_BIAS = (
    "It was chosen by the very numbers that it is shown with, which flatters it: train its setting again with another"
    " seed=… and attack that run before relying on them."
)


def recommend(comparison: Comparison, limit: Limit) -> tuple[list[str], Result | None]:
    """Lines that name the run of best utility that keeps the limit, if any does, and say why others do not.

    Returns:
        The lines, and the run; None if none keeps the limit. The lines then name the one that comes nearest.

    Raises:
        ValueError: if the utility can be measured on none of the runs.
    """
    results = comparison.results
    if all(math.isinf(result.worth) for result in results):
        name = results[0].utility.name
        raise ValueError(f"utility={name}: expected a measure that one of these runs has; choose e.g. accuracy")
    objections = {result.run: _objection(result, comparison, limit) for result in results}
    fit = [result for result in results if objections[result.run] is None]
    best = max(fit, key=lambda result: result.worth, default=None)
    lines = [f"choose: {limit}"]
    lines += _nearest(results, objections, limit) if best is None else _recommendation(fit, best, comparison, limit)
    lines += [
        f"{PASSED_OVER}{label(result)} ({result.run}): {why}" for result in results if (why := objections[result.run])
    ]
    return lines, best


def ship_command(result: Result) -> str:
    """The command that trains the release of a run, behind the guard that it was measured with."""
    words = [f"ship={result.folder}"]
    if result.guard != "none":
        guard = registered(Path(result.folder), result.run.partition("+")[2])
        words += [f"guard={guard.name}", *(f"guard.{key}={value}" for key, value in asdict(guard).items())]
    return shlex.join(["python", "train.py", *words])


def _objection(result: Result, comparison: Comparison, limit: Limit) -> str | None:
    if result.has_canaries:
        return ONLY_CANARIES
    if math.isinf(result.worth):
        return f"its {result.utility.words} cannot be measured"
    return limit.verdict(result, comparison).why


def _recommendation(fit: Sequence[Result], best: Result, comparison: Comparison, limit: Limit) -> Iterator[str]:
    yield f"{label(best)} ({best.run}): {best.utility_text}, {limit.measured(best)}"
    if not best.statement.guarantee:
        yield _unproven(best, [result for result in fit if result.statement.guarantee])
    least = next((each.result for each in comparison.highlights if each.kind == "protected"), best)
    if least is not best:
        yield (
            f"It is the most useful run within the limit. {label(least)} leaks least ({least.utility_text}), and is the"
            " “best protected” of the report."
        )
    yield SELECTION_BIAS
    if best.models < ENOUGH_MODELS:
        yield f"{unseen(best.models)}: train fleet.models={ENOUGH_MODELS} before relying on it"
    yield f"to ship it: {ship_command(best)}"


def _unproven(best: Result, proven: Sequence[Result]) -> str:
    """The sentence that a choice makes no claim, and which run with one comes next."""
    text = "No proof stands behind it: what these attacks find is all that is known, and others may find more."
    if best.epsilon == math.inf:
        text = f"Its gradients were clipped without noise, which is no differential privacy. {text}"
    if not proven:
        return f"{text} No run that states a guarantee keeps the limit."
    second = max(proven, key=lambda result: result.worth)
    return (
        f"{text} With a guarantee, the most useful run within the limit is {label(second)} ({second.run}):"
        f" {second.utility_text}."
    )


def _nearest(results: Sequence[Result], objections: dict[str, str | None], limit: Limit) -> Iterator[str]:
    """Sentences for a limit that no run keeps: the run that comes nearest."""
    exceeding = [
        (result, row)
        for result in results
        if not result.has_canaries and (row := limit.highest(result)) is not None and upper(row) > limit.most
    ]
    nearest = ""
    if limit.max_tpr is not None and exceeding:
        result, row = min(exceeding, key=lambda pair: upper(pair[1]))
        nearest = f"; {label(result)} comes nearest, with {tpr_text(row)}"
    yield f"none of {counted_runs(len(results))} keeps it{nearest}"
