"""Reports on one existing model and on records in question: pages, and numbers in files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.text import Text

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.figures.curves import p_value_curve, roc_of_model
from palisade.evaluation.flags import flags
from palisade.evaluation.format import console_for, number, percent, show
from palisade.evaluation.labels import compare_with_guessing, detection_text
from palisade.evaluation.limit import Limit
from palisade.evaluation.measuring.leakage import AT_SHADOWS
from palisade.evaluation.record_test import AskedRecords
from palisade.evaluation.report.page import PageTable, explained, write_page
from palisade.evaluation.report.permission import by_limit, without_limit
from palisade.evaluation.report.scope import INTERNAL_SCOPE
from palisade.evaluation.result import (
    AUC,
    LARGEST_CLASS,
    MEMBER_GROUP,
    NONMEMBER_GROUP,
    REPORTED_FPRS,
    Result,
    Row,
    tpr_at,
)
from palisade.evaluation.table import RATE_HEADINGS, TextTable, attacks_on_model, drawn, foretells_tokens, rates

AUDIT_COLUMNS = ("attack", "access", "group", "metric", "value", "low", "high", "members", "nonmembers")
"""Columns of results.csv, named as in that of runs."""
INTERVAL_NOTES = {
    False: "Intervals are 95 %, over records, for this one model",
    True: "Intervals are 95 %, over persons, whose records are drawn together, for this one model; numbers without one"
    " have no interval that holds where a person has several records",
}
"""The sampling unit of the intervals, by `True` where a person has several records."""


def write_model(
    comparison: Comparison, what: str, command: str, folder: Path, notes: Sequence[str] = (),
    decided: Sequence[Sequence[str]] = (), limits: Sequence[Limit] = (),
) -> list[Path]:  # fmt: skip
    """Writes the page of one model and its numbers, each file whole or not at all.

    Args:
        comparison: of its result alone.
        what: was audited, in a sentence.
        command: what was called.
        folder: where to; made if it is missing.
        notes: sentences that follow the verdict.
        decided: lines of the gate, if it was asked for.
        limits: of the gate, if it was asked for.
    """
    (result,) = comparison.results
    sides = result.sides
    assert sides is not None
    rows = [{name: getattr(row, name) for name in AUDIT_COLUMNS} for row in result.rows]
    leave = [by_limit(comparison, limit) for limit in limits] or [without_limit(comparison)]
    words = {
        "title": "Audit of a trained model", "scope": INTERNAL_SCOPE, "what": what,
        "verdict": [*verdict(result), *notes],
        "leave": leave,
        "decided": [list(lines) for lines in decided], "meaning": list(meaning(result)),
        "flags": [asdict(flag) for flag in flags(result, comparison)],
        "skipped": dict(result.skipped),
    }  # fmt: skip
    measured = {
        "released": result.released, "members": sides.members, "nonmembers": sides.nonmembers,
        "strongest": result.strongest if result.attacks else None,
        "needs": {attack: needs["text"] for attack, needs in result.needs.items()},
        "intervals_over": sampling_unit(result),
        "shadow_records": sides.shadow_records, "rows": rows,
        **({"shadow_models": sides.shadow_models} if sides.shadow_models else {}),
    }  # fmt: skip
    band = "" if sides.over_persons else " a 95 % band and"
    figure = {
        "heading": "Few false accusations",
        "label": f"ROC of the strongest attack and of the blind baseline, both axes logarithmic, with{band} the"
        " diagonal of guessing. The numbers stand in the table of attacks.",
        "caption": "An accusation only harms if it can be trusted, so the left end counts. The closer to the dotted"
        " diagonal, the less an attacker learns. Where the blind baseline, which never asks the model, rises above it"
        " too, members and non-members differ by themselves."
        + ("" if sides.over_persons else " The band holds all of the true curve with 95 % confidence."),
    }
    decisive = [name for entry in leave for line in entry["lines"] for name in line["attacks"]]
    strongest = [result.strongest, *(row.attack for row in _at_shadows(result)[:1])] if result.attacks else []
    ideas = explained([result], [*decisive, *strongest], result.attacks)
    return write_page(folder, words, measured, rows, roc_of_model(result), figure, tables(result), command, ideas)


def meaning(result: Result) -> tuple[str, ...]:
    """Meaning and limits of the numbers."""
    sides = result.sides
    assert sides is not None
    limits = [
        "Only this model was asked, on these records. Members must be records that it was trained on, and non-members"
        " records from the same source that it was not; if they differ in anything else, that difference is measured,"
        " not leakage.",
        f"{INTERVAL_NOTES[sides.over_persons]}; another training on other records may leak more or less. They do not"
        " count that the strongest attack was chosen after the fact.",
    ]
    if sides.shadow_records:
        limits.append(
            f"Thresholds for each class were learnt on {sides.shadow_records:,} answers of one shadow model about"
            " other records (Song & Mittal 2021); their interval is given that shadow. AUC and TPR do not use it."
        )
    return (
        *limits,
        "An attacker who trains many shadow models, or knows more, finds more. A weak result is no proof of privacy."
        if sides.shadow_records or sides.shadow_models
        else "An attacker who trains shadow models, or knows more, finds more. A weak result is no proof of privacy.",
        "There is no bound on ε here: it takes records of which a coin decided whether they were trained on"
        " (canaries).",
    )


def tables(result: Result) -> list[PageTable]:
    """Every attack, the strongest by class and by prior, and the accuracy of the model."""
    assert result.sides is not None
    caption = "TPR at 1% FPR: members found while 1 % of the non-members are accused. Brackets: 95 % intervals"
    caption += f" over {sampling_unit(result)}."
    if result.sides.shadow_records:
        caption += (
            " Balanced accuracy: the mean of the shares of members and of non-members told right, with a threshold for"
            " each class that was learnt on the shadow model; correctness needs none."
        )
    shown = [PageTable(heading="Every attack", caption=caption, content=attacks_on_model(result))]
    if result.attacks:
        shown += _of_strongest(result)
    sides = zip(("members", "non-members"), (MEMBER_GROUP, NONMEMBER_GROUP), result.accuracies, strict=True)
    lines = [
        (words, percent(row, interval=True), percent(result.find(LARGEST_CLASS, group=group)))
        for words, group, row in sides
    ]
    columns = ("records", "accuracy", "share of the largest class")
    if foretells_tokens(result):
        foretold = TextTable(("records", "tokens foretold"), ("tokens foretold",), [line[:2] for line in lines])
        caption = "Share of the tokens that are the model’s most likely ones; – where it does not say which are."
        return [*shown, PageTable(heading="Tokens foretold", caption=caption, content=foretold)]
    shown.append(
        PageTable(
            heading="Accuracy",
            caption="The gap is what anybody sees who asks for predicted labels alone. Always naming the largest class"
            " has its share as accuracy.",
            content=TextTable(columns, columns[1:], lines),
        )
    )
    return shown


def _of_strongest(result: Result) -> Iterator[PageTable]:
    attack = result.strongest
    aucs = [row for row in result.rows if (row.metric, row.attack) == (AUC, attack) and row.group != "all"]
    lines = [(row.group, *rates(result, attack, row.group), f"{row.members:,} / {row.nonmembers:,}") for row in aucs]
    if lines:
        columns = ("class", *RATE_HEADINGS, "members / non-members")
        yield PageTable(
            heading="By class",
            caption=f"{attack} on the records of one class: a mean over all hides a class that is exposed.",
            content=TextTable(columns, columns[1:], lines),
        )
    priors = [row for row in result.rows if row.attack == attack and row.metric.startswith("ppv@")]
    columns = ("members among the suspected", "accusations that are right")
    shares = [(row.metric.split("@")[1].replace("%prior", " %"), row) for row in priors if row.group == "all"]
    yield PageTable(
        heading="What an accusation is worth",
        caption=f"Share of those called members by {attack} at 1 % FPR who are, by how many of all"
        " whom an attacker suspects are members.",
        content=TextTable(columns, columns[1:], [(prior, percent(row, interval=True)) for prior, row in shares]),
    )


def verdict(result: Result) -> list[str]:
    """Sentences on the strongest attack, with its scope."""
    sides = result.sides
    assert sides is not None
    if not result.attacks:
        return ["No attack could run; what each would need stands under “Skipped”."]
    row, auc = result.get(tpr_at(REPORTED_FPRS[0]), attack=result.strongest), result.get(AUC, attack=result.strongest)
    access = auc.access.replace("_", "-").capitalize()
    shadows = "without the shadow model" if sides.shadow_records else f"{sides.shadow_models or 'no'} shadow models"
    leakage = f"{access}, one model, {shadows}: the best attack ({result.strongest}) "
    auc_text = f"has an AUC of {number(auc, interval=True)}, where guessing has 0.5."
    if row.value is not None and not result.is_tied:
        words = detection_text(result, row)
        leakage = f"{access}, one model, {shadows}, by the best attack ({result.strongest}): {words}. It "
    leakage += auc_text
    if (auc.low or 0.0) <= 0.5 and (row.low or 0.0) <= REPORTED_FPRS[0]:
        leakage += compare_with_guessing(result, result.strongest)
    if not sides.shadow_models:
        unrun = "that learn more from shadow models" if sides.shadow_records else "with shadow models"
        leakage += f" Attacks {unrun} were not run and usually find more."
    sentences = [leakage, *by_shadow(result)]
    if sides.over_persons:
        sentences.append("Brackets: 95 % intervals over persons, whose records are drawn together.")
    if result.explained == 1:
        sentences.insert(0, "Members and non-members differ by themselves, so what follows is no measure of leakage.")
    elif result.explained > 0:
        sentences.append(
            "Members and non-members differ by themselves; that explains at most"
            f" {100 * result.explained:.0f} % of what the best attack finds beyond guessing."
        )
    return sentences


def sampling_unit(result: Result) -> str:
    """The sampling unit of the intervals: records, or persons with all of theirs."""
    return "persons" if result.sides is not None and result.sides.over_persons else "records"


def by_shadow(result: Result) -> Iterator[str]:
    """Balanced accuracy of the thresholds learned on a shadow model, in words."""
    if learnt := _at_shadows(result):
        best = learnt[0]
        yield (
            f"At thresholds learnt on one shadow model, {best.attack} has a balanced accuracy of"
            f" {percent(best, interval=True)}, the highest of {len(learnt)} attacks; guessing has 50 %."
        )


def _at_shadows(result: Result) -> list[Row]:
    """Balanced accuracies at thresholds learned on a shadow model, the highest first."""
    learnt = [row for name in result.attacks if (row := result.find(AT_SHADOWS, attack=name)) is not None]
    return sorted(learnt, key=lambda row: -(row.value or 0.0))


LISTED_RECORDS = 50
"""Records that the page lists; results.csv holds all."""
P_VALUE_MEANING = (
    "A p-value is how often a record that was not used, but is otherwise like the non-members, would look at least as"
    " much used as this one. A small one is evidence of use, no proof: an easy record, or one that resembles somebody"
    " else's used record, gets a small one too.",
    "It holds only if the non-members are like the records in question in everything but their use: same source, same"
    " time, same treatment. No test can check that fully (Zhang et al. 2024, “Membership Inference Attacks Cannot Prove"
    " that a Model Was Trained On Your Data”).",
    "A large p-value proves nothing: well-trained and protected models hide most of what they were trained on.",
    "The test of all records takes them as independent. Many rows of one person, or copies, make it too sure.",
    "One score was fixed before any answer was seen. Whoever tries several files, models or scores and reports the best"
    " must correct for that.",
)
RECORD_COLUMNS = ("row", "class", "p-value", "Benjamini–Hochberg", "Holm", "named")


def write_records(asked: AskedRecords, what: str, command: str, folder: Path, notes: Sequence[str] = ()) -> list[Path]:
    """Writes the page of a test of records and its numbers, each file whole or not at all.

    Args:
        asked: what was measured.
        what: was asked, in a sentence.
        command: what was called.
        folder: where to; made if it is missing.
        notes: sentences that follow the verdict.
    """
    rows = _rows(asked)
    words = {
        "title": "Were these records used?", "scope": INTERNAL_SCOPE, "what": what,
        "verdict": [*asked.sentences(), *notes], "leave": [], "decided": [], "meaning": list(P_VALUE_MEANING),
        "flags": [asdict(flag) for flag in asked.flags], "skipped": {},
    }  # fmt: skip
    measured = {
        "attack": asked.attack,
        "records": len(asked.p),
        "nonmembers": asked.nonmembers,
        "alpha": asked.alpha,
        "all_together": asked.all_together._asdict(),
        "used_share": asked.used._asdict(),
        "accuracy": [
            {name: getattr(row, name) for name in ("group", "value", "low", "high")} for row in asked.accuracy
        ],
        "named": {
            "benjamini_hochberg": int((asked.benjamini_hochberg <= asked.alpha).sum()),
            "holm": int((asked.holm <= asked.alpha).sum()),
        },
        **({} if asked.dataset is None else {"dataset_inference": asked.dataset._asdict()}),
        **({"no_verdict": asked.no_verdict} if asked.texts else {}),
        "rows": rows,
    }
    figure = {
        "heading": "All records",
        "label": "The share of the records in question with a p-value up to each level, beside the diagonal that is"
        " expected if none was used.",
        "caption": "The further the line rises above the dotted one on the left, the more records look used.",
    }
    table = most_suspect(asked)
    listed = PageTable(
        heading="Record by record",
        caption=f"The {len(table.lines)} smallest of {len(rows):,} p-values; row 0 is the first of the file."
        f" Named: Benjamini–Hochberg at most {asked.alpha:g}. Score: {asked.attack} ({asked.needs}).",
        content=table,
    )
    ideas: list[dict[str, str]] = [{}, {asked.attack: asked.idea} if asked.idea else {}]
    return write_page(folder, words, measured, rows, p_value_curve(asked.p), figure, [listed], command, ideas)


def show_records(asked: AskedRecords, notes: Sequence[str] = ()) -> None:
    """Prints the records with the smallest p-values, the verdict, and what the flags mean."""
    console = console_for()
    show(console, drawn(most_suspect(asked)), *asked.sentences(), *notes)
    for flag in asked.flags:
        console.print(Text.assemble((f"{flag.name}: ", "yellow"), flag.sentence))


def most_suspect(asked: AskedRecords) -> TextTable:
    """The records with the smallest p-values."""
    rows = _rows(asked)
    order = np.argsort(asked.p, kind="stable")[:LISTED_RECORDS]
    lines = [
        (
            str(rows[k]["row"]),
            str(rows[k]["label"]),
            *(f"{rows[k][name]:.4f}" for name in ("p", "p_benjamini_hochberg", "p_holm")),
            "yes" if rows[k]["named"] else "no",
        )
        for k in order.tolist()
    ]
    if asked.texts:  # which have no class
        columns = tuple(name for name in RECORD_COLUMNS if name != "class")
        return TextTable(columns, columns[1:], [(line[0], *line[2:]) for line in lines])
    return TextTable(RECORD_COLUMNS, RECORD_COLUMNS[1:], lines)


def _rows(asked: AskedRecords) -> list[dict[str, Any]]:
    values = zip(asked.labels, asked.scores, asked.p, asked.benjamini_hochberg, asked.holm, strict=True)
    return [
        {
            "row": row, "label": int(label), "score": float(score), "p": float(p), "p_benjamini_hochberg": float(bh),
            "p_holm": float(strict), "named": bool(bh <= asked.alpha),
        }
        for row, (label, score, p, bh, strict) in enumerate(values)
    ]  # fmt: skip
