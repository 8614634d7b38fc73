"""Search for the frontier: settings to try, the trials, and what is written of them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from rich.table import Table

from palisade.commandline import EXIT_CLAIM_VIOLATED, EXIT_SOME_FAILED, one_line
from palisade.data.dataset import from_config
from palisade.data.settings import validated
from palisade.evaluation.claims import violations
from palisade.evaluation.comparison import Comparison
from palisade.evaluation.figures.style import save, svg
from palisade.evaluation.figures.tradeoff import pareto
from palisade.evaluation.format import console_for, csv_text, empty_table, percent, show
from palisade.evaluation.labels import label
from palisade.evaluation.limit import Limit, tpr_text
from palisade.evaluation.measuring.runs import results_of
from palisade.evaluation.protocol import PROTOCOL_VERSION, AttackProtocol
from palisade.evaluation.result import FPR, Result, tpr_at
from palisade.evaluation.table import accuracy_text
from palisade.fields import CheckedFields, Count
from palisade.targets.config import flat
from palisade.targets.files import file_lock, write
from palisade.targets.guards.registry import label as guard_label
from palisade.targets.guards.registry import make_guard
from palisade.targets.run import Run, canonical
from palisade.targets.train_settings import TrainSettings

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

VALUE_DIGITS = 3
"""Significant digits of a value that is tried: what it is called in tables is what it was."""
TRIAL_SETTINGS, TRIAL_RUN, TRIAL_GUARD, TRIAL_FAILED = "settings", "run", "guard", "failed"
"""Attributes of a trial: what it tried; then the run's folder and guard, or why it failed; a killed one has neither."""
MEASURABLE_LIMIT = Limit(name="search", max_tpr=1.0)
"""The constraint on points of the frontier: that a run's TPR says how much leaks."""
TRIAL_COLUMNS = ("trial", "settings", "utility", "tpr", "on_frontier", "run", "seconds", "failed")
SELECTION_BIAS = (
    "The frontier was chosen by the very numbers that it shows, on the same records, and each proposal by earlier ones:"
    " this flatters it. Before you rely on a setting, train it again with another seed=… and attack that run. No ε"
    " covers a search."
)


@dataclass(frozen=True, kw_only=True)
class Range(CheckedFields):
    """The values of a setting from `low` to `high`, whole numbers if both are.

    Args:
        low: the least.
        high: the most.
        log: whether orders of magnitude are alike, as for weights and ε; `low` must then be above 0.

    Raises:
        ValueError: if there is nothing in between.
    """

    low: Annotated[float, Field(allow_inf_nan=False)]
    high: Annotated[float, Field(allow_inf_nan=False)]
    log: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(
                f"low={self.low}: expected numbers, low below high={self.high} and, with log, above 0; choose others"
            )

    def suggest(self, trial: Trial, name: str) -> float:
        """A value of this range by the search's sampler, rounded to few digits unless it is whole."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return float(f"{trial.suggest_float(name, self.low, self.high, log=self.log):.{VALUE_DIGITS}g}")


@dataclass(frozen=True)
class Space:
    """Defenses by name, each with the settings that vary: a range, or a list of values.

    Raises:
        ValueError: if there is no defense, or one in which nothing varies.
    """

    defenses: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not self.defenses:
            raise ValueError(
                "space={}: expected defenses to try; name some, such as search.space.l2.weight_decay=[0.1]"
            )
        for defense, settings in self.settings.items():
            if not settings:
                raise ValueError(
                    f"space.{defense}={{}}: expected settings that vary; give one a range, or remove it with"
                    f" ~search.space.{defense}"
                )

    @cached_property
    def settings(self) -> dict[str, dict[str, Range | Sequence[Any]]]:
        """Settings of each defense by dotted key."""
        return {defense: dict(_leaves(node, f"search.space.{defense}.", "")) for defense, node in self.defenses.items()}

    def suggest(self, trial: Trial) -> list[str]:
        """Settings of a trial, as overrides for `train.py`."""
        defense = trial.suggest_categorical("defense", sorted(self.settings))
        overrides = [f"defense={defense}"]
        for key, values in self.settings[defense].items():
            name = f"{defense}.{key}"
            if isinstance(values, Range):
                chosen = values.suggest(trial, name)
            else:
                chosen = trial.suggest_categorical(name, values)
            overrides.append(f"defense.{key}={chosen}")
        return overrides

    def corners(self) -> Iterator[tuple[str, list[str]]]:
        """Each defense with one point, as settings for `train.py`, to be checked before any is trained."""
        for defense, settings in self.settings.items():
            firsts = {key: values.low if isinstance(values, Range) else values[0] for key, values in settings.items()}
            yield defense, [f"defense={defense}", *(f"defense.{key}={value}" for key, value in firsts.items())]


def _leaves(node: Any, place: str, key: str) -> Iterator[tuple[str, Range | Sequence[Any]]]:
    """The settings of a node with their values."""
    if not isinstance(node, Mapping):
        if not isinstance(node, Sequence) or isinstance(node, str) or not node:
            raise ValueError(f"{place}{key}={node}: expected values to try; give a range, or a list such as [0.1,1]")
        yield key, node
    elif "low" in node or "high" in node:
        yield key, validated(Range, f"{place}{key}", node)
    else:
        for name, inner in node.items():
            yield from _leaves(inner, place, f"{key}.{name}" if key else name)


@dataclass(frozen=True, kw_only=True)
class Search(CheckedFields):
    """The subject of a search, and its length.

    Args:
        name: of the search, and of its folder beside the report.
        trials: runs to try, those of earlier calls included, at least 1.
        train: settings of every run, as for `train.py`.
        space: defenses, and what varies of each.

    Raises:
        ValueError: if there is nothing to try.
    """

    name: str
    trials: Annotated[Count, Field(examples=[30])]
    train: Mapping[str, Any]
    space: Mapping[str, Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        Space(self.space)

    @property
    def shared(self) -> list[str]:
        """The settings of every run, as words for `train.py`."""
        return [f"{key}={'null' if value is None else value}" for key, value in flat(self.train)]

    def study_name(self, identity: str, protocol: AttackProtocol) -> str:
        """Names the trials that may stand together: other data, settings, attacks or ranges make another study."""
        content = [identity, canonical([self.space, self.train, asdict(protocol)]), PROTOCOL_VERSION]
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=6).hexdigest()


def explore(
    search: Search, folder: Path, name: str, attempt: Callable[[Sequence[str]], tuple[str, Result]]
) -> list[FrozenTrial]:
    """Tries settings until there are enough trials, proposed by what earlier ones found; returns those that are over.

    A tree-structured Parzen estimator for two objectives proposes (Ozaki et al. 2022, "Multiobjective Tree-Structured
    Parzen Estimator"). Trials are kept in a SQLite database: one that was killed is tried again with the same values,
    one that failed is kept with its reason and not repeated.

    Args:
        search: what is searched.
        folder: of the database.
        name: of the study in it.
        attempt: trains and attacks the run of some settings; returns the label of its guard and what was found.

    Raises:
        ValueError: if the database cannot be used, or another process searches.
    """
    with exclusive_lock(folder):
        study = open_study(folder / "study.db", name)
        from optuna.trial import TrialState

        for killed in study.get_trials(states=(TrialState.RUNNING,)):
            study.tell(killed.number, state=TrialState.FAIL)
            study.enqueue_trial(killed.params)
        while len(finished_trials(study)) < search.trials:
            trial = study.ask()
            settings = Space(search.space).suggest(trial)
            trial.set_user_attr(TRIAL_SETTINGS, " ".join(settings))
            trial_text = f"trial {len(finished_trials(study)) + 1} of {search.trials}: {' '.join(settings)}: "
            try:
                guard, result = attempt(settings)
                values = objectives(result)
            except Exception as error:  # a setting that cannot be trained or measured stops no other
                trial.set_user_attr(TRIAL_FAILED, one_line(error))
                study.tell(trial, state=TrialState.FAIL)
                print(f"{trial_text}failed: {one_line(error)}", flush=True)
                continue
            trial.set_user_attr(TRIAL_RUN, result.folder)
            trial.set_user_attr(TRIAL_GUARD, guard)
            study.tell(trial, values)
            leaking = tpr_text(result.strongest_row(tpr_at(FPR)))
            print(f"{trial_text}{label(result)}, {result.utility_text}, {leaking}", flush=True)
        return finished_trials(study)


def objectives(result: Result) -> tuple[float, float]:
    """Utility of a run, more being better, and the TPR at 1 % FPR of its strongest attack.

    Raises:
        ValueError: if one of them cannot be measured.
    """
    if (objection := MEASURABLE_LIMIT.verdict(result, Comparison([result])).why) is not None:
        raise ValueError(objection)
    row = result.strongest_row(tpr_at(FPR))
    assert row is not None and row.value is not None
    if math.isinf(result.worth):
        raise ValueError(f"its {result.utility.words} cannot be measured")
    return result.worth, row.value


def finished_trials(study: Study) -> list[FrozenTrial]:
    """The trials that were not killed."""
    return [
        trial
        for trial in study.trials
        if trial.state.is_finished() and {TRIAL_RUN, TRIAL_FAILED} & set(trial.user_attrs)
    ]


def open_study(path: Path, name: str) -> Study:
    """The study of this name in a SQLite database, made if it is missing."""
    import optuna  # slow to import

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with readable_database(path):
        study = optuna.create_study(
            storage=f"sqlite:///{path}", study_name=name, directions=("maximize", "minimize"), load_if_exists=True
        )
        # Another seed for each call: the first proposals are random, and must not be those of an earlier call.
        study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))
    return study


@contextmanager
def readable_database(path: Path) -> Iterator[None]:
    """Raises ValueError where the database of a search, at `path`, cannot be read or written."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        raise ValueError(
            f"{path} cannot be read or written as the database of a search; move it away, or fix its permissions"
        ) from error


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Keeps other processes from searching in the same folder; a killed one's trials are then known to be nobody's."""
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / ".lock", wait=False) as free:
        if not free:
            raise ValueError(f"{folder} is being searched by another process; wait for it, or choose name=…")
        yield


@dataclass(frozen=True, kw_only=True)
class Searched:
    """Result of a search.

    Args:
        trials: all that are over.
        results: of the undefended run and of all that could be measured, each once.
    """

    trials: Sequence[FrozenTrial]
    results: Sequence[Result]

    @property
    def failed(self) -> int:
        """Number of trials whose training ended with an error."""
        return sum(TRIAL_FAILED in trial.user_attrs for trial in self.trials)

    @cached_property
    def frontier(self) -> list[Result]:
        """The runs that no other beats, utility and leakage rising."""
        return [point.result for point in Comparison(self.results).frontier]


def run_search(
    search: Search,
    protocol: AttackProtocol,
    folder: Path,
    compose: Callable[..., dict[str, Any]],
    train: Callable[[dict[str, Any]], Mapping[str, Any]],
) -> Searched:
    """Searches, and goes on where an earlier call stopped.

    The undefended run is trained first and stands beside the trials: it shows what protection costs.

    Args:
        search: what is searched.
        protocol: how runs are attacked.
        folder: where trials are kept.
        compose: makes of settings those of a run, as `composed` does.
        train: trains what is missing of such a run, and says in which folder.
    """
    for _, corner in Space(search.space).corners():
        compose(*search.shared, *corner)  # a setting that does not exist is refused before anything is trained

    def attempt(settings: Sequence[str]) -> tuple[str, Result]:
        config = compose(*search.shared, *settings)
        if "guesses" not in search.train:
            config = with_recorded_share(config)
        done = train(config)
        if done["status"] == "skipped":
            raise ValueError(f"{done['folder']} is being trained by another process")
        guard = guard_label(make_guard(config))
        (result,) = results_of([hold(Run(Path(done["folder"]), guard))], protocol)
        return guard, result

    def hold(run: Run) -> Run:
        """The run, which no other process can remove before the search has ended."""
        if run.folder not in read:
            read.add(run.folder)
            readers.enter_context(run.read())
        return run

    read: set[Path] = set()
    with ExitStack() as readers:
        guard, undefended = attempt([])
        trials = explore(search, folder, search.study_name(undefended.run, protocol), attempt)
        attrs = [trial.user_attrs for trial in trials if TRIAL_RUN in trial.user_attrs]
        tried = [Run(Path(attr[TRIAL_RUN]), attr[TRIAL_GUARD]) for attr in attrs]
        runs = dict.fromkeys([Run(Path(undefended.folder), guard), *tried])
        results = results_of([hold(run) for run in runs if run.is_complete()], protocol)
    return Searched(trials=trials, results=results)


def with_recorded_share(config: dict[str, Any]) -> dict[str, Any]:
    """The settings with the share of guesses that their run has recorded, if models of it are there."""
    TrainSettings.parsed(config)
    run = Run.of(config, from_config(config))
    return {**config, "guesses": run.guesses} if run.has_models() else config


def show_search(
    search: Search,
    protocol: AttackProtocol,
    reports: Path,
    compose: Callable[..., dict[str, Any]],
    train: Callable[[dict[str, Any]], Mapping[str, Any]],
) -> None:
    """Searches, prints the frontier and writes what was tried into a folder of the search's own; see `run_search`.

    Exits with 1 if some trials failed, with 3 if a claim is violated.
    """
    searched = run_search(search, protocol, reports / search.name, compose, train)
    show(console_for(), frontier_table(searched), *filter(None, [accuracy_text(searched.results)]), SELECTION_BIAS)
    for path in write_search(searched, reports / search.name):
        print(path)
    print(f"{len(searched.trials) - searched.failed} done, {searched.failed} failed")
    if violations(searched.results):
        raise SystemExit(EXIT_CLAIM_VIOLATED)
    if searched.failed:
        raise SystemExit(EXIT_SOME_FAILED)


def frontier_table(searched: Searched) -> Table:
    """The frontier, utility and leakage rising."""
    table = empty_table()
    measure = searched.results[0].utility
    for heading in ("frontier", measure.words, f"TPR at {100 * FPR:g} % FPR", "attack", "run"):
        table.add_column(heading)
    for result in searched.frontier:
        leaking = percent(result.strongest_row(tpr_at(FPR)), interval=True)
        utility = measure.text(result.find(measure.metric), interval=True)
        table.add_row(label(result), utility, leaking, result.strongest, result.run)
    return table


def write_search(searched: Searched, folder: Path) -> list[Path]:
    """Writes trials.csv, pareto.png and pareto.svg into a folder, each file whole or not at all."""
    write(folder / "trials.csv", csv_text(TRIAL_COLUMNS, _rows(searched)))
    drawn = pareto(Comparison(searched.results))
    write(folder / "pareto.svg", svg(drawn))
    save(drawn, folder / "pareto.png")
    return [folder / "trials.csv", folder / "pareto.png"]


def _rows(searched: Searched) -> Iterator[dict[str, Any]]:
    best = {result.folder for result in searched.frontier}
    measure = searched.results[0].utility
    for trial in searched.trials:
        utility, tpr = (measure.worth(trial.values[0]), trial.values[1]) if trial.values else (None, None)
        folder = trial.user_attrs.get(TRIAL_RUN)
        seconds = None if trial.duration is None else round(trial.duration.total_seconds(), 1)
        yield {
            "trial": trial.number, "settings": trial.user_attrs[TRIAL_SETTINGS], "utility": utility, "tpr": tpr,
            "on_frontier": folder in best, "run": folder, "seconds": seconds,
            "failed": trial.user_attrs.get(TRIAL_FAILED),
        }  # fmt: skip
