"""A search for the frontier of utility and leakage: what is tried survives whatever stops it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palisade.commandline import one_line
from palisade.evaluation.curves import FPR, strongest_row
from palisade.evaluation.findings import Findings, tpr_at
from palisade.evaluation.limits.limit import Limit, found_text
from palisade.evaluation.method import METHOD_VERSION, Method
from palisade.evaluation.search.space import Space
from palisade.evaluation.titles import title
from palisade.evaluation.utility import worth
from palisade.targets.config import flat
from palisade.targets.files import file_lock
from palisade.targets.run import canonical

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

SETTINGS, RUN, GUARD, FAILED = "settings", "run", "guard", "failed"
"""Attributes of a trial: what it tried; then the run's folder and guard, or why it failed; a killed one has neither."""
MEASURABLE = Limit(name="search", max_tpr=1.0)
"""What a run must keep to be a point of the frontier: that its TPR says how much leaks."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched, and for how long.

    Args:
        name: of the search, and of its folder beside the report.
        trials: runs to try, those of earlier calls included, at least 1.
        train: settings of every run, as for `train.py`.
        space: defenses, and what varies of each.

    Raises:
        ValueError: if there is nothing to try.
    """

    name: str
    trials: int
    train: Mapping[str, Any]
    space: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.trials, int) or isinstance(self.trials, bool) or self.trials < 1:
            raise ValueError(f"search.trials={self.trials} cannot be used; choose a whole number from 1 on")
        if not isinstance(self.train, Mapping):
            raise ValueError(f"search.train={self.train} is no group of settings; give such as search.train.seed=1")
        Space(self.space)

    @property
    def shared(self) -> list[str]:
        """The settings of every run, as words for `train.py`."""
        return [f"{key}={'null' if value is None else value}" for key, value in flat(self.train)]

    def study_name(self, identity: str, method: Method) -> str:
        """Names the trials that may stand together: other data, settings, attacks or ranges make another study."""
        content = [identity, canonical([self.space, self.train, asdict(method)]), METHOD_VERSION]
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=6).hexdigest()


def explore(
    search: Search, folder: Path, name: str, attempt: Callable[[Sequence[str]], tuple[str, Findings]]
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
        ValueError: if optuna is missing, the database cannot be used, or another process searches.
    """
    with alone(folder):
        study = open_study(folder / "study.db", name)
        from optuna.trial import TrialState

        for killed in study.get_trials(states=(TrialState.RUNNING,)):
            study.tell(killed.number, state=TrialState.FAIL)
            study.enqueue_trial(killed.params)
        while len(over(study)) < search.trials:
            trial = study.ask()
            settings = Space(search.space).suggest(trial)
            trial.set_user_attr(SETTINGS, " ".join(settings))
            told = f"trial {len(over(study)) + 1} of {search.trials}: {' '.join(settings)}: "
            try:
                guard, found = attempt(settings)
                values = objectives(found)
            except Exception as error:  # a setting that cannot be trained or measured stops no other
                trial.set_user_attr(FAILED, one_line(error))
                study.tell(trial, state=TrialState.FAIL)
                print(f"{told}failed: {one_line(error)}", flush=True)
                continue
            trial.set_user_attr(RUN, found.folder)
            trial.set_user_attr(GUARD, guard)
            study.tell(trial, values)
            utility = found.utility.text(found.find(found.utility.metric))
            leaking = found_text(strongest_row(found, tpr_at(FPR)))
            print(f"{told}{title(found)}, {found.utility.words} {utility}, {leaking}", flush=True)
        return over(study)


def objectives(found: Findings) -> tuple[float, float]:
    """How useful a run is, more being better, and the TPR at 1 % FPR of its strongest attack.

    Raises:
        ValueError: if one of them cannot be measured.
    """
    if (objection := MEASURABLE.objection(found, [found])) is not None:
        raise ValueError(objection)
    row = strongest_row(found, tpr_at(FPR))
    assert row is not None and row.value is not None
    if math.isinf(worth(found)):
        raise ValueError(f"its {found.utility.words} cannot be measured")
    return worth(found), row.value


def over(study: Study) -> list[FrozenTrial]:
    """The trials that were not killed."""
    return [trial for trial in study.trials if trial.state.is_finished() and {RUN, FAILED} & set(trial.user_attrs)]


def open_study(path: Path, name: str) -> Study:
    """The study of this name in a SQLite database, made if it is missing."""
    try:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise ValueError("search=frontier needs optuna; install it with pip install -e '.[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{path}", study_name=name, directions=("maximize", "minimize"), load_if_exists=True
        )
        # Another seed for each call: the first proposals are random, and must not be those of an earlier call.
        study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))
    except SQLAlchemyError as error:
        raise ValueError(
            f"{path} cannot be read or written as the database of a search; move it away, or mend its permissions"
        ) from error
    return study


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps other processes from searching in the same folder; a killed one's trials are then known to be nobody's."""
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / ".lock", wait=False) as free:
        if not free:
            raise ValueError(f"{folder} is being searched by another process; wait for it, or choose name=…")
        yield
