"""Words of a command: text is quoted for Hydra's grammar, and a key that is no setting gets the nearest ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

CONF_FOLDER = Path(__file__).parent / "conf"
TEXT_KEYS = {
    *(f"data.{key}" for key in ("label", "person", "path", "name", "schema", "test", "reference", "root", "encoding")),
    *("data.separator", "data.decimal", "data.thousands"),
    *("label", "person", "members", "nonmembers", "population", "records", "shadow_members", "shadow_nonmembers"),
    *("model", "release", "runs", "released", "reports", "ship", "study.out"),
    *("private", "domain.schema", "domain.reference", "monitor.reference", "store.url", "store.prefix", "key.name"),
}
"""Settings whose value is text, be it written like a number, a truth value, or with signs of Hydra's grammar."""
TEXT_LIST_KEYS = {
    f"data.{key}"
    for key in ("drop", "categorical", "numeric", "dates", "slices", "missing_words", "symbols", "header", "classes")
}
"""Settings whose value is a list of text."""
MANDATORY_TEXT_KEYS = {"data.label", "data.path"}
"""Of these null is a name like any other."""
INFINITY_WORDS = re.compile(r"(?<![\w.'\"])([+-]?)(?:infinity|Infinity|INF|∞)(?![\w.'\"])")
LIST_ELEMENT = re.compile(r"""\s*("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^,]*?)\s*(?:,|$)""")
UNKNOWN_KEY = re.compile(r"Could not override '([^']+)'")
UNPARSED_VALUE = object()
MULTIRUN_OPTIONS = {"-m", "--multirun"}


def plain_words(words: Sequence[str]) -> list[str]:
    """The words of a command as Hydra reads them: those whose value is text, or cannot be parsed, in quotes.

    Args:
        words: as a shell passes them, such as `data.label=income (USD)`.
    """
    several = not MULTIRUN_OPTIONS.isdisjoint(words)
    return [_plain_word(word, several=several) for word in words]


def _plain_word(word: str, *, several: bool) -> str:
    key, sign, value = word.partition("=")
    name = key.lstrip("+~")
    if not sign or not value or not re.fullmatch(r"[\w.@/]+", name):
        return word
    if name in TEXT_LIST_KEYS and value.startswith("[") and value.endswith("]"):
        elements = [match[1] for match in LIST_ELEMENT.finditer(value[1:-1]) if match[1]]
        if _parsed(word) == elements:
            return word
        return f"{key}=[{','.join(element if _is_quoted(element) else quoted(element) for element in elements)}]"
    if name in TEXT_KEYS and not _is_quoted(value):
        is_null = value == "null" and name not in MANDATORY_TEXT_KEYS
        is_sweep = several and "," in value
        return word if is_null or is_sweep or _parsed(word) == value else f"{key}={quoted(value)}"
    if name not in TEXT_KEYS:
        value = INFINITY_WORDS.sub(r"\1inf", value)
    return f"{key}={quoted(value)}" if _parsed(f"{key}={value}") is UNPARSED_VALUE else f"{key}={value}"


def quoted(text: str) -> str:
    """Text as Hydra's grammar quotes it."""
    escaped = re.sub(r"(\\*)'", lambda match: 2 * match[1] + "\\'", text)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"'{escaped}{trailing * chr(92)}'"


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] == value[-1] and value[0] in "'\""


def _parsed(word: str) -> Any:
    """The value of a word by Hydra's grammar; `UNPARSED_VALUE` if that knows no such word."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(word).value()
    except HydraException:
        return UNPARSED_VALUE


def nearest_keys(message: str) -> str:
    """The three keys nearest to the one that Hydra's message says is none; empty for another message.

    None where the key is one of another command, or of an option that is not chosen.
    """
    match = UNKNOWN_KEY.search(message)
    if match is None:
        return ""
    known = {*_known_keys()}
    if match[1] in known:
        return f"{match[1]} is no setting here"
    near = get_close_matches(match[1], sorted(known), n=3, cutoff=0.5)
    return f"{match[1]} is no setting; nearest are {', '.join(near)}" if near else f"{match[1]} is no setting"


def _known_keys() -> Iterator[str]:
    """Every group and every key of `conf`, whatever option it belongs to."""
    import yaml

    yield from (path.name for path in CONF_FOLDER.iterdir() if path.is_dir())

    for path in sorted(CONF_FOLDER.rglob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        group = ".".join(path.relative_to(CONF_FOLDER).parts[:-1])
        is_global = not group or "@package _global_" in path.read_text(encoding="utf-8").partition("\n")[0]
        yield from _keys("" if is_global else group, content)


def _keys(above: str, content: Any) -> Iterator[str]:
    for key, value in content.items() if isinstance(content, dict) else ():
        name = f"{above}.{key}" if above else str(key)
        if str(key) not in ("defaults", "hydra", "_target_"):
            yield name
            yield from _keys(name, value)
