"""Results of runs: kept from earlier where nothing has changed, else measured by the workers of an engine.

A run is one work item as long as there are as many runs as workers. The runs that are left over are cut: workers ask
models in chunks, then score and measure attacks in shares, then look into the strongest one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from palisade.attacks import Attack
from palisade.data.slices import Slices
from palisade.evaluation.measuring.measure import (
    AttackShare,
    RunFacts,
    Sight,
    attack_share,
    facts_of,
    joined,
    looked_into,
    measure,
)
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.result import Result, Row
from palisade.evaluation.signals.documents import copy_losses_of_some, keep_copy_losses, lacks_neighbor_losses
from palisade.evaluation.signals.inner import inside_some, keep_inner, unmeasured
from palisade.evaluation.signals.signals import view
from palisade.evaluation.signals.stored import MODELS_AT_ONCE, ask_some, unasked
from palisade.evaluation.subjects.subject import FleetSubject
from palisade.evaluation.utility import Utility
from palisade.targets import engines, progress
from palisade.targets.files import remove_stale, replacing, temporary_path, write_json
from palisade.targets.run import Run

SHARES_PER_WORKER = 4
"""Shares of attacks for each worker, so that none waits long for the slowest."""
MIN_SCORES_TO_CUT = 1_000_000
"""Scores of all attacks on a run below which workers take longer to start than to attack."""
Part = TypeVar("Part")
Place = tuple[Path, str]
"""Folder of a run, and the label of the guard before its models."""


def results_of(runs: Sequence[Run], protocol: AttackProtocol) -> list[Result]:
    """Result of attacks on runs: kept from an earlier call where nothing has changed, otherwise measured."""
    missing = [run for run in runs if stored_result(run, protocol) is None]
    measured: dict[Place, Result] = {}
    if missing:
        workers = engines.count("auto")
        whole, cut = dealt(missing, protocol, workers)
        ask_models([run for run in missing if run in cut or further(run, protocol)], protocol)
        look_inside(cut, protocol)
        ask_about_copies(cut, protocol)
        for run in missing:
            train_shadows_of(run, protocol)
        total = sum(len(protocol.nodes_on(run)) for run in missing)
        with progress.Progress(missing[0].folder.parent, total, "attacks"):
            items = [(run.folder, run.guard, protocol, *fixed_on(run, protocol)) for run in whole]
            measured = dict(engines.run(measure_and_keep, items, "auto", [run.folder for run in whole]))
            measured |= dict(in_shares(cut, protocol, workers))
    # Another evaluation may have put its own in the place of what was just measured.
    results = (measured.get((run.folder, run.guard)) or stored_result(run, protocol) for run in runs)
    return [result for result in results if result is not None]


def dealt(runs: Sequence[Run], protocol: AttackProtocol, workers: int) -> tuple[list[Run], list[Run]]:
    """Runs that are a work item each, and large ones that are cut, since workers would be left without one.

    Args:
        runs: that are to be measured.
        protocol: how they are attacked.
        workers: how many there are.
    """
    over = len(runs) % workers
    cut = [run for run in runs[len(runs) - over :] if scores_of(run, protocol) >= MIN_SCORES_TO_CUT]
    return [run for run in runs if run not in cut], cut


def scores_of(run: Run, protocol: AttackProtocol) -> int:
    """Number of scores of all attacks on a run."""
    return len(run.models()) * len(run.dataset.split.audited) * len(protocol.nodes_on(run))


def further(run: Run, protocol: AttackProtocol) -> list[Attack]:
    """The attacks on a run that ask for further shadows."""
    return [attack for attack in protocol.attacks_on(run) if attack.threat.further_shadows]


def ask_models(runs: Sequence[Run], protocol: AttackProtocol) -> None:
    """Asks models of runs by all workers, a few models each, where no file holds their answers."""
    asked = [run for run in runs if run.has_weights()]
    items = [
        (run.folder, run.guard, protocol.queries, models[start : start + MODELS_AT_ONCE])
        for run in asked
        for models in [unasked(run, protocol.queries)]
        for start in range(0, len(models), MODELS_AT_ONCE)
    ]
    for _ in engines.run(ask_some, items, "auto", [run.folder for run in asked]):
        pass  # files are all that workers leave


def look_inside(runs: Sequence[Run], protocol: AttackProtocol) -> None:
    """Takes gradients and checkpoints of runs by all workers, a few models each, where no file holds what attacks need
    of them."""
    if not protocol.grant.weights:
        return
    names = {
        run.folder: unmeasured(run, [attack.threat for attack in (*protocol.attacks_on(run), protocol.audit)])
        for run in runs
        if run.has_weights()
    }
    items = [
        (folder, names[folder], models[start : start + MODELS_AT_ONCE])
        for folder in names
        if names[folder]
        for models in [Run(folder).models()]
        for start in range(0, len(models), MODELS_AT_ONCE)
    ]
    for folder, parts in by_models(inside_some, items).items():
        keep_inner(Run(folder), parts)


def ask_about_copies(runs: Sequence[Run], protocol: AttackProtocol) -> None:
    """Asks language models about edited copies by all workers, a few models each, where attacks look at the answers."""
    asked = [run for run in runs if lacks_neighbor_losses(run, [each.threat for each in protocol.attacks_on(run)])]
    models = {run.folder: run.models() for run in asked}
    items = [
        (folder, own[start : start + MODELS_AT_ONCE])
        for folder, own in models.items()
        for start in range(0, len(own), MODELS_AT_ONCE)
    ]
    for folder, parts in by_models(copy_losses_of_some, items).items():
        keep_copy_losses(Run(folder), parts)


def by_models(
    function: Callable[..., tuple[Path, int, Part]], items: Sequence[tuple[Any, ...]]
) -> dict[Path, list[Part]]:
    """Results about some models of a run each, for every run in the order of its models.

    Args:
        function: the work item of a process, whose results are a folder, the first of the models, and what is wanted.
        items: its arguments, the folder of a run first.
    """
    parts: dict[Path, dict[int, Part]] = {}
    for folder, first, part in engines.run(function, items, "auto", [*dict.fromkeys(item[0] for item in items)]):
        parts.setdefault(folder, {})[first] = part
    return {folder: [of_models[first] for first in sorted(of_models)] for folder, of_models in parts.items()}


def train_shadows_of(run: Run, protocol: AttackProtocol) -> None:
    """Trains the further shadows that attacks ask for by all worker processes: within one, a run has but that one."""
    if attacks := further(run, protocol):
        seen = view(run, protocol.grant, protocol.queries, [attack.threat for attack in attacks])
        for attack in attacks:
            if attack.missing(seen) is None:
                attack.run(seen)  # for the files of the models alone


def fixed_on(run: Run, protocol: AttackProtocol) -> tuple[Slices, dict[str, Any]]:
    """Slices of a run, whose table a node need not have, and what its results are known by if others extend it."""
    return protocol.slices_of(run), {"key": protocol.key(run), "models": len(run.models())}


def check_unchanged(run: Run, measured: Mapping[str, Any]) -> None:
    """Raises ValueError if models were added to a run since it was known what is measured."""
    if len(run.models()) != measured["models"]:
        raise ValueError(f"runs={run.folder}: expected nobody to train it while it is attacked; evaluate it again")


def measure_and_keep(
    folder: Path, guard: str, protocol: AttackProtocol, slices: Slices, measured: Mapping[str, Any]
) -> tuple[Place, Result]:
    """The work item of a process: one run.

    Args:
        folder: of the run.
        guard: the label of the guard before its models.
        protocol: how it is attacked.
        slices: groups of its records.
        measured: `key` and `models` of the results.
    """
    run = Run(folder, guard)
    check_unchanged(run, measured)
    result = _stored(run, protocol, measured, measure(run, protocol, slices=slices))
    progress.report(run.name, len(protocol.nodes_on(run)))
    return (folder, guard), result


@dataclass(frozen=True, kw_only=True)
class CutRun:
    """A run whose attacks are dealt out to workers.

    Args:
        folder: of the run.
        guard: the label of the guard before its models.
        protocol: how it is attacked.
        slices: groups of its records; nodes without the table that holds them need it not.
        measured: `key` and `models` of the results.
        scores: folder in which the scores of each attack lie until the strongest is known.
    """

    folder: Path
    guard: str
    protocol: AttackProtocol
    slices: Slices
    measured: Mapping[str, Any]
    scores: Path

    @classmethod
    @contextmanager
    def of(cls, run: Run, protocol: AttackProtocol) -> Iterator[CutRun]:
        """A run in shares, with room for scores until the block ends."""
        signals = run.folder / "signals"
        signals.mkdir(exist_ok=True)
        remove_stale(signals)
        scores = temporary_path(signals / f"{run.guard}-scores")
        scores.mkdir(mode=0o700)
        try:
            slices, measured = fixed_on(run, protocol)
            yield cls(
                folder=run.folder, guard=run.guard, protocol=protocol, slices=slices,
                measured=measured, scores=scores,
            )  # fmt: skip
        finally:
            shutil.rmtree(scores, ignore_errors=True)

    @property
    def run(self) -> Run:
        """The run itself."""
        return Run(self.folder, self.guard)

    @property
    def place(self) -> Place:
        """By which it is known among others."""
        return self.folder, self.guard

    def sight(self) -> Sight:
        """Sight of the run, which a worker keeps for the next share.

        Raises:
            ValueError: if models were added to the run meanwhile.
        """
        global _last_sight
        known = (self.folder, self.guard, self.measured["key"])
        if _last_sight is None or _last_sight[0] != known:
            _last_sight = None  # before another takes its place in memory
            check_unchanged(self.run, self.measured)
            _last_sight = known, Sight.of(self.run, self.protocol, self.slices)
        return _last_sight[1]

    def path(self, attack: str) -> Path:
        """File of the scores of an attack."""
        names = [each.name for each in self.protocol.attacks_on(self.run)]  # some hold signs that no file should
        return self.scores / f"{names.index(attack)}.npy"


_last_sight: tuple[Any, Sight] | None = None


def in_shares(runs: Sequence[Run], protocol: AttackProtocol, workers: int) -> Iterator[tuple[Place, Result]]:
    """Results of runs whose models were asked, by workers that take some attacks of a run each.

    Args:
        runs: fewer than workers.
        protocol: how they are attacked.
        workers: how many there are.
    """
    folders = [run.folder for run in runs]
    with ExitStack() as held:
        cuts = [held.enter_context(CutRun.of(run, protocol)) for run in runs]
        shares = max(1, SHARES_PER_WORKER * workers // max(len(cuts), 1))
        facts: dict[Place, RunFacts] = {}
        parts: dict[Place, list[AttackShare]] = {cut.place: [] for cut in cuts}
        items = [
            (cut, number, shares)
            for cut in cuts
            for number in (None, *range(min(shares, len(protocol.nodes_on(cut.run)))))
        ]
        for place, measured in engines.run(measure_part, items, "auto", folders):
            if isinstance(measured, RunFacts):
                facts[place] = measured
            else:
                parts[place].append(measured)
        for cut in cuts:
            result = joined(cut.run, protocol, facts[cut.place], parts[cut.place])
            strongest = cut.path(result.strongest) if result.attacks else None
            for path in cut.scores.glob("*.npy"):
                if path != strongest:
                    path.unlink()
        ends = [(cut, facts[cut.place], parts[cut.place]) for cut in cuts]
        yield from engines.run(keep_joined, ends, "auto", folders)


def measure_part(cut: CutRun, number: int | None, shares: int) -> tuple[Place, RunFacts | AttackShare]:
    """The work item of a process: every so manieth attack on a run, or all that rests on none.

    Args:
        cut: the run.
        number: of the share; None: of no attack.
        shares: how many there are.
    """
    sight = cut.sight()
    if number is None:
        return cut.place, facts_of(sight)
    own = [attack.name for attack in cut.protocol.attacks_on(cut.run)][number::shares]
    share, scores = attack_share(sight, [attack for attack in sight.attacks if attack.name in own])
    cut.scores.mkdir(parents=True, exist_ok=True)  # a copy of the run holds no empty folders
    for name, scored in scores.items():
        with replacing(cut.path(name)) as temporary:
            np.save(temporary, scored)
    progress.report(cut.run.name, len(own))
    return cut.place, share


def keep_joined(cut: CutRun, facts: RunFacts, shares: Sequence[AttackShare]) -> tuple[Place, Result]:
    """The work item of a process: the result of a run whose attacks were measured by others."""
    sight = cut.sight()
    result = joined(cut.run, cut.protocol, facts, shares)
    strongest = [result.strongest] if result.attacks else []
    scores = {name: np.load(cut.path(name), mmap_mode="r") for name in strongest}
    return cut.place, _stored(cut.run, cut.protocol, cut.measured, looked_into(sight, result, scores))


def _stored(run: Run, protocol: AttackProtocol, measured: Mapping[str, Any], result: Result) -> Result:
    """Writes the result of a run, and gives it as from the file: the same whether measured for a report or before."""
    content = {**measured, "results": result.to_json()}
    write_json(run.metrics, content)
    return of_json(run, json.loads(json.dumps(content["results"])), protocol.read_on(run))


def stored_result(run: Run, protocol: AttackProtocol) -> Result | None:
    """The results of this protocol on these very models, if they are there."""
    if not run.metrics.exists() or (content := json.loads(run.metrics.read_text()))["key"] != protocol.key(run):
        return None
    return of_json(run, content["results"], protocol.read_on(run))


def of_json(run: Run, content: Mapping[str, Any], utility: Utility) -> Result:
    """The result of a run from what `Result.to_json` wrote."""
    rows = [Row(**row) for row in content["rows"]]
    roc = {attack: (fprs, tprs) for attack, (fprs, tprs) in content["roc"].items()}
    return FleetSubject(run).result(**{**content, "rows": rows, "roc": roc}, utility=utility)
