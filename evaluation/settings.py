"""Settings of an evaluation, parsed once where they come in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from palisade.data.records import name_of
from palisade.data.settings import ABSENT_VALUE, check_group, check_numbers, place, validated
from palisade.fields import CheckedFields, as_written, field_names
from palisade.targets.config import DEFAULT_ENGINE

OTHER_COMMANDS = ("audit", "search", "study")
"""Groups that ask for something else than a report on runs."""
FOLDER_KEYS = ("runs", "root", "reports", "released", "name")
Place = Annotated[str, Field(min_length=1)]
Nodes = Annotated[Mapping[str, Any], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class ShownTexts(CheckedFields):
    """Texts that models give back, as far as they stand in files.

    Args:
        show: whether exposed.csv holds the texts themselves.
    """

    show: bool = False


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(CheckedFields):
    """Settings of an evaluation: what is evaluated, by which attacks, and where that is written.

    Args:
        attack: node of each attack, by its name.
        threat: settings of a `Grant`, and the attack that audits.
        queries: how each record is put to the models.
        utility: name of the measure that results are read by; None: accuracy, of language models perplexity.
        root: folder of runs.
        reports: folder of reports.
        released: folder of releases.
        report: scope of the report.
        choose: limit that the run to be named must keep.
        gate: limit that every run must keep.
        extraction: how far texts that models give back stand in files.
        data: node of the data set whose runs are evaluated, or its name and slices alone.
        runs: folder of a run, or a pattern of such folders, instead of a data set.
        name: of the report; None takes that of the data set.
        network: node of the network of a model that is audited.
        audit: what was trained already and is evaluated instead of runs; its other settings stand beside.
        study: settings of a study.
        search: settings of a search.
        device: where models are asked; see `targets.device.choose`.
        engine: node of the engine that attacks runs.
        plan: only say what the evaluation of runs would cost.
        quiet: show no progress.
        command: that asked for it, for reports.

    Raises:
        ValueError: if a path or the name of a folder is none, no data set is named, or two things are asked for at
            once, or the plan of an audit or a study.
    """

    attack: Nodes
    threat: Nodes
    queries: Sequence[str]
    utility: str | None
    root: Place
    reports: Place
    released: Place
    report: Mapping[str, Any]
    choose: Mapping[str, Any]
    gate: Mapping[str, Any]
    extraction: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] | None = None
    runs: str | None = None
    name: str | None = None
    network: Mapping[str, Any] | None = None
    audit: Mapping[str, Any] | None = None
    study: Mapping[str, Any] | None = None
    search: Mapping[str, Any] | None = None
    device: str = "auto"
    engine: Mapping[str, Any] = field(default_factory=lambda: DEFAULT_ENGINE)
    plan: bool = False
    quiet: bool = False
    command: str = ""
    plain: Mapping[str, Any] = field(init=False, repr=False, compare=False)
    """All of them as they were given, those of an audit among them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        others = [key for key in OTHER_COMMANDS if getattr(self, key)]
        if len(others) > 1:
            raise ValueError(f"{others[1]}=…: expected none beside {others[0]}=…; call them one after the other")
        if self.plan and others not in ([], ["search"]):
            raise ValueError(f"plan=true: expected false with {others[0]}=…, which is no attack on runs; leave one out")
        for name, node in self.attack.items():
            check_group(f"attack.{name}", node)
        for key in FOLDER_KEYS:
            if getattr(self, key) is not None:
                place(key, getattr(self, key))
        self.shows_texts  # noqa: B018 (a wrong setting is refused at once)
        self._check_data()
        self._check_folder_names()

    @property
    def shows_texts(self) -> bool:
        """Permission to write texts themselves into exposed.csv."""
        return validated(ShownTexts, "extraction", self.extraction).show

    @classmethod
    def parsed(cls, plain: Mapping[str, Any]) -> EvaluationSettings:
        """Settings as Hydra composes them from `conf/evaluate.yaml`.

        Raises:
            ValueError: if one is unknown, missing or out of range; further ones of an audit are its own to check.
        """
        check_numbers(plain)
        known = field_names(cls)
        settings = validated(cls, "", {key: plain[key] for key in plain if key in known or not plain.get("audit")})
        object.__setattr__(settings, "plain", plain)
        return settings

    @property
    def data_name(self) -> str | None:
        """Folder of a data set's runs: its name, or that of its file; None if no data are chosen.

        Raises:
            ValueError: if it follows from a path that is not given.
        """
        if self.data is None:
            return None
        if self.data.get("path", ABSENT_VALUE) == ABSENT_VALUE and not self.data.get("name"):
            raise ValueError("data.path: not given, expected a file; add it, or data.name, or runs=<folder or pattern>")
        return self.data.get("name") or name_of(self.data["path"])

    def _check_data(self) -> None:
        if self.data is not None:
            if not self.data.keys() & {"name", "path"}:
                raise ValueError(f"data={dict(self.data)}: expected a data set; choose data=<name>")
            for key in (key for key in ("name", "path") if self.data.get(key) is not None):
                place(f"data.{key}", self.data[key])

    def _check_folder_names(self) -> None:
        named: dict[str, Any] = {"name": self.name} if self.name is not None else {}
        if self.search is not None:
            named["search.name"] = self.search.get("name")
        for key, name in named.items():
            if not is_folder_name(name):
                raise ValueError(
                    f"{key}={as_written(name)}: expected the name of a folder in {self.reports}; choose one without /"
                )


def is_folder_name(name: Any) -> bool:
    """Fitness of a setting as the name of one folder, without a path."""
    return isinstance(name, str) and name not in ("", "..") and Path(name).name == name
