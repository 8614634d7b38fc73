"""Plan of a search: what its trials would train, which are not proposed yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palisade.evaluation.format import console_for
from palisade.evaluation.frontier_search import Search, Space, finished_trials, readable_database
from palisade.evaluation.plan import print_costs
from palisade.evaluation.protocol import AttackProtocol
from palisade.targets.guards.registry import label as guard_label
from palisade.targets.guards.registry import make_guard
from palisade.targets.plan import COST_KEYS
from palisade.targets.run import Run

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def show_search_costs(
    search: Search,
    protocol: AttackProtocol,
    reports: Path,
    compose: Callable[..., dict[str, Any]],
    train: Callable[[dict[str, Any]], Mapping[str, Any]],
) -> None:
    """Prints the costs of the undefended run, of a trial of each defense, and of all as if the slowest were proposed.

    Nothing is trained or written; arguments are those of `show_search`.
    """
    alone = compose(*search.shared)
    undefended = train({**alone, "plan": True})
    run = Run(Path(undefended["folder"]), guard_label(make_guard(alone)))
    over = trials_over(reports / search.name / "study.db", search.study_name(run.name, protocol))
    of_defense = {
        defense: train({**compose(*search.shared, *corner), "plan": True})
        for defense, corner in Space(search.space).corners()
    }
    slowest = max(of_defense, key=lambda defense: of_defense[defense]["minutes"])
    coming = max(0, search.trials - len(over))
    total = {key: undefended[key] + coming * of_defense[slowest][key] for key in COST_KEYS}
    trials = f"{search.trials} trials" + (f", {len(over)} of them over" if over else "")
    print_costs([
        undefended,
        *({**cost, "folder": f"a trial of {defense}"} for defense, cost in of_defense.items()),
        {**total, "folder": f"{trials}: at most, as if all were of {slowest}"},
    ])  # fmt: skip
    console_for().print(attacks_sentence(over, coming), highlight=False, soft_wrap=True)


def trials_over(path: Path, name: str) -> Sequence[FrozenTrial]:
    """The trials of a study that are over, none if the database or the study is not there."""
    if not path.exists():
        return []
    import optuna  # slow to import

    with readable_database(path):
        storage = f"sqlite:///{path}"
        if name not in optuna.get_all_study_names(storage):
            return []
        return finished_trials(optuna.load_study(study_name=name, storage=storage))


def attacks_sentence(over: Sequence[FrozenTrial], coming: int) -> str:
    """Time of whole trials, attacks included, as far as there were some.

    Args:
        over: trials that are.
        coming: how many follow.
    """
    minutes = [trial.duration.total_seconds() / 60 for trial in over if trial.values and trial.duration]
    if not minutes:
        return "Attacks on each run come on top: after the first trials this plan says how long whole trials took."
    mean = sum(minutes) / len(minutes)
    return f"With its attacks a trial took {mean:.1f} minutes so far: about {coming * mean:.0f} for those to come."
