"""Pages of the site that are made of the code: every public name, every setting, and the files of the root.

A hook of MkDocs (`mkdocs.yml`); `make docs` builds the site.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from settings import CONF_GROUPS, ENTRY_CONFIGS, Option, Setting, options, read

REPOSITORY_ROOT = Path(__file__).parent.parent
CONF_FOLDER = REPOSITORY_ROOT / "conf"
LINKS_FOLDER = REPOSITORY_ROOT / ".typing" / "reference"
DOCUMENTED_PACKAGES = (
    "__init__.py",
    "api.py",
    "fields.py",
    "frequencies.py",
    "sampling.py",
    "attacks",
    "data",
    "defenses",
    "evaluation",
    "targets",
)
ROOT_FILES = {"contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md", "security": "SECURITY.md"}
EXAMPLE_NAMES = ("hospital", "income")
"""Folders of examples/ whose README is a page."""
FIRST_NAMES = ("DPSGD", "audit_scores", "train_fleet", "Release")
"""The names that most readers come for."""
STATISTICS_MODULES = ("metrics", "roc", "epsilon", "bootstrap", "chance")
PAGE_LEADS = {
    "python": "The names that `import palisade` offers. Each is loaded when it is first used: attacks on arrays import"
    " no torch.",
    "defenses": "One class a defense, chosen by `defense=`. Which one to take, and what breaks it: [Choose a defense or"
    " guard](../defenses.md).",
    "attacks": "One class an attack, chosen by `attack=`, all of them pure array code. What each is for: [Choose"
    " attacks](../attacks.md).",
    "guards": "What stands between a model and whoever queries it, chosen by `guard=`: [Choose a defense or"
    " guard](../defenses.md#guards).",
    "statistics": "Metrics of membership inference with their intervals, and lower bounds on ε, on bare arrays.",
}
KEY_MEANINGS = {
    "name": "how it is called in folders and reports",
    "kind": "which kind of canary",
    "trainer": "epochs, batch size and optimizer of every model",
    "network": "what is trained",
    "canary": "records made to be vulnerable",
    "experiment": "settings that go together, such as quickstart",
    "data": "the data set",
    "defense": "how models are trained so that they tell less",
    "epochs": "passes over the records",
    "optimizer.lr": "learning rate",
    "optimizer.fused": "one kernel for all weights",
    "optimizer.weight_decay": "L2 penalty, by the optimizer",
    "features": "fixed features in place of pixels",
    "label": "of a .csv: the column with the true class",
    "per_class": "one threshold for each class",
    "seed": "of the attack's own randomness",
    "levels": "levels of answers, which are compared",
    "experiment_name": "under which MLflow shows the runs",
    "tracking_uri": "MLflow's server, or a file in its place",
    "augmentation": "which perturbation fits the data, for defense=augmentation",
}
"""Meanings, by the key or its last parts, where neither a comment in the file nor a class tells one."""
CHECKED_CLASSES = {
    "split.": "palisade.data.split.Roles",
    "membership.": "palisade.data.split.Membership",
    "fleet.": "palisade.targets.recipe.FleetSettings",
    "trainer.": "palisade.targets.recipe.Recipe",
    "defense.trainer.": "palisade.targets.recipe.Recipe",
    "canary.": "palisade.data.canaries.Canaries",
    "tuning.": "palisade.targets.tuning.Tuning",
}
"""Classes that check settings which no `_target_` takes, by how the key begins."""
ENTRY_CLASSES = {
    "train": "palisade.targets.train_settings.TrainSettings",
    "evaluate": "palisade.evaluation.settings.EvaluationSettings",
}
RANGE_SIGNS = re.compile(r"[\d<>≤≥½`]")
"""Signs of a range or of choices, which a comment may lack."""
HYDRA_KEYS = (
    ("hydra.sweeper.grids", "one grid a line; the sweep is their union"),
    ("hydra.", "Hydra's own: see its documentation"),
)
"""Meanings, by how the key begins."""


def on_startup(**_: object) -> None:
    """Links the packages into a folder of their own: the root holds more than the package."""
    package = LINKS_FOLDER / "palisade"
    package.mkdir(parents=True, exist_ok=True)
    for name in DOCUMENTED_PACKAGES:
        link = package / name
        if not link.is_symlink():
            link.symlink_to(Path("../../..") / name)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    for address, content in pages():
        files.append(File.generated(config, address, content=content))
    return files


def on_page_content(html: str, **_: object) -> str:
    """Names source files as they stand in the repository."""
    return html.replace(f"{LINKS_FOLDER.relative_to(REPOSITORY_ROOT)}/palisade/", "")


def pages() -> Iterator[tuple[str, str]]:
    """Every generated page, by its address."""
    for page in PAGE_LEADS:
        yield f"reference/{page}.md", api(page)
    for entry in ENTRY_CONFIGS:
        yield f"reference/settings/{entry}.md", command(entry)
    for name in CONF_GROUPS:
        yield f"reference/settings/{name}.md", group(name)
    for page, file in ROOT_FILES.items():
        text = (REPOSITORY_ROOT / file).read_text(encoding="utf-8")
        text = re.sub(r"\]\((?:docs/)?(?=[a-z_]+\.md)", "](../", text)
        for beside, name in ROOT_FILES.items():  # side by side here too, under other names
            text = text.replace(f"]({name})", f"]({beside}.md)")
        yield f"development/{page}.md", text
    for name in EXAMPLE_NAMES:
        text = (REPOSITORY_ROOT / "examples" / name / "README.md").read_text(encoding="utf-8")
        text = re.sub(r"\]\(\.\./(\w+)/README\.md", r"](\1.md", text.replace("](../../docs/", "](../"))
        yield f"examples/{name}.md", text


def names(page: str) -> list[str]:
    """The dotted names that a page of the API shows."""
    package = _package()
    if page == "python":
        rest = [name for name in _exported(package) if name not in FIRST_NAMES]
        return [*(f"palisade.{name}" for name in (*FIRST_NAMES, *rest)), "palisade.evaluation.Audit"]
    if page == "attacks":
        return [f"palisade.attacks.{name}" for name in _exported(package["attacks"])]
    if page == "guards":
        return [f"palisade.targets.guards.{name}" for name in _exported(package["targets.guards"])]
    if page == "statistics":
        return [f"palisade.evaluation.statistics.{name}" for name in STATISTICS_MODULES]
    return sorted({option.target for option in options("defense") if option.target})


def api(page: str) -> str:
    """The page of a package: one entry a name, filled by mkdocstrings."""
    entries = "\n\n".join(f"::: {name}" for name in names(page))
    return f"# {page.capitalize()}\n\n{PAGE_LEADS[page]}\n\n{entries}\n"


def command(entry: str) -> str:
    """The settings of `train.py` or of `evaluate.py`."""
    option = read(CONF_FOLDER / f"{entry}.yaml")
    lead = f"`python {entry}.py <key>=<value> …`. {option.about}"
    chosen = [setting for setting in option.settings if setting.key in CONF_GROUPS]
    rest = [setting for setting in option.settings if setting not in chosen]
    own = [s if "." in s.key else replace(s, target=ENTRY_CLASSES[entry]) for s in rest]
    groups = [f"| [`{s.key}`]({s.key}.md) | {_code(s.default)} | {_escaped(meaning(s))} |" for s in chosen]
    head = "| group | default | meaning |\n|---|---|---|"
    return "\n\n".join(
        (f"# Settings of {entry}.py", lead, "## Groups", "\n".join([head, *groups]), "## Keys", table(own))
    )


def group(name: str) -> str:
    """The options of a group, each with its settings."""
    parts = [f"# {name}=", f"Options of `{name}=`, one file each in `conf/{name}/`."]
    for option in options(name):
        parts += [f"## {name}={option.name}", *about(option)]
        if option.settings:
            parts.append(table(option.settings))
    return "\n\n".join(parts)


def about(option: Option) -> Iterator[str]:
    """Comment of an option above its settings."""
    if option.about:
        yield _escaped(option.about)
    if option.target:
        page = next((page for page in ("attacks", "defenses", "guards") if option.target in names(page)), None)
        shown = f"`{option.target}`"
        yield "Class " + (shown if page is None else f"[{shown}](../{page}.md#{option.target})")
    if option.bases:
        yield "Takes " + ", ".join(f"`{base}`" for base in option.bases)
    if not option.settings:
        yield "Nothing to set."


def table(settings: tuple[Setting, ...] | list[Setting]) -> str:
    """Keys, defaults and meanings."""
    rows = [f"| `{s.key}` | {_code(s.default)} | {_escaped(meaning(s))} |" for s in settings]
    return "\n".join(["| key | default | meaning and range |", "|---|---|---|", *rows])


def meaning(setting: Setting) -> str:
    """Meaning of a setting with unit and range: from its comment and its class, or else from its namesakes."""
    shared = re.sub(r"^defense\.(base\.)?(?=trainer\.)", "", setting.key)
    parts = setting.key.split(".")
    suffixes = [".".join(parts[n:]) for n in range(1, len(parts))]
    candidates = [
        _own(setting),
        KEY_MEANINGS.get(setting.key),
        *(_meanings().get(key) for key in (setting.key, shared)),
        *(text for start, text in HYDRA_KEYS if setting.key.startswith(start)),
        *map(KEY_MEANINGS.get, suffixes),
    ]
    return next((text for text in candidates if text), "")


def _own(setting: Setting) -> str:
    """Comment beside a setting, and the description in the class that takes or checks it."""
    checked = next((name for start, name in CHECKED_CLASSES.items() if setting.key.startswith(start)), None)
    argument = _arguments(setting.target or checked).get(setting.key.rsplit(".", 1)[-1], "").rstrip(".")
    if argument.startswith("see ") or (setting.comment and not RANGE_SIGNS.search(argument)):
        argument = ""
    comment = "" if setting.comment.lower() in argument.lower() else setting.comment
    return "; ".join(text for text in (comment, argument) if text)


@cache
def _meanings() -> dict[str, str]:
    """Meanings by key, of all files, so that an experiment explains what it sets."""
    every = [read(CONF_FOLDER / f"{entry}.yaml") for entry in ENTRY_CONFIGS]
    every += [option for name in CONF_GROUPS for option in options(name)]
    meanings: dict[str, str] = {}
    for setting in (setting for option in every for setting in option.settings):
        if text := _own(setting):
            meanings.setdefault(setting.key, text)
    return meanings


@cache
def _package() -> griffe.Module:
    return griffe.load("palisade", search_paths=[LINKS_FOLDER], docstring_parser="google", resolve_aliases=True)


@cache
def _arguments(target: str | None) -> dict[str, str]:
    """Descriptions of a class's arguments by name; none for classes of other projects."""
    if target is None or not target.startswith("palisade."):
        return {}
    docstring = _package()[target.removeprefix("palisade.")].docstring
    sections: list[Any] = [] if docstring is None else docstring.parsed
    return {
        argument.name: " ".join(argument.description.split())
        for section in sections
        if section.kind is griffe.DocstringSectionKind.parameters
        for argument in section.value
    }


def _exported(module: griffe.Object | griffe.Alias) -> list[str]:
    return sorted((str(name) for name in module.exports or ()), key=str.lower)


def _code(text: str) -> str:
    return "<br>".join(f"`{line}`".replace("|", "\\|") for line in text.splitlines()) if text else "*must be set*"


def _escaped(text: str) -> str:
    """Comments are plain text: nothing in them is Markdown, but code keeps its quotes."""
    parts = re.split(r"(`[^`]*`)", text)
    plain = {"<": "&lt;", ">": "&gt;", "|": "&#124;"} | {sign: f"\\{sign}" for sign in "*_[]{}"}
    return "".join(part if part.startswith("`") else part.translate(str.maketrans(plain)) for part in parts)
