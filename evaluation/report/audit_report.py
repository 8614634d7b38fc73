"""Report on one existing model, and on records in question: in tables, sentences and a figure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from palisade.evaluation.flags import flags_of_model, other_distribution, ties_of_model
from palisade.evaluation.format import number, percent
from palisade.evaluation.guessing import compare_with_guessing
from palisade.evaluation.measuring.leakage import AT_SHADOWS
from palisade.evaluation.measuring.one_model import BLIND, Audited
from palisade.evaluation.record_test import AskedRecords
from palisade.evaluation.report.audit_page import Page, PageTable, audit_roc, p_value_curve
from palisade.evaluation.result import AUC, FPRS, tpr_at
from palisade.evaluation.statistics.chance import chance_level

COLUMNS = ("attack", "access", "group", "metric", "value", "low", "high", "members", "nonmembers")
"""Of results.csv, named as in that of runs."""
AT_SHADOWS_HEADING = "balanced accuracy\nby one shadow"
INTERVALS = {
    False: "Intervals are 95 %, over records, for this one model",
    True: "Intervals are 95 %, over persons, whose records are drawn together, for this one model; numbers without one"
    " have no interval that holds where a person has several records",
}
"""The sampling unit of the intervals, by `True` where a person has several records."""
SHOWN = 50
"""Records that the page lists; results.csv holds all."""
MEANING = (
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


def meaning(result: Audited) -> tuple[str, ...]:
    """Meaning and limits of the numbers."""
    told = [
        "Only this model was asked, on these records. Members must be records that it was trained on, and non-members"
        " records from the same source that it was not; if they differ in anything else, that difference is measured,"
        " not leakage.",
        f"{INTERVALS[result.over_persons]}; another training on other records may leak more or less. They do not count"
        " that the strongest attack was chosen after the fact.",
    ]
    if result.shadow_records:
        told.append(
            f"Thresholds for each class were learnt on {result.shadow_records:,} answers of one shadow model about"
            " other records (Song & Mittal 2021); their interval is given that shadow. AUC and TPR do not use it."
        )
    return (
        *told,
        "An attacker who trains many shadow models, or knows more, finds more. A weak result is no proof of privacy."
        if result.shadow_records
        else "An attacker who trains shadow models, or knows more, finds more. A weak result is no proof of privacy.",
        "There is no bound on ε here: it takes records of which a coin decided whether they were trained on"
        " (canaries).",
    )


def audit_page(result: Audited, what: str, command: str) -> Page:
    """The page.

    Args:
        result: what was measured.
        what: was audited, in a sentence.
        command: what was called.
    """
    return Page(
        title="Audit of a trained model",
        what=what,
        verdict=verdict(result),
        meaning=meaning(result),
        figure=audit_roc(result),
        figure_heading="Few false accusations",
        figure_label="ROC of the strongest attack and of the blind baseline, both axes logarithmic, with"
        f"{'' if result.over_persons else ' a 95 % band and'} the diagonal of guessing. The numbers stand in the table"
        " of attacks.",
        caption="An accusation only harms if it can be trusted, so the left end counts. The closer to the dotted"
        " diagonal, the less an attacker learns. Where the blind baseline, which never asks the model, rises above it"
        " too, members and non-members differ by themselves."
        + ("" if result.over_persons else " The band holds all of the true curve with 95 % confidence."),
        tables=_tables(result),
        flags=flags_of_model(result),
        skipped=result.skipped,
        rows=[{name: getattr(row, name) for name in COLUMNS} for row in result.rows],
        command=command,
    )


def content(result: Audited) -> dict[str, Any]:
    """Content of report.json beside the words."""
    return {
        "released": result.released,
        "members": int(result.members.sum()),
        "nonmembers": int((~result.members).sum()),
        "strongest": result.strongest,
        "needs": dict(result.needs),
        "intervals_over": over(result),
        "shadow_records": result.shadow_records,
        "rows": [{name: getattr(row, name) for name in COLUMNS} for row in result.rows],
    }


def _tables(result: Audited) -> list[PageTable]:
    rates = ("AUC", *(f"TPR at {100 * fpr:g}% FPR" for fpr in FPRS))
    attacks = [(name, result.needs[name], *_cells(result, name)) for name in result.attacks]
    blind = "records and true label" if result.features else "true label"
    attacks.append(("blind baseline", f"{blind}, never the model", *_cells(result, BLIND)))
    caption = "TPR at 1% FPR: members found while 1 % of the non-members are accused. Brackets: 95 % intervals"
    caption += f" over {over(result)}."
    headings: tuple[str, ...] = rates
    if result.shadow_records:
        named = [*result.attacks, BLIND]
        learnt = [percent(result.find(AT_SHADOWS, attack=name), interval=True) for name in named]
        attacks = [(*line, cell) for line, cell in zip(attacks, learnt, strict=True)]
        headings = (*rates, AT_SHADOWS_HEADING)
        caption += (
            " Balanced accuracy: the mean of the shares of members and of non-members told right, with a threshold for"
            " each class that was learnt on the shadow model; correctness needs none."
        )
    tables = [
        PageTable(
            heading="Every attack",
            caption=caption,
            columns=("attack", "needs", *headings),
            numeric=headings,
            lines=attacks,
        )
    ]
    if result.attacks:
        groups = [row.group for row in result.rows if row.metric == AUC and row.group != "all"]
        lines = [
            (group, *_cells(result, result.strongest, group), f"{row.members:,} / {row.nonmembers:,}")
            for group in groups
            if (row := result.get(AUC, attack=result.strongest, group=group))
        ]
        if lines:
            caption = f"{result.strongest} on the records of one class: a mean over all hides a class that is exposed."
            columns = ("class", *rates, "members / non-members")
            tables.append(
                PageTable(heading="By class", caption=caption, columns=columns, numeric=columns[1:], lines=lines)
            )
        priors = [row for row in result.rows if row.attack == result.strongest and row.metric.startswith("ppv@")]
        tables.append(
            PageTable(
                heading="What an accusation is worth",
                caption=f"Share of those called members by {result.strongest} at 1 % FPR who are, by how many of all"
                " whom an attacker suspects are members.",
                columns=("members among the suspected", "accusations that are right"),
                numeric=("accusations that are right",),
                lines=[
                    (row.metric.split("@")[1].replace("%prior", " %"), percent(row, interval=True))
                    for row in priors
                    if row.group == "all"
                ],
            )
        )
    accuracies = [
        (side, percent(result.get("accuracy", group=side), interval=True)) for side in ("members", "nonmembers")
    ]
    caption = "The gap is what anybody sees who asks for predicted labels alone."
    tables.append(
        PageTable(
            heading="Accuracy",
            caption=caption,
            columns=("records", "accuracy"),
            numeric=("accuracy",),
            lines=[(side.replace("non", "non-"), value) for side, value in accuracies],
        )
    )
    return tables


def _cells(result: Audited, attack: str, group: str = "all") -> tuple[str, ...]:
    tprs = (percent(result.get(tpr_at(fpr), attack=attack, group=group), interval=True) for fpr in FPRS)
    return (number(result.get(AUC, attack=attack, group=group), interval=True), *tprs)


def asked_page(found: AskedRecords, what: str, command: str) -> Page:
    """The page.

    Args:
        found: what was measured.
        what: was asked, in a sentence.
        command: what was called.
    """
    rows = _rows(found)
    columns = ("row", "class", "p-value", "Benjamini–Hochberg", "Holm", "named")
    order = np.argsort(found.p, kind="stable")[:SHOWN]
    lines = [
        (
            str(rows[k]["row"]),
            str(rows[k]["label"]),
            *(f"{rows[k][name]:.4f}" for name in ("p", "p_benjamini_hochberg", "p_holm")),
            "yes" if rows[k]["named"] else "no",
        )
        for k in order.tolist()
    ]
    return Page(
        title="Were these records used?",
        what=what,
        verdict=found.sentences(),
        meaning=MEANING,
        figure=p_value_curve(found.p),
        figure_heading="All records",
        figure_label="The share of the records in question with a p-value up to each level, beside the diagonal that is"
        " expected if none was used.",
        caption="The further the line rises above the dotted one on the left, the more records look used.",
        tables=[
            PageTable(
                heading="Record by record",
                caption=f"The {len(lines)} smallest of {len(rows):,} p-values; row 0 is the first of the file."
                f" Named: Benjamini–Hochberg at most {found.alpha:g}. Score: {found.attack} ({found.needs}).",
                columns=columns,
                numeric=columns[1:],
                lines=lines,
            )
        ],
        flags=found.flags,
        skipped={},
        rows=rows,
        command=command,
    )


def asked_content(found: AskedRecords) -> dict[str, Any]:
    """Content of report.json beside the words."""
    return {
        "attack": found.attack,
        "records": len(found.p),
        "nonmembers": found.nonmembers,
        "alpha": found.alpha,
        "all_together": found.all_together._asdict(),
        "used_share": found.used._asdict(),
        "named": {
            "benjamini_hochberg": int((found.benjamini_hochberg <= found.alpha).sum()),
            "holm": int((found.holm <= found.alpha).sum()),
        },
        "rows": _rows(found),
    }


def _rows(found: AskedRecords) -> list[dict[str, Any]]:
    values = zip(found.labels, found.scores, found.p, found.benjamini_hochberg, found.holm, strict=True)
    return [
        {
            "row": row, "label": int(label), "score": float(score), "p": float(p), "p_benjamini_hochberg": float(bh),
            "p_holm": float(strict), "named": bool(bh <= found.alpha),
        }
        for row, (label, score, p, bh, strict) in enumerate(values)
    ]  # fmt: skip


def verdict(result: Audited) -> list[str]:
    """Sentences on the strongest attack, with its scope."""
    if not result.attacks:
        return ["No attack could run; what each would need stands under “Skipped”."]
    row, auc = result.get(tpr_at(FPRS[0]), attack=result.strongest), result.get(AUC, attack=result.strongest)
    access = auc.access.replace("_", "-").capitalize()
    shadows = "without the shadow model" if result.shadow_records else "no shadow models"
    told = f"{access}, one model, {shadows}: the best attack ({result.strongest})"
    if row.value is not None and not any(ties_of_model(result)):
        found_at = percent(row, interval=True)
        chance = percent(replace(row, value=chance_level([int((~result.members).sum())], FPRS[0])))
        told += f" finds {found_at} of members at 1 % false accusations, where guessing finds {chance}, and"
    told += f" has an AUC of {number(auc, interval=True)}, where guessing has 0.5."
    if (auc.low or 0.0) <= 0.5 and (row.low or 0.0) <= FPRS[0]:
        told += compare_with_guessing(result, result.strongest)
    unrun = "that learn more from shadow models" if result.shadow_records else "with shadow models"
    told += f" Attacks {unrun} were not run and usually find more."
    sentences = [told, *by_shadow(result)]
    if result.over_persons:
        sentences.append("Brackets: 95 % intervals over persons, whose records are drawn together.")
    if any(other_distribution(result)):
        sentences.insert(0, "Members and non-members differ by themselves, so what follows is no measure of leakage.")
    return sentences


def over(result: Audited) -> str:
    """The sampling unit of the intervals: records, or persons with all of theirs."""
    return "persons" if result.over_persons else "records"


def by_shadow(result: Audited) -> Iterator[str]:
    """Balanced accuracy of the thresholds learned on a shadow model, in words."""
    learnt = [row for name in result.attacks if (row := result.find(AT_SHADOWS, attack=name)) is not None]
    if learnt:
        best = max(learnt, key=lambda row: row.value or 0.0)
        yield (
            f"At thresholds learnt on one shadow model, {best.attack} has a balanced accuracy of"
            f" {percent(best, interval=True)}, the highest of {len(learnt)} attacks; guessing has 50 %."
        )
