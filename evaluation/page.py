"""The report as a page for people: every value escaped, nothing loaded from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from evaluation.choice import are_many
from evaluation.curves import FPR, ordered, series
from evaluation.findings import AUC, FPRS, Findings, tpr_at
from evaluation.flags import meanings
from evaluation.frontier import has_frontier
from evaluation.sections import BOUNDS, compared, evidence, exposed
from evaluation.style import INK, MUTED, PAPER
from evaluation.table import HEADINGS, NOTHING, WORDS, attack_text, lines, percent, skips
from evaluation.titles import line_name, title

NUMBERS = (
    "attack", "needs", "queries declared / made", "AUC", "TPR at 1% FPR", "TPR at 0.1% FPR", "members / non-members",
)  # fmt: skip
DESCRIBED = {
    "mechanism": "mechanism",
    "noise_multiplier": "noise multiplier σ", "max_grad_norm": "clipping norm C", "sampling": "sampling",
    "sampling_rate": "sampling rate q", "public_size": "public size N", "steps_planned": "steps planned",
    "steps_done": "steps done", "accountant": "accountant", "epsilon_rdp": "ε by Rényi accounting",
    "neighboring": "neighboring relation", "unit": "unit of privacy", "randomness": "randomness",
    "engine": "engine of clipping",
}  # fmt: skip
"""What of a statement is told, in which words."""
OWN = ("defense", "guard", "canary", "seed")
"""Parts of a configuration in which runs on one curve may differ."""


def render(findings: Sequence[Findings], content: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """The page: one file that needs nothing else, no network and no script.

    Args:
        findings: of comparable runs.
        content: what report.json holds.
        figures: SVG by name, to be shown inline.
    """
    runs = ordered(findings)
    private = [found for found in runs if found.epsilon is not None]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_unbroken,
    )  # fmt: skip
    return environment.get_template("report.html.j2").render(
        **content,
        headings=[heading.replace(" ", "\u00a0").replace("\n", " ") for heading in HEADINGS],
        words=(*WORDS, "needs"),
        table=lines(runs),
        figures=figures,
        numbers=NUMBERS,
        leakage=[(title(found), _numbers(found)) for found in runs],
        claims=[(title(found), found.statement) for found in private],
        facts=_facts(private),
        unproven=list(dict.fromkeys(line_name(found) for found in runs if found.epsilon is None)),
        guarded=list(dict.fromkeys(line_name(found) for found in runs if found.guard != "none")),
        frontier=has_frontier(series(runs)),
        one_each=are_many(series(runs)),
        meanings=meanings(runs),
        not_covered=_not_covered(runs),
        guarantees=sum(found.statement.guarantee for found in private),
        skipped=skips(runs),
        evidence=evidence(runs),
        bounds=list(BOUNDS.values()),
        compared=compared(runs),
        exposed=exposed(runs),
        fpr=f"{100 * FPR:g} %",
        shared=yaml.safe_dump(_without(runs[0].config), sort_keys=False, allow_unicode=True),
        settings=[(title(found), found.run, _setting(found)) for found in runs],
    )


def _numbers(found: Findings) -> list[tuple[str, ...]]:
    """A run's attacks, by `NUMBERS`."""
    told = []
    for attack in found.attacks:
        auc, *tprs = (found.get(metric, attack=attack) for metric in (AUC, *map(tpr_at, FPRS)))
        interval = _plain(auc.value, auc.low, auc.high)
        scored = f"{auc.members:,} / {auc.nonmembers:,}"
        rates = [percent(tpr, interval=True) for tpr in tprs]
        told.append((attack_text(found, attack), *_needs(found, attack), interval, *rates, scored))
    return told


def _needs(found: Findings, attack: str) -> tuple[str, str]:
    """What an attack needs, and how many queries a record it declares and makes."""
    if (needs := found.needs.get(attack)) is None:
        return NOTHING, NOTHING
    declared = "any" if needs["declared"] is None else needs["declared"]
    return needs["text"], f"{declared} / {needs['measured']:,.4g}"


def _plain(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}–{high:.3f}]"


def _facts(private: Sequence[Findings]) -> list[tuple[str, list[str]]]:
    """What the mechanisms were: for each thing that is known of any run, its value for every run."""
    values = {words: [getattr(found.statement, name) for found in private] for name, words in DESCRIBED.items()}
    return [
        (words, [NOTHING if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in row])
        for words, row in values.items()
        if any(value is not None for value in row)
    ]


def _not_covered(runs: Sequence[Findings]) -> list[tuple[tuple[str, ...], list[str]]]:
    """What the claims leave out, each list once, with the runs whose claim it is."""
    lists: dict[tuple[str, ...], list[str]] = {}
    for found in runs:
        if found.statement.not_covered:
            lists.setdefault(found.statement.not_covered, []).append(title(found))
    return list(lists.items())


def _without(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the runs share."""
    return {key: value for key, value in config.items() if key not in (*OWN, "names", "fleet")}


def _setting(found: Findings) -> str:
    own = {key: found.config[key] for key in OWN if found.config.get(key) is not None}
    if found.guard != "none":
        own["guard"] = {"name": found.guard, "strength": found.guard_strength}
    text: str = yaml.safe_dump(own, sort_keys=False, allow_unicode=True, default_flow_style=None)
    return text.strip()


def _unbroken(value: Any) -> Any:
    """Keeps a number and its percent sign on one line."""
    return value.replace(" %", "\u00a0%") if type(value) is str else value


def inline(drawing: str, prefix: str) -> str:
    """An SVG file as a part of a page: without its header, with ids of its own and the page's colors."""
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r' xmlns(:\w+)?="[^"]*"', "", drawing)
    drawing = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{prefix}-", drawing)
    for color, variable in ((INK, "ink"), (MUTED, "muted"), (PAPER, "paper")):
        drawing = drawing.replace(color, f"var(--{variable})")
    return drawing
