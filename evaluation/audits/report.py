"""Report on the audit of one model: in tables, sentences and a figure."""

from __future__ import annotations

from typing import Any

from palisade.evaluation.audits.audited import BLIND, Audited
from palisade.evaluation.audits.flags import flags, over, verdict
from palisade.evaluation.audits.page import Page, Table
from palisade.evaluation.audits.plot import audit_roc
from palisade.evaluation.format import number, percent
from palisade.evaluation.measuring.leakage import AT_SHADOWS
from palisade.evaluation.result import AUC, FPRS, tpr_at

COLUMNS = ("attack", "access", "group", "metric", "value", "low", "high", "members", "nonmembers")
"""Of results.csv, named as in that of runs."""
AT_SHADOWS_HEADING = "balanced accuracy\nby one shadow"
INTERVALS = {
    False: "Intervals are 95 %, over records, for this one model",
    True: "Intervals are 95 %, over persons, whose records are drawn together, for this one model; numbers without one"
    " have no interval that holds where a person has several records",
}
"""The sampling unit of the intervals, by `True` where a person has several records."""


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
        flags=flags(result),
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


def _tables(result: Audited) -> list[Table]:
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
        Table(
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
            tables.append(Table(heading="By class", caption=caption, columns=columns, numeric=columns[1:], lines=lines))
        priors = [row for row in result.rows if row.attack == result.strongest and row.metric.startswith("ppv@")]
        tables.append(
            Table(
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
        Table(
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
