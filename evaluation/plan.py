"""Costs of a run or a sweep, and the claims that its audits can refute, in words, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from palisade.attacks import Attack
from palisade.data.dataset import Dataset
from palisade.evaluation.claims import LEVEL
from palisade.evaluation.reach import Reach, states_epsilon
from palisade.targets import plan
from palisade.targets.plan import COSTS, TUNED
from palisade.targets.run import Run


def with_reach(costs: Mapping[str, Any], settings: Mapping[str, Any], dataset: Dataset) -> dict[str, Any]:
    """The costs of a run with the reach of an audit of its canaries."""
    return {**costs, "claims": states_epsilon(settings), "reach": Reach.planned(settings, dataset)}


def cost_of_attacks(run: Run, attacks: Sequence[Attack]) -> dict[str, Any]:
    """Models that attacks on a run train besides, at most: models that are there already are taken for missing."""
    models = sum(attack.threat.further_shadows for attack in attacks)
    settings = {**run.config, "fleet": {**run.config["fleet"], "models": models, "keep_checkpoints": 0}}
    trained = plan.cost(run, settings, run.dataset, range(models))
    return {**trained, "folder": f"{run.name}: further shadows", "claims": 0, "reach": None}


def show_costs(costs: Sequence[Mapping[str, Any]]) -> None:
    """Prints a line per run, the total, and what audits can refute if all these runs are evaluated together.

    A run that several guards stand before is trained once.
    """
    from palisade.evaluation.terminal import console_for, empty_table, show

    costs = [cost for place, cost in enumerate(costs) if TUNED in cost["folder"] or cost not in costs[:place]]
    table = empty_table()
    for place, heading in enumerate(("run", "models", "to train", "about minutes", "about MB")):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    total = {key: sum(cost[key] for cost in costs) for key in COSTS}
    for row in [*costs, {"folder": f"{len(costs)} runs", **total}]:
        table.add_row(
            row["folder"], str(row["models"]), str(row["missing"]), f"{row['minutes']:.1f}", f"{row['megabytes']:.1f}"
        )
    console = console_for()
    show(console, table)
    level = LEVEL / max(sum(cost["claims"] for cost in costs), 1)
    for cost in costs:
        if (reach := cost["reach"]) is not None:
            whose = "" if len(costs) == 1 else f"{Path(cost['folder']).name}: "
            console.print(f"{whose}{reach.sentence(level)}", highlight=False, soft_wrap=True)
