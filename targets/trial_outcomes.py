"""Outcomes of trials: what a run was tuned by, kept beside its models."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from palisade.targets.files import write_json

OUTCOMES_FILE = "tuning.json"
"""File of a run that was tuned: nothing in it is about single records."""
TrialStatus = Literal["chosen", "complete", "stopped early", "failed"]
STATUS_ORDER: tuple[TrialStatus, ...] = ("chosen", "complete", "stopped early", "failed")


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """Outcome of one trial.

    Args:
        settings: that were tried, by their full keys, as a command line has them.
        status: the fate of the trial: a worse half is stopped early.
        models: that it was given, those that could not be trained included.
        accuracy: their mean accuracy on validation records; None of a trial that failed.
        reason: of a failure; else empty.
    """

    settings: Mapping[str, str]
    status: TrialStatus
    models: int
    accuracy: float | None
    reason: str = ""

    @property
    def text(self) -> str:
        """Its settings in short, such as `hidden=[], lr=0.1`."""
        return ", ".join(f"{key.split('.')[-1]}={value}" for key, value in self.settings.items())


@dataclass(frozen=True)
class TuningOutcome:
    """Outcomes of all trials that a run was tuned by.

    Args:
        largest_class: share of the largest class of the validation records: the accuracy of always naming it.
        trials: the chosen one first, then those that went furthest, the most accurate first.
    """

    largest_class: float
    trials: tuple[TrialOutcome, ...]

    @classmethod
    def of(cls, largest_class: float, trials: Iterable[TrialOutcome]) -> TuningOutcome:
        """The outcomes in their order."""

        def place(trial: TrialOutcome) -> tuple[int, int, float]:
            return STATUS_ORDER.index(trial.status), -trial.models, -(trial.accuracy or 0.0)

        return cls(largest_class, tuple(sorted(trials, key=place)))

    @classmethod
    def read(cls, folder: Path) -> TuningOutcome | None:
        """The outcomes beside a run; None of one that was not tuned."""
        if not (path := folder / OUTCOMES_FILE).exists():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(content["largest_class"], tuple(TrialOutcome(**trial) for trial in content["trials"]))

    def write(self, folder: Path) -> None:
        """Writes `tuning.json` into the folder of the run."""
        write_json(folder / OUTCOMES_FILE, asdict(self))

    @property
    def trainings(self) -> int:
        """Number of models in all trials together."""
        return sum(trial.models for trial in self.trials)

    @property
    def sentence(self) -> str:
        """The choice in one line."""
        best, failed = self.trials[0], [trial for trial in self.trials if trial.status == "failed"]
        stopped = sum(trial.status == "stopped early" for trial in self.trials)
        line = f"{best.text}; best of {len(self.trials)} trials"
        line += f", {stopped} of them stopped early" if stopped else ""
        line += f" ({self.trainings} trainings), validation accuracy {best.accuracy:.3f}"
        line += f" (always naming the largest class: {self.largest_class:.3f})"
        return line + (f"; {len(failed)} failed: {failed[0].reason}" if failed else "")
