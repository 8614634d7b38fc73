"""Plan of an evaluation: what attacks would train, and which claims its canaries could refute."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from palisade.attacks import Attack
from palisade.data.dataset import Dataset
from palisade.data.settings import validated
from palisade.data.split import Membership
from palisade.evaluation.claims import FAMILYWISE_ALPHA, ways_of
from palisade.evaluation.format import epsilon_text
from palisade.evaluation.result import Result
from palisade.evaluation.statistics.epsilon import canaries_needed, one_run
from palisade.targets import plan, progress
from palisade.targets.config import DEFAULT_GUESSED_SHARE, at_either_end
from palisade.targets.job import Job
from palisade.targets.plan import COST_KEYS, TUNED_PLACEHOLDER
from palisade.targets.recipe import WEIGHTS_ALONE
from palisade.targets.run import Run
from palisade.targets.trials import Trials

LONG_PLAN_MINUTES = 60
"""Minutes on this machine above which a plan says what a GPU would take."""
LARGER_GUESS_SHARE = 0.4
"""A share that leaves enough canaries between both ends: by chance one in ten more of them may be in than out."""


@dataclass(frozen=True, kw_only=True)
class Reach:
    """The claims that guesses of an audit refute if all of them are right.

    Args:
        epsilon: ε that is claimed.
        delta: δ of the claim.
        canaries: how many there are.
        share: of the canaries, guessed at either end.
        ways: how many ways of auditing the run were tried, which share the level.
        drawn: whether their membership is drawn with probability ½, without which guesses prove nothing about ε.
    """

    epsilon: float
    delta: float
    canaries: int
    share: float = DEFAULT_GUESSED_SHARE
    ways: int = 1
    drawn: bool = True

    @classmethod
    def planned(cls, settings: Mapping[str, Any], dataset: Dataset) -> Reach | None:
        """The reach of the audit of a run that is to be trained; None without canaries, or if it claims no ε."""
        from palisade.targets.recipe import Recipe
        from palisade.targets.training import make_defense

        node, split = settings["defense"], dataset.split
        if not len(split.canaries) or not states_epsilon(settings):
            return None
        membership = validated(Membership, "membership", settings["membership"])
        size = membership.public_size(make_defense(node).units(split), len(split.canaries))
        delta = node.get("delta") or Recipe.of(settings).schedule(size).delta
        drawn = membership.share == 0.5
        share = settings.get("guesses", DEFAULT_GUESSED_SHARE)
        return cls(epsilon=node["epsilon"], delta=delta, canaries=len(split.canaries), share=share, drawn=drawn)

    @classmethod
    def measured(cls, result: Result) -> Reach:
        """The reach of the audit of a run with a claim."""
        claim, audit = result.statement, result.audit
        share = audit["guesses"] / 2 / audit["canaries"]
        claimed, delta = claim.epsilon or 0.0, claim.delta or 0.0
        return cls(epsilon=claimed, delta=delta, canaries=audit["canaries"], share=share, ways=ways_of(result))

    def ceiling(self, level: float = FAMILYWISE_ALPHA) -> float:
        """The lower bound on ε that a perfect attack proves, which is wrong with a probability of at most `level`."""
        guesses = 2 * at_either_end(self.share, self.canaries)
        return one_run(self.canaries, guesses, guesses, self.delta, level / self.ways) if self.drawn else 0.0

    def sentence(self, level: float = FAMILYWISE_ALPHA) -> str:
        """Claims that can be refuted, in words, and what it takes where that of the run cannot."""
        ceiling = self.ceiling(level)
        claims = f"claims up to ε = {math.floor(10 * ceiling) / 10}" if ceiling >= 0.1 else "no claim"
        reach = f"this audit can refute {claims}"
        if ceiling > self.epsilon:
            return reach
        return f"{reach}; ε = {epsilon_text(self.epsilon)} takes {self._needed(level)}"

    def _needed(self, level: float) -> str:
        if not self.drawn:
            return "membership.share=0.5"
        enough = replace(self, share=max(self.share, LARGER_GUESS_SHARE)).ceiling(level) > self.epsilon
        more = f", or guesses={LARGER_GUESS_SHARE}" if enough else ""
        level /= self.ways
        if count := canaries_needed(self.epsilon, self.share, self.delta, level):
            return f"at least {count:,} canaries{more}"
        if count := canaries_needed(self.epsilon, self.share, 0.0, level):
            return f"at least {count:,} canaries and a smaller δ than {self.delta:.2g}{more}"
        return "more than a million canaries"


def states_epsilon(settings: Mapping[str, Any]) -> bool:
    """Set-up of a run's defense by an ε that it then claims: infinity is clipping alone."""
    epsilon = settings["defense"].get("epsilon")
    return epsilon is not None and not math.isinf(epsilon)


def with_reach(job: Job | Trials) -> dict[str, Any]:
    """The costs of a run, or of its trials and the run, with the reach of an audit of its canaries."""
    settings = job.settings.plain
    return {**job.cost(), "claims": states_epsilon(settings), "reach": Reach.planned(settings, job.dataset)}


def say_reach(job: Job) -> None:
    """Says, before a run is trained, which claims an audit of its canaries can refute."""
    if job.missing and (reach := Reach.planned(job.settings.plain, job.dataset)) is not None:
        progress.say(reach.sentence())


def cost_of_attacks(run: Run, attacks: Sequence[Attack]) -> dict[str, Any]:
    """Models that attacks on a run train besides, at most: models that are there already are taken for missing."""
    models = sum(attack.threat.further_shadows for attack in attacks) if run.has_weights() else 0
    settings = {**run.config, "fleet": {**run.config["fleet"], "models": models, **WEIGHTS_ALONE}}
    trained = plan.cost(run, settings, run.dataset, range(models))
    return {**trained, "folder": f"{run.name}: further shadows", "claims": 0, "reach": None}


def gpu_sentence(hours: float) -> str:
    """Hours on a GPU in words, with what the estimate rests on."""
    gpu, core = f"{plan.GPU_FLOP_PER_SECOND / 1e12:g} TFLOP/s", f"{plan.FLOP_PER_SECOND / 1e9:g} GFLOP/s"
    return (
        f"about {hours:.1f} GPU hours: operations of a record are counted, three passes a step, times records, steps"
        f" and the defense's factor; {gpu} of a GPU in float32, and {core} of a core, are assumed, not measured"
    )


def show_costs(costs: Sequence[Mapping[str, Any]]) -> None:
    """Prints a line per run, the total, and what audits can refute if all these runs are evaluated together.

    A run that several guards stand before is trained once.
    """
    from palisade.evaluation.format import console_for, counted_runs

    costs = [
        cost for place, cost in enumerate(costs) if TUNED_PLACEHOLDER in cost["folder"] or cost not in costs[:place]
    ]
    total = {key: sum(cost[key] for cost in costs) for key in COST_KEYS}
    print_costs([*costs, {"folder": counted_runs(len(costs)), **total}])
    console = console_for()
    level = FAMILYWISE_ALPHA / max(sum(cost["claims"] for cost in costs), 1)
    for cost in costs:
        if (reach := cost["reach"]) is not None:
            whose = "" if len(costs) == 1 else f"{Path(cost['folder']).name}: "
            console.print(f"{whose}{reach.sentence(level)}", highlight=False, soft_wrap=True)


def print_costs(costs: Sequence[Mapping[str, Any]]) -> None:
    """Prints a table of costs, the last of which is the total."""
    from palisade.evaluation.format import console_for, empty_table, show

    table = empty_table()
    for place, heading in enumerate(("run", "models", "to train", "about minutes", "about MB")):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    for cost in costs:
        table.add_row(
            cost["folder"], str(cost["models"]), str(cost["missing"]), f"{cost['minutes']:.1f}",
            f"{cost['megabytes']:.1f}",
        )  # fmt: skip
    console = console_for()
    show(console, table)
    if costs[-1]["minutes"] > LONG_PLAN_MINUTES:
        console.print(gpu_sentence(costs[-1]["gpu_hours"]), soft_wrap=True)
