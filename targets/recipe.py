"""Recipe by which the models of a run are trained, and the arithmetic that follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from palisade.data.arithmetic import Arithmetic
from palisade.data.settings import check_group, import_object, made, named_in_full

if TYPE_CHECKING:
    from torch import nn, optim


MAX_MODELS, MAX_WORKERS = 100_000, 1024
"""Memory and processes beyond any machine."""


@dataclass(frozen=True, kw_only=True)
class FleetSettings:
    """Number of models in a run, and how they are made; nothing here changes what a model learns.

    Args:
        models: K, 1 to 100,000; each is a target once and a shadow for the others.
        workers: processes of one thread each, at most 1,024; auto is one per core under the basic launcher.
        at_once: models trained as one stack; auto stacks where that is faster.
        keep_checkpoints: how many models from before the end of training are kept of each, evenly over the epochs.

    Raises:
        ValueError: if a value is neither a whole number in range nor, where allowed, auto.
    """

    models: int
    workers: int | str
    at_once: int | str
    keep_checkpoints: int = 0

    def __post_init__(self) -> None:
        limits = {"models": MAX_MODELS, "workers": MAX_WORKERS, "at_once": MAX_MODELS}
        for name, most in limits.items():
            value = getattr(self, name)
            number = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
            if not number and (name == "models" or value != "auto"):
                choice = "" if name == "models" else ", or auto"
                raise ValueError(f"fleet.{name}={value} cannot be used; choose a whole number from 1 to {most}{choice}")
        kept = self.keep_checkpoints
        if not isinstance(kept, int) or isinstance(kept, bool) or kept < 0:
            raise ValueError(f"fleet.keep_checkpoints={kept} is no count; choose a whole number from 0 on")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The trainer's settings, the same for every model of a run.

    Args:
        epochs: passes over a data set of the public size N, at least 1.
        batch_size: expected records per step, 1 to N.
        optimizer: a Hydra node (`_target_`, learning rate …) that makes the optimizer from the parameters.
    """

    epochs: int
    batch_size: int
    optimizer: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name, value in (("epochs", self.epochs), ("batch_size", self.batch_size)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}={value} is no count; choose a whole number from 1 on")
        if not isinstance(self.optimizer, Mapping) or "_target_" not in self.optimizer:
            raise ValueError(f"optimizer={self.optimizer} has no _target_; name one, such as torch.optim.Adam")

    @classmethod
    def of(cls, config: Mapping[str, Any], key: str = "defense") -> Recipe:
        """The trainer's settings of a run, with what its defense, which stands at `key`, needs otherwise."""
        groups = trainers(config, key)
        with named_in_full(groups):
            return made(cls, "trainer", {name: value for group in groups.values() for name, value in group.items()})

    @classmethod
    def of_bases(cls, config: Mapping[str, Any]) -> tuple[Recipe, ...]:
        """Recipes of the base of the defense, of that base's own base, and so on."""
        _, *bases = stages(config)
        return tuple(cls.of(*stage) for stage in bases)

    def arithmetic(self, size: int) -> Arithmetic:
        """The public numbers of training on N = `size` records."""
        return Arithmetic(size=size, batch_size=self.batch_size, epochs=self.epochs)

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
        """The optimizer of the settings for these parameters.

        Raises:
            ValueError: if its class is unknown, refuses its settings, or is no optimizer.
        """
        from hydra.utils import instantiate
        from torch import optim

        name = self.optimizer["_target_"]
        import_object(name, setting="optimizer._target_")
        make = instantiate(self.optimizer, _partial_=True)
        try:
            optimizer = make(parameters)
        except Exception as error:  # whatever the class raises: it may be the user's
            raise ValueError(f"optimizer: {error}; mend the setting, or remove it") from None
        if not isinstance(optimizer, optim.Optimizer):
            raise ValueError(f"optimizer._target_={name} makes no optimizer; name one, such as torch.optim.Adam")
        return optimizer


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
