"""Recipe by which the models of a run are trained, and the schedule that follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from palisade.data.queries import PLAIN_QUERY, check_queries
from palisade.data.schedule import TrainingSchedule
from palisade.data.settings import check_group, instantiated, validated
from palisade.fields import CheckedFields, Count, CountFromZero, Positive

if TYPE_CHECKING:
    from torch import nn, optim


MAX_MODELS, MAX_WORKERS = 100_000, 1024
"""Memory and processes beyond any machine."""

WEIGHTS_ALONE: Mapping[str, Any] = {"keep_checkpoints": 0, "keep": "weights"}
"""Settings of a fleet of which final weights are kept and nothing else, such as trials and further shadows."""


@dataclass(frozen=True, kw_only=True)
class FleetSettings(CheckedFields):
    """Number of models in a run, and how they are made; nothing here changes what a model learns.

    Args:
        models: K, 1 to 100,000; each is a target once and a shadow for the others.
        workers: processes of one thread each, at most 1,024; auto is one per core under the basic launcher, and
            one on a GPU.
        at_once: models trained as one stack; auto stacks where that is faster, which is measured once on a GPU.
        keep_checkpoints: how many models from before the end of training are kept of each, evenly over the epochs.
        keep: weights, signals that follow from them, or both. Signals are computed right after training and take the
            place of weights: attacks that look at more than signals are then skipped.
        queries: how each record is put to the models before signals are computed, plain first.
        temperatures: of the softmax at which signals hold log p, each above 0.

    Raises:
        ValueError: if a value is neither a whole number in range nor, where allowed, auto, a query is unknown, or
            checkpoints are asked for without weights.
    """

    models: Annotated[int, Field(ge=1, le=MAX_MODELS, examples=[16])]
    workers: Annotated[int, Field(ge=1, le=MAX_WORKERS)] | Literal["auto"]
    at_once: Annotated[int, Field(ge=1, le=MAX_MODELS)] | Literal["auto"]
    keep_checkpoints: CountFromZero = 0
    keep: Literal["weights", "signals", "both"] = "weights"
    queries: tuple[str, ...] = PLAIN_QUERY
    temperatures: tuple[Positive, ...] = (1.0, 2.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_queries(self.queries)
        if len({*self.temperatures}) < len(self.temperatures):
            raise ValueError(f"temperatures={list(self.temperatures)}: expected different ones; leave out the copies")
        if self.keep == "signals" and self.keep_checkpoints:
            raise ValueError(
                f"keep=signals: expected both with fleet.keep_checkpoints={self.keep_checkpoints}, which are weights;"
                " choose it, or fleet.keep_checkpoints=0"
            )
        object.__setattr__(self, "queries", tuple(self.queries))
        object.__setattr__(self, "temperatures", tuple(map(float, self.temperatures)))


@dataclass(frozen=True, kw_only=True)
class Recipe(CheckedFields):
    """The trainer's settings, the same for every model of a run.

    Args:
        epochs: passes over a data set of the public size N, at least 1.
        batch_size: expected records per step, 1 to N.
        optimizer: a Hydra node (`_target_`, learning rate …) that makes the optimizer from the parameters.
    """

    epochs: Annotated[Count, Field(examples=[40])]
    batch_size: Annotated[Count, Field(examples=[64])]
    optimizer: Mapping[str, Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        if "_target_" not in self.optimizer:
            named = "a _target_ such as torch.optim.Adam"
            raise ValueError(f"optimizer={dict(self.optimizer)}: expected {named}; add optimizer._target_=<class>")

    @classmethod
    def of(cls, config: Mapping[str, Any], key: str = "defense") -> Recipe:
        """The trainer's settings of a run, with what its defense, which stands at `key`, needs otherwise."""
        groups = trainers(config, key)
        settings = {name: value for group in groups.values() for name, value in group.items()}
        return validated(cls, "trainer", settings, homes(groups))

    @classmethod
    def of_bases(cls, config: Mapping[str, Any]) -> tuple[Recipe, ...]:
        """Recipes of the base of the defense, of that base's own base, and so on."""
        _, *bases = stages(config)
        return tuple(cls.of(*stage) for stage in bases)

    def schedule(self, size: int) -> TrainingSchedule:
        """The public numbers of training on N = `size` records."""
        return TrainingSchedule(size=size, batch_size=self.batch_size, epochs=self.epochs)

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
        """The optimizer of the settings for these parameters.

        Raises:
            ValueError: if its class is unknown, refuses its settings, or is no optimizer.
        """
        from torch import optim

        return instantiated("optimizer", self.optimizer, optim.Optimizer, parameters)


def stages(config: Mapping[str, Any], key: str = "defense") -> Iterator[tuple[Mapping[str, Any], str]]:
    """The configuration with its defense, which stands at `key`, then with the base of that, and so on; and the key."""
    yield config, key
    if (base := config["defense"].get("base")) is not None:
        yield from stages({**config, "defense": base}, f"{key}.base")


def trainers(config: Mapping[str, Any], key: str = "defense") -> dict[str, Mapping[str, Any]]:
    """Places of the trainer's settings: those of the run, and those that its defense at `key` puts in their place."""
    own = config["defense"].get("trainer") or {}
    check_group(f"{key}.trainer", own)
    return {"trainer": config["trainer"], f"{key}.trainer": own}


def homes(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The group of each setting: the last of several that hold it, whose value counts."""
    return {name: group for group, settings in groups.items() for name in settings}
