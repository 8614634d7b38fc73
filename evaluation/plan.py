"""What a run or a sweep will cost, and what its audits can refute, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from palisade.attacks import Attack
from palisade.data.dataset import Dataset
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.evaluation.claims import LEVEL
from palisade.evaluation.reach import Reach, states_epsilon
from palisade.evaluation.runs import Run

BYTES = 4  # of a float32
FLOP_PER_PARAMETER = 6  # of one record in one step: forward, and backward for inputs and weights
RATE = 2e10  # FLOP/s of one core on small products
COSTS = ("models", "missing", "minutes", "megabytes")  # what adds up over runs
TUNED = "<tuned>"  # stands for settings that nobody knows before they are chosen
STEP_SECONDS = 3e-4  # of a step whatever its size


def cost(run: Run, settings: Mapping[str, Any], dataset: Dataset, missing: Sequence[int]) -> dict[str, Any]:
    """The models to train of a run, time and disk by a rough estimate, and the reach of an audit with its canaries."""
    from palisade.targets import workers
    from palisade.targets.training import make_fitter, settled

    membership = Membership(**settings["membership"])
    fitter = make_fitter(settings, dataset, Secret.from_text("plan"), models=[0], membership=membership)
    network = fitter.initial_network(0)
    parameters = sum(p.numel() for p in network.parameters())
    arithmetic = fitter.arithmetic
    seconds = arithmetic.steps * (STEP_SECONDS + FLOP_PER_PARAMETER * parameters * arithmetic.batch_size / RATE)
    seconds *= fitter.defense.cost * fitter.defense.slowdown(network, settled(run.folder))
    models = settings["fleet"]["models"]
    answers = models * (len(dataset.split.pool) + len(dataset.split.test)) * len(dataset.classes)
    return {
        "folder": str(run.folder),
        "models": models,
        "missing": len(missing),
        "minutes": len(missing) * seconds / workers.count(settings["fleet"]["workers"]) / 60,
        "megabytes": BYTES * (models * parameters * (1 + settings["fleet"]["keep_checkpoints"]) + answers) / 1e6,
        "claims": states_epsilon(settings),
        "reach": Reach.planned(settings, dataset),
    }


def cost_of_attacks(run: Run, attacks: Sequence[Attack]) -> dict[str, Any]:
    """What attacks on a run train besides, at most: models that are there already are taken for missing."""
    models = sum(attack.threat.further_shadows for attack in attacks)
    settings = {**run.config, "fleet": {**run.config["fleet"], "models": models, "keep_checkpoints": 0}}
    trained = cost(run, settings, run.dataset, range(models))
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
