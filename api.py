"""The commands from a program or a notebook, with what they leave as values."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from palisade.command_words import plain_words
from palisade.data.table_reader import write_table
from palisade.evaluate import evaluate_runs, protocol_of
from palisade.evaluation.measuring.runs import results_of
from palisade.evaluation.result import Result
from palisade.evaluation.settings import EvaluationSettings
from palisade.targets import progress
from palisade.targets.composition import check_shipped, composed
from palisade.targets.config import CONF_FOLDER
from palisade.targets.files import write
from palisade.targets.guards.registry import label as guard_label
from palisade.targets.guards.registry import make_guard
from palisade.targets.release import Release
from palisade.targets.run import Run
from palisade.targets.shipping import ship_run
from palisade.targets.tuning import trainings
from palisade.train import train_run

if TYPE_CHECKING:
    import pandas as pd

TABLES_FOLDER = ".tables"
"""Folder in that of the runs where DataFrames are kept, since a run reads its data again whenever it is attacked."""
DIGEST_BYTES = 4


@dataclass(frozen=True)
class TrainedFleet:
    """A fleet and what attacks found.

    Args:
        run: its folder, models, data and statement.
        result: of the attacks: `rows` with intervals, `strongest` attack, `utility`, `statement`.
    """

    run: Run
    result: Result


def train_fleet(
    data: str | Path | pd.DataFrame,
    *words: str,
    label: str | None = None,
    name: str = "table",
    attack: str = "quick",
    runs: str | Path = "runs",
) -> TrainedFleet:
    """Trains a fleet as `python train.py` does and attacks it as `python evaluate.py` does; what is there is kept.

    Args:
        data: a DataFrame or the path of a table, with the column `label`; or the name of a data set, such as `digits`.
        words: further settings as a command line has them, such as `defense=dp_sgd`, `defense.epsilon=3`,
            `data.person=patient`.
        label: the column to predict.
        name: of the data set that a DataFrame is.
        attack: the attacks, an option of `conf/attack`.
        runs: the folder of runs. It keeps a copy of a DataFrame, and is as private as that.

    Raises:
        ValueError: if a setting is wrong, with the setting, the rule and the remedy in one line.
    """
    chosen = _data_words(data, label, name, Path(runs))
    settings = composed(*plain_words([*chosen, f"runs={runs}", *words]))
    with progress.Progress(Path(runs), trainings(settings)):
        outcome = train_run(settings)
    run = Run(Path(outcome["folder"]), guard_label(make_guard(settings)))
    (result,) = results_of([run], protocol_of(EvaluationSettings.parsed(_evaluation(f"attack={attack}"))))
    return TrainedFleet(run, result)


def write_report(*words: str) -> None:
    """Attacks runs, prints the table and writes the report, as `python evaluate.py` does.

    Args:
        words: its settings, such as `data=digits`, `attack=standard`, `choose.max_tpr=0.05`.

    Raises:
        ValueError: if a setting is wrong.
        SystemExit: with the command's exit code, if a claim is refuted or a gate is exceeded.
    """
    evaluate_runs(_evaluation(*words))


def ship_release(fleet: TrainedFleet, *words: str) -> Release:
    """Trains the one model that is meant for use, as `python train.py ship=<run>` does.

    Args:
        fleet: whose recipe it takes.
        words: further settings, such as `guard=topk`, `released=models`.

    Raises:
        ValueError: if a setting is wrong, or the release is there already.
    """
    overrides = plain_words([f"ship={fleet.run.folder}", *words])
    settings = composed(*overrides)
    check_shipped(settings, overrides)
    return Release.load(ship_run(settings))


def _data_words(data: Any, label: str | None, name: str, runs: Path) -> list[str]:
    if isinstance(data, str) and label is None:
        return [f"data={data}"]
    if label is None:
        raise ValueError("label=None: expected the column to predict; name it")
    if isinstance(data, str | Path):
        return ["data=csv", f"data.path={data}", f"data.label={label}"]
    return ["data=csv", f"data.path={_table_file(data, name, runs)}", f"data.label={label}", f"data.name={name}"]


def _table_file(frame: pd.DataFrame, name: str, runs: Path) -> Path:
    """The file of a DataFrame, one for each content."""
    text = write_table(frame)
    digest = hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest()
    path = runs / TABLES_FOLDER / f"{name}-{digest}.csv"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, text)
    return path


def _evaluation(*words: str) -> dict[str, Any]:
    """Settings that `python evaluate.py <words>` composes."""
    with initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        config = compose("evaluate", overrides=plain_words(list(words)))
    settings: Any = OmegaConf.to_container(config, resolve=True)
    return {**settings, "command": f"palisade.write_report({', '.join(map(repr, words))})"}
