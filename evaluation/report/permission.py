"""May it leave? The answer by the limit that was set; where none was, the limits that runs would keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.format import NO_NUMBER
from palisade.evaluation.labels import crowd_word, label
from palisade.evaluation.limit import (
    LIMIT_EXCEEDED,
    NOT_DECIDED,
    WITHIN_LIMIT,
    Limit,
    highest_auc,
    is_shadowless,
    tpr_text,
    upper,
)
from palisade.evaluation.report.page import Entry
from palisade.evaluation.result import Result
from palisade.frequencies import MIN_CROWD_SIZE, count, crowd, frequencies

LEAVE_QUESTION = "May it leave?"
ANSWERS_BY_VERDICT: Mapping[str, str] = {WITHIN_LIMIT: "yes", NOT_DECIDED: "not known", LIMIT_EXCEEDED: "no"}
"""The answer for one run, by the word of its verdict, from the best on."""
AS_FAR_AS_KNOWN = "yes, as far as attacks without shadow models can tell"
UNPROVEN_ANSWER = "yes, by what attacks find: no proof stands behind it"
EXAMPLE_TPR = 0.05
"""TPR of the limit that a page without one proposes as an example, not as a recommendation."""
TPR_DIGITS = 3
AT_MOST_HEADING = f"members found at most, of {MIN_CROWD_SIZE:,}"
NOT_MEASURED = "cannot be measured"
MOST_NAMED = 3
"""Runs that a heading names; more are counted."""


def by_limit(comparison: Comparison, limit: Limit) -> Entry:
    """The answer by a limit: `heading`, the `limit` in a layman's words, and a line for each run, those that may leave
    first: its `title`, the `answer`, what was `measured`, the reason `why` it may not, and the decisive `attacks`.

    Args:
        comparison: of all runs that are judged together, or of one model.
        limit: of the gate or of the choice.
    """
    verdicts = {result.run: limit.verdict(result, comparison) for result in _leaving(comparison)}
    lines = [
        {
            "title": label(result),
            "answer": _answer(result, verdicts[result.run].word),
            "measured": _measured(result, limit),
            "why": _beside_measured(verdicts[result.run].why or "", result, limit),
            "attacks": _decisive(result, limit),
        }
        for result in sorted(_leaving(comparison), key=lambda one: [*ANSWERS_BY_VERDICT].index(verdicts[one.run].word))
    ]
    return {
        "heading": f"{LEAVE_QUESTION} {_heading(lines)}",
        "is_set": True,
        "limit": f"The limit ({limit.name}): {limit_text(limit, _first(comparison))}. Only the upper end of"
        f" the 95 % interval counts.{_on_the_upper_end(comparison)}",
        "columns": [_subject_word(comparison), "may it leave?", _measured_heading(limit), "why not"],
        "lines": lines,
    }


def without_limit(comparison: Comparison) -> Entry:
    """The answer where nobody set a limit: how to set one, and for each run of the verdict the smallest that it keeps,
    by the names of `by_limit`."""
    first = _first(comparison)
    example = limit_text(Limit(name="gate", max_tpr=EXAMPLE_TPR), first)
    choose = "; choose.max_tpr names the most useful run that keeps it" if first.sides is None else ""
    shown = [highlight.result for highlight in comparison.highlights] if first.sides is None else [first]
    return {
        "heading": f"{LEAVE_QUESTION} Nobody has set a limit",
        "is_set": False,
        "limit": "What may be found at most is for people to decide, before they look: it depends on what being in the"
        f" data reveals, and to whom. As an example, gate.max_tpr={EXAMPLE_TPR:g} says: {example}{choose}. Evaluate"
        " again with it, and this page answers. The smallest limit that a run keeps is the upper end of its 95 %"
        f" interval.{_on_the_upper_end(comparison)}",
        "columns": [_subject_word(comparison), "smallest limit that it keeps", AT_MOST_HEADING, "why none"],
        "lines": [_smallest(result, comparison) for result in shown if not result.has_canaries],
    }


def in_public(entry: Entry) -> Entry:
    """An answer without numbers and reasons: these follow from single models, and from accuracy on members."""
    lines = [{**line, "measured": "", "why": "", "attacks": []} for line in entry["lines"] if entry["is_set"]]
    return {**entry, "columns": entry["columns"][:2], "lines": lines}


def limit_text(limit: Limit, result: Result) -> str:
    """A limit in a layman's words."""
    parts = []
    if limit.max_tpr is not None:
        parts.append(frequencies(limit.max_tpr, limit.at, who=crowd_word(result), most=True))
    if rest := _beside_tpr(limit):
        parts.append(str(rest))
    return ", and ".join(parts)


def _first(comparison: Comparison) -> Result:
    """The first run that may leave; where only canaries were attacked, the first of all."""
    return next(iter(_leaving(comparison)), comparison.results[0])


def _subject_word(comparison: Comparison) -> str:
    return "run" if comparison.results[0].sides is None else "model"


def _leaving(comparison: Comparison) -> list[Result]:
    """The runs of which a release may be trained."""
    return [result for result in comparison.results if not result.has_canaries]


def _answer(result: Result, word: str) -> str:
    if word != WITHIN_LIMIT:
        return ANSWERS_BY_VERDICT[word]
    if is_shadowless(result):
        return AS_FAR_AS_KNOWN
    return ANSWERS_BY_VERDICT[word] if result.statement.guarantee else UNPROVEN_ANSWER


def _heading(lines: Sequence[Entry]) -> str:
    answers = [line["answer"] for line in lines]
    able = [line["title"] for line in lines if line["answer"].startswith(ANSWERS_BY_VERDICT[WITHIN_LIMIT])]
    if not lines:
        return "Not known: only canaries were attacked"
    if len(able) == len(lines):
        weakest = [answer for answer in (AS_FAR_AS_KNOWN, UNPROVEN_ANSWER) if answer in answers]
        return [*weakest, ANSWERS_BY_VERDICT[WITHIN_LIMIT]][0].capitalize()
    if able:
        return f"Only {' or '.join(able) if len(able) <= MOST_NAMED else f'{len(able)} of {len(lines)} runs'}"
    return "Not known yet" if ANSWERS_BY_VERDICT[NOT_DECIDED] in answers else "No"


def _on_the_upper_end(comparison: Comparison) -> str:
    """The reason why an upper end may lie above that of a table; empty where a single model was attacked."""
    if _first(comparison).sides is not None:
        return ""
    return " Here it also allows for how much the models differ, so that it may lie a little above that of the tables."


def _measured_heading(limit: Limit) -> str:
    return "what attacks find" if limit.max_tpr is None else f"members found, of {crowd(limit.at):,}"


def _beside_measured(why: str, result: Result, limit: Limit) -> str:
    """A reason without the TPR that it begins with, which stands beside it."""
    row = limit.highest(result) if limit.max_tpr is not None and result.attacks else None
    return why if row is None else why.removeprefix(tpr_text(row)).lstrip(", ")


def _measured(result: Result, limit: Limit) -> str:
    """Measurements that are compared with the limit, TPRs as counts of the crowd that the heading names."""
    parts = []
    if limit.max_tpr is not None:
        row, size = limit.highest(result) if result.attacks else None, crowd(limit.at)
        if row is None:
            parts.append(NOT_MEASURED)
        else:
            parts.append(f"{count(row.value or 0.0, size)} (up to {count(upper(row), size)}) by {row.attack}")
    if rest := _beside_tpr(limit):
        parts.append(rest.measured(result))
    return "; ".join(parts)


def _beside_tpr(limit: Limit) -> Limit | None:
    """The part of a limit that is about AUC and accuracy; None if it is about the TPR alone."""
    if limit.max_auc is None and limit.max_gap is None:
        return None
    return replace(limit, max_tpr=None, fpr=None)


def _decisive(result: Result, limit: Limit) -> list[str]:
    """The attacks that a limit on TPR or AUC is compared with."""
    if not result.attacks:
        return []
    rows = [limit.highest(result)] if limit.max_tpr is not None else []
    rows += [highest_auc(result)] if limit.max_auc is not None else []
    return [row.attack for row in rows if row is not None]


def _smallest(result: Result, comparison: Comparison) -> Entry:
    """The line of a run with the smallest `gate.max_tpr` that its measurements keep; a dash where they keep none."""
    any_tpr = Limit(name="gate", max_tpr=1.0)
    row = any_tpr.highest(result) if result.attacks else None
    least = any_tpr.at if row is None else max(upper(row), result.guessing_level(row), any_tpr.at)
    rounded = math.floor(least * 10**TPR_DIGITS + 1) / 10**TPR_DIGITS
    limit = replace(any_tpr, max_tpr=min(rounded, 1.0))
    word, why = limit.verdict(result, comparison)
    answer = measured = NO_NUMBER
    if word == WITHIN_LIMIT and row is not None:
        answer, measured = f"gate.max_tpr={limit.most:g}", f"{count(limit.most, crowd(limit.at))} by {row.attack}"
    return {
        "title": label(result),
        "answer": answer,
        "measured": measured,
        "why": why or "",
        "attacks": _decisive(result, limit),
    }
