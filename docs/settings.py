"""Every setting of conf/ with its default and its meaning, read from the YAML files and from the classes they name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

CONF_FOLDER = Path(__file__).parent.parent / "conf"
CONF_GROUPS = tuple(sorted(path.name for path in CONF_FOLDER.iterdir() if any(path.glob("*.yaml"))))
ENTRY_CONFIGS = ("train", "evaluate", "serve")


@dataclass(frozen=True)
class Setting:
    """One key of one YAML file.

    Args:
        key: as it stands on the command line.
        default: as it stands in the file; empty if that must be set.
        comment: beside it in the file.
        target: the class that it is an argument of, if any.
    """

    key: str
    default: str
    comment: str
    target: str | None = None


@dataclass(frozen=True)
class Option:
    """One YAML file of a group, or of a command.

    Args:
        name: `lira` of `attack=lira`.
        about: the comment at its head.
        target: the class that it configures, if any.
        bases: the options it builds on or chooses.
        settings: its keys.
    """

    name: str
    about: str
    target: str | None
    bases: tuple[str, ...]
    settings: tuple[Setting, ...]


def options(group: str) -> list[Option]:
    """The options of a group, by name."""
    return [read(path, group) for path in sorted((CONF_FOLDER / group).glob("*.yaml"))]


def read(path: Path, group: str | None = None) -> Option:
    """One file of conf/; without a group that of a command, whose choices of groups are settings as well."""
    text = path.read_text(encoding="utf-8")
    package = re.search(r"^# @package (\S+)$", text, re.MULTILINE)
    prefix = "" if group is None or (package and package[1] == "_global_") else f"{group}."
    root = yaml.compose(text) or yaml.MappingNode("", [])
    lines = text.splitlines()
    bases: tuple[str, ...] = ()
    settings: list[Setting] = []
    for key, value in root.value:
        if key.value != "defaults":
            settings += _settings(key, value, prefix, lines, _target(root))
        elif group is None:
            settings += [item for node in value.value for item in _choice(node, lines)]
        else:
            bases = tuple(base for node in value.value if (base := _base(node)))
    head = re.match(r"(?:#.*\n)*", text)
    about = [line[1:].strip() for line in (head[0] if head else "").splitlines() if "@package" not in line]
    return Option(path.stem, " ".join(about), _target(root), bases, tuple(settings))


def _settings(key: yaml.Node, value: yaml.Node, prefix: str, lines: list[str], target: str | None) -> Iterator[Setting]:
    """The leaves of a mapping; what stands beside its own key is said of all of them."""
    name = f"{prefix}{key.value}"
    if key.value == "_target_":
        return
    if isinstance(value, yaml.MappingNode) and value.value:
        comment = "" if value.flow_style else _comment(lines, key.end_mark.line)
        inner = _target(value) or (target if prefix == "" else None)
        for under, leaf in value.value:
            for setting in _settings(under, leaf, f"{name}.", lines, inner):
                joined = "; ".join(text for text in (comment, setting.comment) if text)
                yield Setting(setting.key, setting.default, joined, setting.target)
        return
    inline = isinstance(value, yaml.ScalarNode) or value.flow_style
    default = _source(value, lines) if inline else "\n".join(map(_item, value.value))
    line = value.end_mark.line if inline else key.end_mark.line
    yield Setting(name, "" if default == "???" else default, _comment(lines, line), target)


def _item(node: yaml.Node) -> str:
    """An entry of a list that takes a line for each."""
    if isinstance(node, yaml.ScalarNode):
        return str(node.value)
    return ", ".join(f"{key.value}={value.value}" for key, value in node.value)


def _choice(node: yaml.Node, lines: list[str]) -> Iterator[Setting]:
    """An entry of the defaults of a command: `defense: none`."""
    if isinstance(node, yaml.MappingNode):
        ((key, value),) = node.value
        if not key.value.startswith("override"):
            yield Setting(key.value, value.value, _comment(lines, key.end_mark.line))


def _base(node: yaml.Node) -> str:
    """An entry of the defaults of an option: `defense=none`, or a name of its own group."""
    if isinstance(node, yaml.ScalarNode):
        return "" if node.value == "_self_" else str(node.value)
    ((key, value),) = node.value
    return f"{key.value.removeprefix('override ').removeprefix('/')}={value.value}"


def _target(node: yaml.Node) -> str | None:
    values: Mapping[str, yaml.Node] = {key.value: value for key, value in node.value}
    target = values.get("_target_")
    return None if target is None or target.value in ("???", "null") else str(target.value)


def _source(node: yaml.Node, lines: list[str]) -> str:
    """Value as the file writes it, on one line."""
    start, end = node.start_mark, node.end_mark
    if start.line == end.line:
        return lines[start.line][start.column : end.column]
    middle = lines[start.line + 1 : end.line]
    return " ".join(
        part.strip() for part in (lines[start.line][start.column :], *middle, lines[end.line][: end.column])
    )


def _comment(lines: list[str], line: int) -> str:
    """Comment of a line: the text behind # outside quotes."""
    text = re.sub(r'"[^"]*"|\'[^\']*\'', lambda quoted: "_" * len(quoted[0]), lines[line])
    start = re.search(r"(?:^|\s)#\s*", text)
    return "" if start is None else lines[line][start.end() :].strip()
