"""The runs of a search: trained and attacked like any other, and the frontier among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palisade.data.dataset import from_config
from palisade.evaluation.comparison import Comparison
from palisade.evaluation.measuring.measure import results_of
from palisade.evaluation.method import Method
from palisade.evaluation.result import Result
from palisade.evaluation.search.frontier_search import FAILED, GUARD, RUN, Search, explore
from palisade.evaluation.search.space import Space
from palisade.targets.guards.registry import label, make_guard
from palisade.targets.run import Run

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


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
        return sum(FAILED in trial.user_attrs for trial in self.trials)

    @cached_property
    def frontier(self) -> list[Result]:
        """The runs that no other beats, utility and leakage rising."""
        return [point.result for point in Comparison(self.results).frontier]


def run_search(
    search: Search,
    method: Method,
    folder: Path,
    compose: Callable[..., dict[str, Any]],
    train: Callable[[dict[str, Any]], Mapping[str, Any]],
) -> Searched:
    """Searches, and goes on where an earlier call stopped.

    The undefended run is trained first and stands beside the trials: it shows what protection costs.

    Args:
        search: what is searched.
        method: how runs are attacked.
        folder: where trials are kept.
        compose: makes of settings those of a run, as `composed` does.
        train: trains what is missing of such a run, and says in which folder.
    """
    for corner in Space(search.space).corners():
        compose(*search.shared, *corner)  # a setting that does not exist is refused before anything is trained

    def attempt(settings: Sequence[str]) -> tuple[str, Result]:
        config = compose(*search.shared, *settings)
        if "guesses" not in search.train:
            config = with_recorded_share(config)
        done = train(config)
        if done["status"] == "skipped":
            raise ValueError(f"{done['folder']} is being trained by another process")
        guard = label(make_guard(config))
        (result,) = results_of([Run(Path(done["folder"]), guard)], method)
        return guard, result

    guard, undefended = attempt([])
    trials = explore(search, folder, search.study_name(undefended.run, method), attempt)
    tried = [Run(Path(trial.user_attrs[RUN]), trial.user_attrs[GUARD]) for trial in trials if RUN in trial.user_attrs]
    runs = dict.fromkeys([Run(Path(undefended.folder), guard), *tried])
    return Searched(trials=trials, results=results_of([run for run in runs if run.is_complete()], method))


def with_recorded_share(config: dict[str, Any]) -> dict[str, Any]:
    """The settings with the share of guesses that their run has recorded, if models of it are there."""
    run = Run.of(config, from_config(config))
    return {**config, "guesses": run.guesses} if run.has_models() else config
