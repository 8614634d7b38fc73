"""The site builds without a warning and without a network; its reference holds every public name and every setting."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import palisade
import palisade.attacks
import palisade.targets.guards

pytest.importorskip("mkdocs", reason="the extra docs is not installed")

REPOSITORY_ROOT = Path(__file__).parents[2]
CONF_FOLDER = REPOSITORY_ROOT / "conf"
CONSTANT_NAMES = ("GUARDS_BY_NAME", "Level")
"""Public names that are neither class nor function: the signature is their source."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY_ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def reference() -> Iterator[ModuleType]:
    """The hook that makes the generated pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY_ROOT / "docs"))
        import reference

        reference.on_startup()
        yield reference


@pytest.fixture(scope="module")
def pages(reference: ModuleType) -> dict[str, str]:
    """The generated pages, in Markdown, by address."""
    return dict(reference.pages())


def page(site: Path, address: str) -> str:
    return (site / address).read_text(encoding="utf-8")


def public() -> list[tuple[str, str]]:
    """Every public name with its page."""
    names = [("python", f"palisade.{name}") for name in palisade.__all__]
    names += [("attacks", f"palisade.attacks.{name}") for name in palisade.attacks.__all__]
    names += [("guards", f"palisade.targets.guards.{name}") for name in palisade.targets.guards.__all__]
    for file in sorted((CONF_FOLDER / "defense").glob("*.yaml")):
        if target := yaml.safe_load(file.read_text(encoding="utf-8")).get("_target_"):
            names.append(("defenses", target))
    return names


@pytest.mark.slow
def test_every_entry_shows_its_source(site: Path) -> None:
    for address, name in public():
        text = page(site, f"reference/{address}.html")
        assert f'id="{name}"' in text, name
        assert ".typing" not in text
        own = text.split(f'id="{name}"')[1].split('<h2 id="')[0]
        assert "Source code in" in own or name.rsplit(".", 1)[-1] in CONSTANT_NAMES, name


@pytest.mark.slow
def test_an_entry_tells_shapes_ranges_and_errors(site: Path) -> None:
    text = unescape(re.sub(r"<[^>]+>", "", page(site, "reference/python.html")))
    lira = text.split("palisade.LiRA")[1].split("palisade.")[0]
    assert "shrunk" in lira and "Raises" in lira and "ValueError" in lira
    assert re.search(r"Float\[np.ndarray, .models records.\]", text.split("palisade.Attack")[1])
    assert "in [0, 1)" in text.split("palisade.audit_scores")[1]


def leaves(prefix: str, node: Any) -> Iterator[str]:
    """Dotted keys of a YAML file, without what Hydra reads itself."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            if key not in ("_target_", "defaults"):
                yield from leaves(f"{prefix}.{key}" if prefix else str(key), value)
    elif prefix:
        yield prefix


def settings() -> Iterator[tuple[str, str, str]]:
    """Page, option and key of every setting of conf/, read by PyYAML alone."""
    for entry in ("train", "evaluate", "serve"):
        for key in leaves("", yaml.safe_load((CONF_FOLDER / f"{entry}.yaml").read_text(encoding="utf-8"))):
            yield entry, entry, key
    for file in sorted(CONF_FOLDER.glob("*/*.yaml")):
        text = file.read_text(encoding="utf-8")
        prefix = "" if "@package _global_" in text else file.parent.name
        for key in leaves(prefix, nodes) if (nodes := yaml.safe_load(text)) else ():
            yield file.parent.name, f"{file.parent.name}={file.stem}", key


def test_every_setting_stands_under_its_option(pages: dict[str, str]) -> None:
    listed = list(settings())
    assert len(listed) > 350
    for address, option, key in listed:
        text = pages[f"reference/settings/{address}.md"]
        part = text if option == address else text.split(f"## {option}\n")[1].split("\n## ")[0]
        assert f"| `{key}` |" in part, f"{option}: {key}"


def test_every_public_name_has_an_entry(pages: dict[str, str]) -> None:
    entries = public()
    assert len(entries) > 60
    for address, name in entries:
        assert f"::: {name}\n" in pages[f"reference/{address}.md"], name


def test_every_setting_has_a_meaning(reference: ModuleType) -> None:
    from settings import CONF_GROUPS, ENTRY_CONFIGS, options, read

    every = [option for group in CONF_GROUPS for option in options(group)]
    every += [read(CONF_FOLDER / f"{entry}.yaml") for entry in ENTRY_CONFIGS]
    unexplained = [
        (option.name, setting.key) for option in every for setting in option.settings if not reference.meaning(setting)
    ]
    assert not unexplained


def test_ranges_are_those_of_the_classes_that_check(pages: dict[str, str]) -> None:
    train = pages["reference/settings/train.md"]
    assert "(0, 0.5\\]" in train.split("| `guesses` |")[1].splitlines()[0]
    assert "1 to 100,000" in train.split("| `fleet.models` |")[1].splitlines()[0]
    assert "λ &gt; 0" in pages["reference/settings/defense.md"].split("| `defense.weight_decay` |")[1].splitlines()[0]


@pytest.mark.slow
def test_nothing_is_fetched(site: Path) -> None:
    for file in site.rglob("*.html"):
        tags = re.findall(r"<(?:script|img|iframe|link)\b[^>]*>", file.read_text(encoding="utf-8"))
        assert len(tags) > 3
        assert not [tag for tag in tags if re.search(r"(?:src|href)=[\"']?(?:https?:)?//", tag)], file
