"""Card of a release as a page to read and to print; its facts are those of `card.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from palisade.data.sequences import ByteTokens
from palisade.data.subwords import SubwordTokens
from palisade.frequencies import PEOPLE_WORD, TEXTS_WORD, count, crowd, frequencies
from palisade.targets.statement import INFINITY_TEXT, STATEMENT_FIELDS, Statement, rounded_up

TEMPLATE_NAME = "card.html.j2"
SHOWN_FPR, SHOWN_TPR = 0.01, "tpr@1%fpr"
"""FPR at which the page tells how many are found, and the name of that metric."""
TIED_METRIC, MOST_TIED = "tied@1%fpr", 0.05
"""Name of the share of the non-members at an attack's threshold, and the largest of which its TPR says anything."""
ONLY_TIES = "only ties"
SHOWN_METRICS = {"auc": "AUC", SHOWN_TPR: "found at 1 % false accusations", "tpr@0.1%fpr": "at 0.1 %"}
"""Columns of the table of attacks, by metric; the others stand in `card.json`."""
TARGET_KEY = "_target_"
STATED_ELSEWHERE = ("trainer", "secure_rng")
"""Settings of a defense that stand under training and noise, as the release had them."""
NO_BASE = {TARGET_KEY: "palisade.defenses.none.NoDefense"}
CLAIM_MEANING = (
    "ε bounds what any attack can learn about one {unit}: below 1 it is strong, above 10 it excludes hardly any attack."
    " δ is the probability that the bound fails."
)
UNPROVEN_MEANING = "What attacks find is all that is known about it; a stronger attack may find more."
MOST_VALUES = 12
"""Values of a list that the page shows whole; of a longer one it shows the first few and the number."""
FIRST_VALUES = 3
FIELD_WORDS = STATEMENT_FIELDS | {"epsilon": "ε", "delta": "δ", "epsilon_spent": "ε spent"}
CLAIMED_FIELDS, CLAIMED_DIGITS = ("epsilon", "delta", "epsilon_rdp", "epsilon_spent"), 5
"""Numbers of a claim, which are rounded up, and their digits."""
ACCESS_WORDS = {
    "api": "answers only: nobody but its owner holds the files",
    "weights": "the files themselves: whoever asks for them gets the weights",
}
Pairs = list[tuple[str, str]]
"""A line of the card: its heading and its text."""


def card_page(card: Mapping[str, Any]) -> str:
    """The page of a card, in HTML that needs nothing else.

    Args:
        card: as `ship` fills it.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    statement, rows = Statement.from_json(card["statement"]), card["audit"]["results"]
    return environment.get_template(TEMPLATE_NAME).render(
        name=card["data"]["name"],
        sentence=statement.sentence(),
        meaning=CLAIM_MEANING.format(unit=statement.unit) if statement.guarantee else UNPROVEN_MEANING,
        statement=statement,
        audit=_audit_sentence(rows, _crowd_word(card)),
        note=card["audit"]["note"],
        limits=card["audit"].get("limits", ""),
        cost=card["cost"],
        model=list(_model(card)),
        mechanism=[] if statement.epsilon is None else _mechanism(card["statement"]),
        columns=list(SHOWN_METRICS.values()),
        attacks=_attacks(rows),
        versions=written(card["versions"]),
    )


TOKEN_KINDS = (ByteTokens.kind, SubwordTokens.kind)
"""Kinds of preprocessing of language models."""


def written(value: Any) -> str:
    """Plain values in a line: `hidden=[128], activation=relu`; of a long list its beginning and its length."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={written(inner)}" if key != TARGET_KEY else str(inner) for key, inner in value.items())
    if isinstance(value, list | tuple):
        shown = value if len(value) <= MOST_VALUES else value[:FIRST_VALUES]
        rest = "" if len(shown) == len(value) else f", … {len(value):,} in all"
        return f"[{', '.join(map(written, shown))}{rest}]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "–" if value is None else str(value)


def _model(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The release and what it was made of, line by line."""
    data, guard, network = card["data"], card["guard"], card["network"]
    persons = "" if data["persons"] is None else f" of {data['persons']:,} persons"
    is_text = card["preprocessing"].get("kind") in TOKEN_KINDS
    each = f"{data['shape'][0]:,} tokens at most" if is_text else f"an input of shape {written(data['shape'])}"
    yield "trained on", f"{data['records']:,} {'texts' if is_text else 'records'}{persons}, each {each}"
    yield "hash of the data", data["checksum"]
    if is_text:
        yield "answers", f"the next of {len(data['classes']):,} tokens"
    else:
        yield "answers", f"one of {len(data['classes']):,} classes: {written(data['classes'])}"
    yield "access", ACCESS_WORDS.get(card["access"], card["access"])
    yield "network", _named(network["name"], network["settings"])
    yield "defense", _named(card["defense"]["name"], dict(_set_values(card["defense"])))
    yield "guard", _named(guard["name"], guard["settings"]) + ("" if guard["note"] is None else f". {guard['note']}")
    yield "training", written(card["recipe"])
    for recipe in card["base_recipes"]:
        yield "training of its base", written(recipe)
    yield "preprocessing", _preprocessing(card["preprocessing"])


def _preprocessing(settings: Mapping[str, Any]) -> str:
    """The preprocessing without the words and scales of single columns, which fill a page."""
    columns = settings.get("columns")
    if not isinstance(columns, Mapping):
        return written(settings)
    rest = {key: settings[key] for key in ("kind", "statistics") if key in settings}
    return f"{written(rest)}; {len(columns):,} columns: {', '.join(columns)}. Their words and scales are in card.json"


def _set_values(defense: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings of a defense that do something: neither left unset nor switched off."""
    for key, value in defense.items():
        if key not in ("name", *STATED_ELSEWHERE) and value not in (None, False, NO_BASE):
            yield key, value


def _named(name: str, settings: Mapping[str, Any]) -> str:
    return f"{name}: {written(settings)}" if settings else name


def _mechanism(statement: Mapping[str, Any]) -> Pairs:
    """The numbers behind a claim, those that are known."""
    in_sentences = ("guarantee", "not_covered", "warnings", "withdrawn")
    noiseless = ("noise",) if statement["noise_multiplier"] == 0 else ()
    pairs = []
    for name, value in statement.items():
        if name in (*in_sentences, *noiseless) or value in (None, 0, (), [], {}):
            continue
        text = "∞" if value == INFINITY_TEXT else written(value)
        if name in CLAIMED_FIELDS and isinstance(value, float):
            text = rounded_up(value, CLAIMED_DIGITS)
        elif name == "privacy_curve":
            text = f"{len(value):,} pairs of ε and δ in card.json"
        pairs.append((FIELD_WORDS.get(name, name.replace("_", " ")), text))
    return pairs


def _attacks(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Each attack with its access and the metrics that are shown, those that find most first."""
    table: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        table.setdefault(row["attack"], {})[row["metric"]] = row
    order = sorted(table, key=lambda attack: [-_value(table[attack], metric) for metric in (SHOWN_TPR, "auc")])
    return [
        (attack, next(iter(table[attack].values())).get("access", "–").replace("_", "-"),
         *(ONLY_TIES if metric == SHOWN_TPR and _is_tied(table[attack]) else _cell(table[attack].get(metric), metric)
           for metric in SHOWN_METRICS))
        for attack in order
    ]  # fmt: skip


def _is_tied(metrics: Mapping[str, Mapping[str, Any]]) -> bool:
    """True if so many records share the score at the threshold that the TPR is that of a smaller FPR."""
    measured = metrics.get(SHOWN_TPR, {}).get("value") is not None
    return measured and _value(metrics, TIED_METRIC) > MOST_TIED and _value(metrics, SHOWN_TPR) <= SHOWN_FPR


def _value(metrics: Mapping[str, Mapping[str, Any]], metric: str) -> float:
    return float(metrics.get(metric, {}).get("value") or 0.0)


def _cell(row: Mapping[str, Any] | None, metric: str) -> str:
    if row is None or row["value"] is None:
        return "not measured"
    factor, digits, unit = (1, 3, "") if metric == "auc" else (100, 1, " %")
    text = f"{factor * row['value']:.{digits}f}{unit}"
    between = f" [{factor * row['low']:.{digits}f}–{factor * row['high']:.{digits}f}]" if row["low"] is not None else ""
    return f"{text}{between}".replace(" %", "\u00a0%")


def _crowd_word(card: Mapping[str, Any]) -> str:
    """The word for those who were in or not: texts, or records where a person has several."""
    persons, records = card["data"]["persons"], card["data"]["records"]
    if card["preprocessing"].get("kind") in TOKEN_KINDS:
        return TEXTS_WORD
    return "records" if persons is not None and persons < records else PEOPLE_WORD


def _audit_sentence(rows: Sequence[Mapping[str, Any]], who: str) -> str:
    """The attack that finds most, in natural frequencies; its AUC where that could not be measured."""
    if not rows:
        return "Nobody attacked models like this one: what it gives away is not known."
    tied = {line[0] for line in _attacks(rows) if ONLY_TIES in line}
    measured = [
        row for row in rows if row["metric"] == SHOWN_TPR and row["value"] is not None and row["attack"] not in tied
    ]
    if not measured:
        best = max((row for row in rows if row["metric"] == "auc"), key=lambda row: row["value"] or 0.0, default=None)
        auc = "" if best is None else f" The best attack ({best['attack']}) has an AUC of {_cell(best, 'auc')};"
        return f"At 1 % false accusations it could not be measured what attacks find.{auc} guessing has 0.5."
    first = _attacks(measured)[0][0]
    best = next(row for row in measured if row["attack"] == first)
    ends = None if best["low"] is None or best["high"] is None else (best["low"], best["high"])
    text = frequencies(best["value"], SHOWN_FPR, ends=ends, who=who)
    own = {row["metric"]: row["value"] for row in rows if row["attack"] == best["attack"]}
    chance, luck = own.get("chance@1%fpr") or SHOWN_FPR, own.get("null@1%fpr") or 0.0
    size = crowd(SHOWN_FPR)
    beyond = f" (luck explains up to {count(luck, size)})" if luck > chance else ""
    words = f"{text[0].upper()}{text[1:]}, by the best attack ({best['attack']})"
    return f"{words}; guessing finds {count(chance, size)}{beyond}."
