"""`evaluate.py audit=…`: from files and a model that are there already to one page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.audits.answered_records import AnsweredRecords, answered, check_alike, view_of
from evaluation.audits.asked_records import ask_records
from evaluation.audits.asked_report import asked_content, asked_page
from evaluation.audits.audited import audited
from evaluation.audits.audited_model import AuditedModel, of_file, of_release
from evaluation.audits.endpoint import Endpoint
from evaluation.audits.gate import judge
from evaluation.audits.report import audit_page, content
from evaluation.audits.saved_records import LEAST, SavedRecords, enough, read
from evaluation.audits.table import show
from evaluation.limit import Limit
from evaluation.method import Method

ENDPOINT = ("endpoint", "budget", "batch", "rate", "timeout")


def audit(settings: Mapping[str, Any], method: Method) -> bool:
    """Audits what is there already, prints the table and writes the page; whether the gate, if any, lets it pass.

    Args:
        settings: those of `conf/audit`, with those of the report and the gate.
        method: attacks, and what they are granted.

    Raises:
        ValueError: if a file, a model or a setting is wrong.
    """
    kind, gate = settings["audit"]["name"], Limit.asked("gate", settings)
    if Limit.asked("choose", settings) is not None or (gate is not None and kind == "records"):
        wrong = "gate" if gate is not None else "choose"
        raise ValueError(f"{wrong}.max_tpr has nothing to judge in audit={kind}; leave it out")
    folder = Path(settings["reports"]) / (settings["name"] or f"audit_{kind}")
    questioned = "records" if kind == "records" else "members"
    model = _model(settings, folder)
    sides = {key: _read(key, settings) for key in (questioned, "nonmembers")}
    enough(sides[questioned], 1 if kind == "records" else LEAST)
    enough(sides["nonmembers"])
    if settings["population"]:
        sides["population"] = enough(_read("population", settings))
    found = {key: answered(saved, model, method.grant) for key, saved in sides.items()}
    check_alike(list(found.values()))
    one, other, population = found[questioned], found["nonmembers"], found.get("population")
    shared = shared_rows(one, other)
    seen = view_of(one, other, population, method.grant, model)
    whose = "saved answers" if model is None else model.name
    what = f"{whose}: {len(one):,} {questioned}, {len(other):,} non-members, answers: {seen.outputs}."
    if kind == "records":
        if shared:
            raise ValueError(
                f"{other.name} holds {shared} of the records in question; remove them from the non-members"
            )
        asked = ask_records(seen, method.audit, settings["alpha"])
        page, told = asked_page(asked, what, settings["command"]), asked_content(asked)
    else:
        if shared == len(other):
            raise ValueError(
                f"{one.name} and {other.name} hold the same records; give records that it was not trained on"
            )
        measured = audited(seen, method.make_attacks(), shared=shared)
        page, told = audit_page(measured, what, settings["command"]), content(measured)
    show(page)
    for path in page.write(folder, told):
        print(path)
    if kind == "records" or gate is None:
        return True
    line, passed = judge(measured, gate)
    print("", line, sep="\n")
    return passed


def shared_rows(one: AnsweredRecords, other: AnsweredRecords) -> int:
    """How many records of the other side this side holds too, known by their features or else by their logits.

    Other answers are alike for records that are not: None of them count.
    """

    def rows(side: AnsweredRecords) -> list[bytes]:
        known = (
            side.features if side.features is not None else side.answers if side.level == "logits" else side.answers[:0]
        )
        numbers = np.asarray(known, dtype=np.float64) + 0.0  # whatever the type they were saved in; −0 is 0
        return [row.tobytes() + bytes(label) for row, label in zip(numbers, side.labels, strict=False)]

    there = set(rows(one))
    return sum(row in there for row in rows(other))


def _read(key: str, settings: Mapping[str, Any]) -> SavedRecords:
    if (path := settings[key]) in (None, "???"):
        raise ValueError(f"{key} is not given; add {key}=<file.npz or file.csv>")
    return read(key, str(path), settings.get("label"))


def _model(settings: Mapping[str, Any], folder: Path) -> AuditedModel | None:
    """The model that is asked; None where answers were saved."""
    kinds = [key for key in ("release", "model", "endpoint") if settings.get(key) not in (None, "???")]
    if len(kinds) > 1:
        raise ValueError(f"{kinds[0]} and {kinds[1]} are both given; audit one model at a time")
    if not kinds:
        if (kind := settings["audit"]["name"]) in ("model", "endpoint"):
            raise ValueError(f"{kind} is not given; add {kind}=<what to ask>")
        return None
    if kinds[0] == "endpoint":
        given = {key: settings[key] for key in ENDPOINT}
        return Endpoint(**given, answers=settings["answers"] or "probabilities").open(folder)
    network = settings.get("network") or {}
    if kinds[0] == "release":
        return of_release(str(settings["release"]), network)
    return of_file(str(settings["model"]), network, settings["answers"] or "logits")
