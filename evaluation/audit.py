"""`evaluate.py audit=…`: from files and a model that are there already to one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, cast, get_args

from palisade.data.settings import validated
from palisade.evaluation.comparison import Comparison
from palisade.evaluation.limit import Limit, gate
from palisade.evaluation.measuring.one_model import measure_model
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.record_test import ask_records
from palisade.evaluation.report.audit_pages import show_records, verdict, write_model, write_records
from palisade.evaluation.subjects.answer_forms import named_classes
from palisade.evaluation.subjects.answers import (
    AnsweredRecords,
    answered,
    askable,
    check_alike,
    check_apart,
    check_classes_alike,
    counted,
    enough_persons,
    joined,
    notes_on_form,
    shadow_sides,
    shared_rows,
)
from palisade.evaluation.subjects.audited_model import Answers, AuditedModel
from palisade.evaluation.subjects.completions import Completions
from palisade.evaluation.subjects.endpoint import Endpoint
from palisade.evaluation.subjects.local_texts import of_texts
from palisade.evaluation.subjects.model_file import of_file, of_release
from palisade.evaluation.subjects.raw_rows import aligned, is_table, with_raw_rows
from palisade.evaluation.subjects.saved_records import MIN_RECORDS_PER_SIDE, TOKEN_LOGPROBS, SavedRecords, enough, read
from palisade.evaluation.subjects.shadow_fleet import ShadowFleet
from palisade.evaluation.subjects.subject import ModelSubject
from palisade.evaluation.table import show_results
from palisade.fields import as_written
from palisade.targets.guards.memfree import MemFree

SHARED_BY_BOTH_SIDES = (
    "hold the same records; give each records of its own: non-members are those that the model was not trained on"
)
AUDIT_KINDS = ("outputs", "model", "endpoint", "records")
ENDPOINT_KEYS = ("endpoint", "budget", "batch", "rate", "timeout", "key_variable")


def audit(settings: Mapping[str, Any], protocol: AttackProtocol) -> bool:
    """Audits what is there already, prints the table and writes the page; whether the gate, if any, lets it pass.

    Args:
        settings: those of `conf/audit`, with those of the report and the gate.
        protocol: attacks, and what they are granted.

    Raises:
        ValueError: if a file, a model or a setting is wrong.
    """
    if (kind := settings["audit"].get("name")) not in AUDIT_KINDS:
        raise ValueError(f"audit.name={kind}: expected one of {', '.join(AUDIT_KINDS)}; choose audit=<it>")
    try:
        return _audit(kind, settings, protocol)
    except SystemExit as ended:  # with exit code 0 it would pass a gate
        if isinstance(ended.__context__, BrokenPipeError):  # whoever read the table has closed it, as `head` does
            raise
        raise ValueError(
            f"audit={kind}: expected code that returns, and it called sys.exit({ended.code}); let it raise an error"
        ) from ended


def _audit(kind: str, settings: Mapping[str, Any], protocol: AttackProtocol) -> bool:
    limit = _limit(kind, settings)
    folder = Path(settings["reports"]) / (settings["name"] or f"audit_{kind}")
    questioned = "records" if kind == "records" else "members"
    shadowed = shadow_sides(kind, settings)
    model = _model(settings, folder)
    sides = _sides(kind, questioned, shadowed, settings)
    if model is not None and model.takes_inputs:
        sides = aligned(sides)
    if model is not None and model.takes_tables and model.answers != TOKEN_LOGPROBS:
        model, sides = with_raw_rows(model, sides)
    shadows = None
    if (run := settings.get("shadows")) is not None:
        shadows = ShadowFleet.named(run, model, has_tables=is_table(sides[questioned].rows))
        model = None if model is None else shadows.asking(model)
    notes = [] if model is None else model.prepare([askable(saved, model) for saved in sides.values()])
    notes += notes_on_form(list(sides.values()) if model is None else [])
    answers = {key: answered(saved, model, protocol.grant) for key, saved in sides.items()}
    check_alike(list(answers.values()))
    one, other = answers[questioned], answers["nonmembers"]
    shadow = [answers[key] for key in shadowed]
    check_apart(shadow, [one, other])
    known = answers.get("members") if kind == "records" else None
    subject = ModelSubject(
        members=one if known is None else joined(one, known),
        nonmembers=other,
        population=answers.get("population"),
        model=model,
        shadow=(shadow[0], shadow[1]) if shadow else None,
        shadows=shadows,
    )
    counts = f"{counted(one, questioned)}, {counted(other, 'non-members')}"
    if kind == "records":
        _check_disjoint(one, other, known)
        seen = subject.view(protocol.grant)
        asked = ask_records(seen, protocol.audit, settings["alpha"], known=0 if known is None else len(known))
        what = f"{subject.name}: {counts}, answers: {seen.outputs}."
        show_records(asked, notes)
        _list(write_records(asked, what, settings["command"], folder, notes))
        return True
    if subject.sides.shared == len(other):
        raise ValueError(f"{one.name} and {other.name} {SHARED_BY_BOTH_SIDES}")
    enough_persons(one, other)
    filtered = any(side.tokens is not None and side.tokens.refuses for side in answers.values())
    attacks = protocol.make_attacks(MemFree.attacks if filtered else ())
    result = measure_model(subject, attacks, protocol.grant)
    comparison, what = Comparison([result]), f"{subject.name}: {counts}, answers: {result.released}."
    show_results(comparison, [*verdict(result), *notes])
    lines, passed = ([], True) if limit is None else gate(comparison, limit)
    limits = [] if limit is None else [limit]
    decided = [lines] if lines else []
    _list(write_model(comparison, what, settings["command"], folder, notes, decided, limits))
    if lines:
        print("", *lines, sep="\n")
    return passed


def _list(paths: Sequence[Path]) -> None:
    for path in paths:
        print(path)


def _limit(kind: str, settings: Mapping[str, Any]) -> Limit | None:
    """The limit that the audit is judged by; None if it is not judged.

    Raises:
        ValueError: if a limit is set that this kind of audit has no measurement for.
    """
    choose, gate = (Limit.asked(name, settings) for name in ("choose", "gate"))
    if (wrong := choose or (gate if kind == "records" else None)) is not None:
        value = getattr(wrong, wrong.key.partition(".")[2])
        raise ValueError(
            f"{wrong.key}={value}: expected null with audit={kind}, which measures no such thing; leave it out"
        )
    return gate


def _sides(kind: str, questioned: str, shadowed: Sequence[str], settings: Mapping[str, Any]) -> dict[str, SavedRecords]:
    """The files of an audit by their settings, each with enough records, no two of them alike."""
    sides = {key: _read(key, settings) for key in (questioned, "nonmembers")}
    enough(sides[questioned], 1 if kind == "records" else MIN_RECORDS_PER_SIDE)
    enough(sides["nonmembers"])
    if settings["population"]:
        sides["population"] = enough(_read("population", settings))
    if kind == "records" and settings.get("members"):
        sides["members"] = enough(_read("members", settings))
    sides |= {key: enough(_read(key, settings)) for key in shadowed}
    check_classes_alike(list(sides.values()))
    for side, copy in combinations(sides.values(), 2):
        if side.is_copy_of(copy):
            raise ValueError(f"{side.name} and {copy.name} {SHARED_BY_BOTH_SIDES}")
    return sides


def _check_disjoint(questioned: AnsweredRecords, nonmembers: AnsweredRecords, known: AnsweredRecords | None) -> None:
    if shared := shared_rows(questioned, nonmembers):
        raise ValueError(
            f"{nonmembers.name} holds {shared} of the records in question; remove them from the non-members"
        )
    if known is None:
        return
    for beside in (questioned, nonmembers):
        if twice := shared_rows(beside, known):
            raise ValueError(f"{known.name} and {beside.name} share {twice} records; remove them from the members")


def _read(key: str, settings: Mapping[str, Any]) -> SavedRecords:
    if (path := settings[key]) in (None, "???"):
        raise ValueError(f"{key}: not given, expected a file; add {key}=<file.npz or file.csv>")
    if settings["audit"]["name"] == "outputs" and str(path).endswith(".csv"):
        raise ValueError(
            f"{key}={path}: expected an .npz file, as a table holds no answers; save them, with `persons` if there are"
        )
    saved = read(key, str(path), settings.get("label"), settings.get("person"), settings.get("text"))
    classes = named_classes("classes", settings.get("classes"))
    return saved if classes is None else replace(saved, classes=classes)


def _model(settings: Mapping[str, Any], folder: Path) -> AuditedModel | None:
    """The model that is asked; None where answers were saved."""
    kinds = [key for key in ("release", "model", "endpoint") if settings.get(key) not in (None, "???")]
    if len(kinds) > 1:
        raise ValueError(f"{kinds[0]}={settings[kinds[0]]}: expected null with {kinds[1]}; audit one model at a time")
    if not kinds:
        if (kind := settings["audit"]["name"]) in ("model", "endpoint"):
            raise ValueError(f"{kind}: not given, expected a model to ask; add {kind}=<it>")
        return None
    classes = named_classes("classes", settings.get("classes"))
    if kinds[0] == "endpoint":
        if settings["answers"] == TOKEN_LOGPROBS:
            named = {key: settings[key] for key in (*ENDPOINT_KEYS, "served_model", "base_model")}
            return validated(Completions, "", named).open(folder)
        asked = {key: settings[key] for key in ENDPOINT_KEYS} | {"answers": settings["answers"] or "probabilities"}
        asked["classes"] = classes
        return validated(Endpoint, "", asked).open(folder)
    if settings.get("text") is not None:
        if settings["answers"] not in (None, TOKEN_LOGPROBS):
            raise ValueError(f"answers={settings['answers']}: expected {TOKEN_LOGPROBS} with text; leave it out")
        return of_texts(kinds[0], str(settings[kinds[0]]), settings.get("base_model"))
    network = settings.get("network") or {}
    if kinds[0] == "release":
        if classes is not None:
            raise ValueError(
                f"classes={as_written(list(classes))}: expected null with release, which names them; leave it out"
            )
        return of_release(str(settings["release"]), network)
    return of_file(str(settings["model"]), network, _level(settings["answers"]), classes)


def _level(answers: Any) -> Answers | None:
    if answers is not None and answers not in get_args(Answers):
        raise ValueError(
            f"answers={as_written(answers)}: expected one of {', '.join(get_args(Answers))}; choose one, or null"
        )
    return cast(Answers | None, answers)
