"""Saved signals: what attacks need of answers, computed right after training in the place of weights and answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from jaxtyping import Int64, Shaped

from palisade.attacks.parts.answers import MappedAnswers
from palisade.attacks.parts.blocks import room
from palisade.attacks.parts.outputs import Outputs
from palisade.attacks.parts.signals import ROW_COLUMNS, confidence_column, row_type, temperatures_of
from palisade.data.dataset import Dataset
from palisade.data.queries import PLAIN_QUERY, augmented
from palisade.evaluation.signals.documents import document_signals
from palisade.evaluation.signals.stored import SIGNALS_SUFFIX, answer_path, answers, stamp
from palisade.targets.checkpoints import weights_path
from palisade.targets.digests import is_removed
from palisade.targets.files import replacing
from palisade.targets.recipe import FleetSettings
from palisade.targets.run import Run
from palisade.targets.signal_saver import SignalSaver

if TYPE_CHECKING:
    from palisade.targets.fleet import Fleet

MAX_FLOAT32 = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class RunSignals(SignalSaver):
    """The signals of a run's models: about the pool in every way it is asked, and about the population.

    About test records whole answers are saved, as an evaluation would: utility is measured by them.

    Args:
        queries: how each record of the pool is put to the models.
        temperatures: at which log p is there.
        has_population: whether there are population records.
        positional: whether records are documents: what is kept of answers about them are signals already.
    """

    queries: tuple[str, ...]
    temperatures: tuple[float, ...]
    has_population: bool
    positional: bool = False

    @classmethod
    def of(cls, fleet: FleetSettings, dataset: Dataset) -> Self:
        """The signals that settings ask for."""
        return cls(
            queries=fleet.queries,
            temperatures=fleet.temperatures,
            has_population=len(dataset.split.population) > 0,
            positional=dataset.positional,
        )

    def is_saved(self, folder: Path, model: int) -> bool:
        """True if all signals of a model lie in the folder of its run, whether its weights are still there or not."""
        weights = weights_path(folder, model)
        if not weights.exists() and not is_removed(weights):
            return False
        paths = self._paths(Run(folder), model)
        if self.positional:
            return all(path.exists() for path in paths)
        *signals, test = paths
        return test.exists() and all(map(self._holds, signals))

    def save(self, config: Mapping[str, Any], dataset: Dataset, folder: Path, models: Sequence[int]) -> None:
        """Saves the signals of models whose weights are there; what is there of them already stays."""
        from palisade.targets.training import load_fleet

        if unsaved := [model for model in models if not self.is_saved(folder, model)]:
            fleet = load_fleet(config, dataset, folder, unsaved)
            for place, model in enumerate(unsaved):
                self._save(Run(folder), dataset, model, fleet.one(place))

    def remove_others(self, folder: Path, models: Sequence[int]) -> None:
        """Removes all stored answers of a run that are not among the signals of these models."""
        current = {path for model in models for path in self._paths(Run(folder), model)}
        for path in (folder / "signals").rglob("*.npy"):
            if path not in current:
                path.unlink()

    def _save(self, run: Run, dataset: Dataset, model: int, one: Fleet) -> None:
        for (role, query), path in zip(self._asked(), self._paths(run, model), strict=True):
            records = getattr(dataset.split, role)
            answered = one.answers(augmented(query, dataset.x[records]), dataset.y[records])
            whole = role == "test" or self.positional
            content = answered[0] if whole else rows_of(answered, dataset.y[records], self.temperatures)[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                np.save(temporary, content)
            for other in path.parent.glob(f"{model}-*.npy"):  # of former weights, or of fewer temperatures
                if stamp(run, [model]) not in other.name:
                    other.unlink()

    def _asked(self) -> Iterator[tuple[str, str]]:
        """Roles with the ways in which their records are put to the models, test records last."""
        yield from (("pool", query) for query in self.queries)
        if self.has_population:
            yield "population", PLAIN_QUERY[0]
        yield "test", PLAIN_QUERY[0]

    def _paths(self, run: Run, model: int) -> list[Path]:
        return [
            answer_path(run, role, query, model, ".npy" if role == "test" or self.positional else SIGNALS_SUFFIX)
            for role, query in self._asked()
        ]

    def _holds(self, path: Path) -> bool:
        if not path.exists():
            return False
        held = temperatures_of([np.load(path, mmap_mode="r").dtype])
        return {*self.temperatures} <= {*held}


def rows_of(
    logits: Shaped[np.ndarray, "models records *queries classes"],
    labels: Shaped[np.ndarray, "records"],
    temperatures: Sequence[float],
) -> Shaped[np.ndarray, "models records *queries"]:
    """Signals of answers, a row of `attacks.parts.signals.row_type` each.

    Args:
        logits: of the models.
        labels: the true classes.
        temperatures: at which log p is wanted.
    """
    outputs = Outputs(labels=labels, logits=logits)
    shape = logits.shape[:-1]
    rows = np.empty(shape, row_type(temperatures))
    rows["predicted"] = logits.argmax(axis=-1)
    signals = {name: getattr(outputs, name) for name in ROW_COLUMNS}
    signals |= {confidence_column(each): outputs.log_confidence(each) for each in temperatures}
    for name, values in signals.items():
        rows[name] = np.clip(values, -MAX_FLOAT32, MAX_FLOAT32).reshape(shape)
    return rows


def saved(run: Run, role: str, queries: Sequence[str] = PLAIN_QUERY) -> MappedAnswers:
    """Signals of all models for the records of a role, memory-mapped: rows of `attacks.parts.signals.row_type`.

    Those of documents follow from the answers that are kept.

    Args:
        run: a complete run whose weights were removed, or one on documents.
        role: of the split.
        queries: how each record was put to the models.

    Raises:
        ValueError: if signals of a query, or of a model, were not saved.
    """
    if run.dataset.positional:
        return document_signals(run, role)
    paths = [[answer_path(run, role, query, model, SIGNALS_SUFFIX) for query in queries] for model in run.models()]
    for query, of_query in zip(queries, zip(*paths, strict=True), strict=True):
        absent = [model for model, path in zip(run.models(), of_query, strict=True) if not path.exists()]
        if len(absent) == len(of_query) and query != PLAIN_QUERY[0]:
            raise ValueError(
                f"queries={query}: expected one whose signals {run.folder} holds; train it again with"
                f" fleet.queries=[{','.join(dict.fromkeys((*PLAIN_QUERY, *queries)))}]"
            )
        if absent:
            raise ValueError(
                f"{run.folder} holds neither the weights nor the signals of model {absent[0]} ({role}, {query}); train"
                f" it again with fleet.keep=signals and fleet.models={len(of_query)}"
            )
    return MappedAnswers([[np.load(path, mmap_mode="r") for path in of_model] for of_model in paths])


def predictions(run: Run, role: str) -> Int64[np.ndarray, "models records"]:
    """The classes that all models predict for the records of a role, behind the run's guard."""
    whole = run.has_weights() and not run.dataset.positional
    outputs = answers(run, role) if whole else saved(run, role)
    predicted = room(outputs.shape[:2], np.int64)
    for own, answered in zip(predicted, outputs, strict=True):
        if answered.dtype.names is not None:
            own[:] = answered["predicted"]
        else:
            own[:] = answered if run.registered_guard.level == "label" else answered.argmax(axis=-1)
    return predicted
