"""Fleets: the K models of a run, what a defense may change about their training, and the one Lightning loop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Bool, Float, Float32, Int64, Real, Shaped
from torch import Tensor, nn

from palisade.data.dataset import Dataset
from palisade.data.draws import Draws
from palisade.data.loaders import Batch, Gather, Sampler, Shuffling, training_loader
from palisade.data.placement import CPU, sent
from palisade.data.schedule import TrainingSchedule
from palisade.data.secret import Secret
from palisade.data.split import Split
from palisade.fields import CheckedFields
from palisade.targets import progress
from palisade.targets.checkpoints import checkpoint_epochs
from palisade.targets.engines import ddp, together
from palisade.targets.module import Target
from palisade.targets.recipe import Recipe
from palisade.targets.record_loss import record_losses, token_rows
from palisade.targets.stacks import stack, unstack
from palisade.targets.statement import Statement
from palisade.targets.tracking import Follows

PREDICTION_BATCH = 4096
PREDICTION_TOKENS = 8192
"""Tokens of documents that are predicted together, at most."""
PREDICTION_NUMBERS = 2**24
"""Numbers in their answers, at most: each answer about a token is as long as the vocabulary."""
State = dict[str, Tensor]


def records_at_once(shape: Sequence[int], positional: bool, classes: int) -> int:
    """Records whose answers are computed together; of documents fewer, since each has an answer at every position.

    Args:
        shape: of all records.
        positional: whether they are documents.
        classes: numbers in an answer.
    """
    return max(1, min(PREDICTION_TOKENS, PREDICTION_NUMBERS // classes) // shape[1]) if positional else PREDICTION_BATCH


class Snapshots(pl.Callback):
    """Copies the weights after some epochs; training itself goes on as without it.

    Each is a release of its own to whoever sees it. Under DP-SGD that costs nothing: ε is accounted for all steps as
    if each of them were published.

    Args:
        epochs: after which epochs, from 1 on.
        weights: gives copies of the weights of all models that are trained together.
    """

    def __init__(self, epochs: Sequence[int], weights: Callable[[], list[State]]) -> None:
        self.epochs, self.weights = epochs, weights
        self.taken: dict[int, list[State]] = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook after an epoch: a copy of the weights, if this is one of the epochs."""
        if (epoch := trainer.current_epoch + 1) in self.epochs:
            self.taken[epoch] = self.weights()

    def of_models(self, final: list[State]) -> list[dict[int, State]]:
        """For each model its weights by epoch; after an early end they are the final ones."""
        return [{epoch: self.taken.get(epoch, final)[k] for epoch in self.epochs} for k in range(len(final))]


class Fleet:
    """Trained models of one recipe.

    Args:
        network: a network of their architecture; its own weights do not matter.
        states: one `state_dict` per model.
        callbacks: the Lightning callbacks that took part, with what they recorded.
        checkpoints: for each model the `state_dict`s from before the end of training, by epoch.
        stages: the fleets that came before these models in a defense of several stages, by name.
        device: where predictions are computed; the states may lie anywhere.
    """

    def __init__(
        self,
        network: nn.Module,
        states: Sequence[State],
        callbacks: Sequence[pl.Callback] = (),
        checkpoints: Sequence[Mapping[int, State]] | None = None,
        stages: Mapping[str, Fleet] | None = None,
        device: torch.device = CPU,
    ) -> None:
        self.device = device
        self.network, self.states, self.callbacks, self.stages = network, states, callbacks, stages or {}
        self.checkpoints = [{} for _ in states] if checkpoints is None else checkpoints

    def __len__(self) -> int:
        return len(self.states)

    def one(self, position: int) -> Fleet:
        """The fleet of a single one of these models."""
        return Fleet(self.network, [self.states[position]], device=self.device)

    def predict(self, x: Real[np.ndarray, "records ..."]) -> Float[np.ndarray, "models records *positions classes"]:
        """Logits of every model for every record, in evaluation mode; of documents at every position."""
        return np.stack([torch.cat([*parts]).cpu().numpy() for parts in self._parts(x)])

    @contextmanager
    def loaded(self, position: int) -> Iterator[Callable[[Real[np.ndarray, "records ..."]], np.ndarray]]:
        """Logits of one of these models, for many questions in a row: its weights are read once.

        Until the block ends nothing else may be asked of the fleet.
        """
        self.network.to(self.device).eval()
        self.network.load_state_dict(self.states[position])
        yield lambda x: self._logits(x).cpu().numpy()
        self.network.to(CPU)

    def answers(
        self, x: Real[np.ndarray, "records ..."], y: Int64[np.ndarray, "records *positions"]
    ) -> Shaped[np.ndarray, "models records ..."]:
        """Every model's answers as they are kept: logits, or rows about the tokens of documents (`token_rows`).

        Args:
            x: inputs.
            y: their labels, which decide nothing about logits.
        """
        if y.ndim == 1:
            return self.predict(x)
        with torch.inference_mode():
            classes = self.network.to(self.device).eval()(sent(x[:1], self.device)).shape[-1]
        at_once = records_at_once(x.shape, positional=True, classes=classes)
        tokens = [torch.from_numpy(y[start : start + at_once]).to(self.device) for start in range(0, len(y), at_once)]
        return np.stack(
            [
                np.concatenate([token_rows(*both) for both in zip(parts, tokens, strict=True)])
                for parts in self._parts(x, at_once)
            ]
        )

    def _parts(
        self, x: Real[np.ndarray, "records ..."], at_once: int = PREDICTION_BATCH
    ) -> Iterator[Iterator[Float[Tensor, "part *positions classes"]]]:
        """For each model its logits, part by part."""
        self.network.to(self.device).eval()
        for state in self.states:
            self.network.load_state_dict(state)
            yield (self._logits(x[start : start + at_once]) for start in range(0, len(x), at_once))
        self.network.to(CPU)  # a fleet that stays leaves the device's memory to others

    def _logits(self, x: Real[np.ndarray, "part ..."]) -> Float[Tensor, "part *positions classes"]:
        with torch.inference_mode():
            return self.network(sent(np.ascontiguousarray(x), self.device))


@dataclass(frozen=True, kw_only=True)
class Defense(CheckedFields):
    """Trains as usual; a subclass overrides what it changes.

    Its YAML may hold a node `trainer` besides: the trainer's settings that it needs otherwise (epochs, batch_size,
    optimizer).
    """

    separable: ClassVar[bool] = True
    """A record's loss depends on that record alone (DP-SGD demands it)."""
    staged: ClassVar[bool] = False
    """`fit` trains several times. A defense of one stage can be the base of another, by its hooks alone."""

    @property
    def attacks(self) -> tuple[str, ...]:
        """Attacks (of `conf/attack`) that know how to get around it: every evaluation runs them."""
        return ()

    @property
    def canaries(self) -> tuple[str, ...]:
        """Kinds of canaries that it protects least: an evaluation without them says so."""
        return ()

    @property
    def stackable(self) -> bool:
        """Fitness for training with a leading model axis."""
        return True

    @property
    def cost(self) -> float:
        """Rough time to train a model, as a multiple of plain training: for plans."""
        return 1.0

    @property
    def roles(self) -> frozenset[str]:
        """The split's roles it trains or tunes on; their records never serve as an attack's non-members."""
        return frozenset()

    @property
    def strength(self) -> float | None:
        """The value that a sweep varies, for axes and tables; None if there is nothing to vary."""
        return None

    not_on_documents: ClassVar[str | None] = None
    """Reason why language models cannot be trained under it; None if they can."""

    def units(self, split: Split) -> int:
        """Size of the pool in units of the public size N: records, or persons where they are the unit."""
        return len(split.pool)

    def sampler(
        self, members: Sequence[Int64[np.ndarray, "_"]], models: Sequence[int], fitter: Fitter, split: Split
    ) -> Sampler:
        """The choice of a step's records from those that each model may train on."""
        return Shuffling(members, models, fitter.schedule, fitter.secret)

    def network(self, network: nn.Module) -> nn.Module:
        """Changes the architecture before training."""
        return network

    def inputs(self, batch: Batch, draws: Draws) -> Batch:
        """The inputs of a step in place of its records, such as changed copies of them."""
        return batch

    def loss(self, logits: Float[Tensor, "*models batch classes"], batch: Batch, epoch: int) -> Float[Tensor, "..."]:
        """The loss of every record, shape (*models, batch): `record_losses`."""
        return record_losses(logits, batch)

    def callbacks(self, fitter: Fitter, split: Split) -> list[pl.Callback]:
        """Lightning callbacks of one fit.

        Args:
            fitter: of the models that are trained together; what callbacks draw at random comes from its secret.
            split: the roles of the records.
        """
        return []

    def for_release(self) -> Defense:
        """This defense with what a release needs besides."""
        return self

    def settle(self, fitter: Fitter, split: Split, membership: Bool[np.ndarray, "models pool"]) -> Mapping[str, str]:
        """Decisions for all models of a run, made once before the first; they may depend on the records.

        Raises:
            ValueError: if the defense cannot be used with this network or these records.
        """
        return {}

    def slowdown(self, network: nn.Module, settled: Mapping[str, str]) -> float:
        """By how much this network makes training slower than `cost` says: for plans."""
        return 1.0

    def fit(self, fitter: Fitter, split: Split, membership: Bool[np.ndarray, "models pool"]) -> Fleet:
        """Trains one model per row of `membership`; a defense of several stages calls `fitter.train` several times."""
        return fitter.train(split, membership)

    def statement(self, fleet: Fleet) -> Statement:
        """The privacy claim of a fleet."""
        return Statement.none()


@dataclass(frozen=True, kw_only=True)
class Fitter:
    """The only place where a Lightning `Trainer` exists.

    Args:
        dataset: inputs and labels.
        make_network: makes a network for (shape, classes).
        recipe: how to train.
        defense: whose hooks take part.
        secret: fixes initial weights, batches and noise.
        models: the numbers, in the fleet, of the models to train: one per row of the membership.
        size: the public size N.
        at_once: how many models are trained as one stack.
        keep_checkpoints: how many models from before the end of training are kept of each, evenly over the epochs.
        base_recipes: how the base of the defense is trained, that base's own base, and so on.
        tracker: follows the training of the models.
        verbose: whether Lightning shows its bars and notices.
        purpose: what the models are for, a run or a release; part of the key of their noise.
        settled: what the defense settled for the whole run.
        steps: after which training ends, for trials; None for all of them.
        device: where they are trained; trained states lie on the CPU.
    """

    dataset: Dataset
    make_network: Callable[..., nn.Module]
    recipe: Recipe
    defense: Defense
    secret: Secret
    models: Sequence[int]
    size: int
    at_once: int
    keep_checkpoints: int = 0
    base_recipes: tuple[Recipe, ...] = ()
    tracker: Follows | None = None
    verbose: bool = False
    purpose: str = "run"
    settled: Mapping[str, str] = field(default_factory=dict)
    steps: int | None = None
    device: torch.device = CPU

    @property
    def base(self) -> Fitter:
        """Trains the same models under the base of the defense, by that base's recipe."""
        base: Defense = getattr(self.defense, "base")  # noqa: B009 (only composed defenses have one)
        return replace(self, defense=base, recipe=self.base_recipes[0], base_recipes=self.base_recipes[1:])

    def stage(self, name: str, **changes: Any) -> Fitter:
        """A fitter of models that come before the last ones of a defense: with other random numbers.

        Args:
            name: of the stage, different for each.
            changes: fields that differ, such as `models` and `size`.
        """
        return replace(self, secret=self.secret.stage(name), keep_checkpoints=0, tracker=None, **changes)

    @property
    def schedule(self) -> TrainingSchedule:
        """Sampling rate, steps and δ by recipe and public size, equal for all models."""
        return self.recipe.schedule(self.size)

    def train(
        self,
        split: Split,
        membership: Bool[np.ndarray, "models pool"],
        *,
        soft_labels: Float32[np.ndarray, "models records classes"] | None = None,
    ) -> Fleet:
        """Trains one model per row of `membership` on the pool records that the row marks.

        Args:
            split: the roles of the records; a stage on other records than the pool's takes these as its pool.
            membership: who trains on what.
            soft_labels: for each model and record of the data set the probabilities to learn, instead of its class.
        """
        states: list[State] = []
        callbacks: list[pl.Callback] = []
        checkpoints: list[Mapping[int, State]] = []
        for start in range(0, len(self.models), self.at_once):
            rows = slice(start, start + self.at_once)
            members = [split.pool[row] for row in membership[rows]]
            side_by_side = replace(self, models=self.models[rows])
            taught = None if soft_labels is None else soft_labels[rows]
            trained, taking_part, snapshots = side_by_side._train_together(members, split, taught)
            states += trained
            callbacks += taking_part
            checkpoints += snapshots.of_models(trained)
        return Fleet(self.initial_network(self.models[0]), states, callbacks, checkpoints, device=self.device)

    def initial_network(self, model: int) -> nn.Module:
        """The network before training; its weights depend on (secret, model) only."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.secret.torch("weights", model).get_state())
            network = self.make_network(shape=self.dataset.shape, classes=len(self.dataset.classes))
            return self.defense.network(network)

    def _train_together(
        self, members: Sequence[np.ndarray], split: Split, soft_labels: np.ndarray | None
    ) -> tuple[list[State], list[pl.Callback], Snapshots]:
        models = self.models
        stacked = len(models) > 1
        networks = [self.initial_network(k) for k in models]
        network = stack(networks) if stacked else networks[0]
        sampler = self.defense.sampler(members, models, self, split)
        sampler.take_share(together.rank(), together.size())
        device = ddp.own_device(self.device, together.rank())
        of_process = self.secret.stage(f"process {together.rank()}") if together.rank() else self.secret
        module = Target(
            network,
            inputs=lambda batch, step: self.defense.inputs(
                batch, Draws(secret=of_process, models=models, step=step, stacked=stacked, device=device)
            ),
            loss=self.defense.loss,
            optimizer=self.recipe.make_optimizer,
            loss_divisor=self.schedule.sampling_rate * self.size,
        )
        callbacks = self.defense.callbacks(self, split)

        def weights() -> list[State]:
            if stacked:
                return [{name: value.cpu() for name, value in state.items()} for state in unstack(network)]
            return [{name: value.detach().clone().cpu() for name, value in network.state_dict().items()}]

        snapshots = Snapshots(checkpoint_epochs(self.recipe.epochs, self.keep_checkpoints), weights)
        following: list[pl.Callback] = []
        if self.tracker is not None:

            def predict(x: Real[np.ndarray, "records ..."]) -> Float[np.ndarray, "models records classes"]:
                return Fleet(self.initial_network(models[0]), weights(), device=self.device).predict(x)

            following.append(self.tracker.follow(models, predict, members, self.dataset))
        with torch.random.fork_rng(devices=[]), progress.quiet_libraries(self.verbose):
            torch.set_rng_state(self.secret.torch("training", models[0]).get_state())
            trainer = pl.Trainer(
                max_epochs=self.recipe.epochs,
                max_steps=-1 if self.steps is None else self.steps,
                **ddp.trainer_arguments(self.device),
                callbacks=[*callbacks, snapshots, *following],
                logger=False,
                log_every_n_steps=0,
                enable_checkpointing=False,
                enable_progress_bar=self.verbose,
                enable_model_summary=self.verbose,
            )
            gather = Gather(self.dataset.x, self.dataset.y, stacked=stacked, soft_labels=soft_labels, device=device)
            try:
                trainer.fit(module, training_loader(gather, sampler))
            except SystemExit as interrupt:  # Lightning's answer to Ctrl-C, which it then ignores
                signal.signal(signal.SIGINT, signal.default_int_handler)
                raise KeyboardInterrupt from interrupt
        for callback in callbacks:
            for name in ("log", "log_dict"):  # which Lightning puts there, and which hold module, trainer and optimizer
                vars(callback).pop(name, None)
        return weights(), callbacks, snapshots
