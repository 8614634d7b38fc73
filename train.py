"""Train a run, a sweep (-m) or a release (ship=<run>)."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # the clone's folder holds names, such as `evaluate`, that are other people's packages too
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).parent.resolve()]

import hydra
from omegaconf import DictConfig

from palisade.commandline import call, one_line

if TYPE_CHECKING:
    from palisade.targets.guards import Guard
    from palisade.targets.run import Run

NAMED = ("network", "guard", "defense", "canary")
"""Groups whose chosen option is kept by its name."""
SHIPPING = ("ship", "guard", "release", "released", "secret", "quiet", "verbose")
"""Settings that a release takes; all others are those of its run."""


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> dict[str, Any] | None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return train_run(given(config))  # the sweep shows the progress line, failures and the summary
    call(lambda: one(given(config), HydraConfig.get().overrides.task, HydraConfig.get().sweeper.get("grids") or ()))


def given(config: DictConfig) -> dict[str, Any]:
    """The settings of this job as plain values, with warnings of those that change nothing."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    settings: Any = OmegaConf.to_container(config, resolve=True)
    settings["names"] = names(HydraConfig.get().runtime.choices, settings)
    settings = with_own_network(settings, HydraConfig.get().overrides.task)
    warn_of_unused(settings, HydraConfig.get().overrides.task)
    return settings


def composed(*overrides: str) -> dict[str, Any]:
    """What `python train.py <overrides>` composes, as plain values: for `train`, from a program."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf, open_dict

    with initialize_config_dir(str(Path(__file__).parent.resolve() / "conf"), version_base="1.3"):
        config = compose("train", overrides=list(overrides), return_hydra_config=True)
    chosen = config.hydra.runtime.choices
    with open_dict(config):
        del config["hydra"]
    settings: Any = OmegaConf.to_container(config, resolve=True)
    return with_own_network({**settings, "names": names(chosen, settings)}, overrides)


def names(chosen: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, str]:
    """The chosen options by name; an alias that only brings a guard, such as defense=memguard, is no defense."""
    if absent := [group for group in NAMED if group not in chosen]:
        raise ValueError(f"{absent[0]}=[] chooses nothing; leave it out, or give one name")
    named = {group: chosen[group] for group in NAMED}
    plain = settings["defense"] == {"_target_": "palisade.defenses.none.NoDefense"}
    return named | ({"defense": "none"} if plain else {})


def with_own_network(settings: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`network._target_=my_package.MyNet` alone is `network=own`: settings of the network it replaces are left out."""
    given = {override.lstrip("+").partition("=")[0] for override in overrides}
    if "network._target_" not in given or settings["names"]["network"] == "own":
        return settings
    kept = tuple(key.split(".")[1] for key in given if key.startswith("network."))
    network = {key: value for key, value in settings["network"].items() if key in kept}
    return {**settings, "network": network, "names": {**settings["names"], "network": "own"}}


def warn_of_unused(settings: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Warns of settings of the trainer that the defense puts others in the place of: they change nothing."""
    import warnings

    from palisade.targets.notices import in_one_line

    defense = settings["defense"]
    own = (defense.get("trainer") or {}) if isinstance(defense, Mapping) else {}
    for override in overrides:
        group, _, key = override.lstrip("+").partition("=")[0].partition(".")
        if group == "trainer" and key.partition(".")[0] in own:
            with in_one_line():
                warnings.warn(
                    f"{override} changes nothing: defense={settings['names']['defense']} has its own, set"
                    f" defense.trainer.{key}",
                    stacklevel=1,
                )


def one(settings: dict[str, Any], overrides: Sequence[str] = (), grids: Sequence[str] = ()) -> None:
    """A single run, plan or release, and what it prints.

    Args:
        settings: of the run.
        overrides: what was given on the command line.
        grids: what a sweep would have trained.

    Raises:
        ValueError: if something was given that a single run, or a release, does not use.
    """
    from palisade.targets import progress
    from palisade.targets.tuning import trainings

    check_groups(settings)
    if settings["quiet"]:
        progress.silence()
    if grids:
        raise ValueError(f"this experiment is a sweep of {len(grids)} grids; put -m before the settings to train it")
    if settings["ship"] is not None:
        check_shipped(settings, overrides)
        print(release(settings))
    elif settings["plan"]:
        from palisade.evaluation.plan import show_costs

        show_costs([train_run(settings)])
    else:
        with progress.Progress(Path(settings["runs"]), trainings(settings)):
            outcome = train_run(settings)
        print(f"{outcome['status']}: {outcome['folder']}")


def train_run(settings: dict[str, Any]) -> dict[str, Any]:  # noqa: C901
    """Trains what is missing of one run.

    Returns:
        The run's folder and what was done: trained, cached, skipped or, with `plan=true`, its cost.
    """
    from palisade.data.dataset import from_config
    from palisade.data.settings import check_numbers, made
    from palisade.data.split import Membership
    from palisade.evaluation.reach import Reach
    from palisade.targets import progress
    from palisade.targets.checkpoints import checkpoint_epochs
    from palisade.targets.config import check_guesses_somebody, checked_share
    from palisade.targets.files import write_json
    from palisade.targets.guards.registry import guards_of, label, make_guard, register
    from palisade.targets.recipe import FleetSettings, Recipe
    from palisade.targets.run import Run
    from palisade.targets.run_log import RunLog

    check_groups(settings)
    check_numbers({key: value for key, value in settings.items() if key != "tuning"})  # a trial may fail
    if not isinstance(settings.get("data"), dict):
        names = ", ".join(sorted(path.stem for path in Path(__file__).with_name("conf").glob("data/*.yaml")))
        raise ValueError(f"data is not chosen; add data=<name>, one of {names}")
    if missing_keys := [key for key, value in settings["data"].items() if value == "???"]:
        raise ValueError(f"data.{missing_keys[0]} is not given; add data.{missing_keys[0]}=<value>")
    guesses = checked_share("guesses", settings["guesses"])
    dataset = from_config(settings)
    check_guesses_somebody("guesses", guesses, len(dataset.split.audited))
    if settings.get("tuning"):
        from palisade.targets.trials import Trials

        trials = Trials.of(settings, dataset)
        if trials.missing and settings["plan"]:
            from palisade.evaluation.plan import with_reach

            return with_reach(trials.cost(), settings, dataset)
        if not trials.train():
            return {"folder": str(Run.of(settings, dataset).folder), "status": "skipped"}
        settings = trials.chosen()
    run = Run.of(settings, dataset)
    membership = made(Membership, "membership", settings["membership"])
    split, recipe = dataset.split, Recipe.of(settings)
    run.check_secret(settings["secret"])
    run.check_guesses(guesses)
    guard = make_guard(settings)
    check_guard(guard, len(dataset.classes))
    for role in sorted(guard.roles):
        split.require(role, who=f"guard={guard.name}")
    fleet = made(FleetSettings, "fleet", settings["fleet"])
    wanted, checkpoints = fleet.models, checkpoint_epochs(recipe.epochs, fleet.keep_checkpoints)
    missing, unguarded = run.missing(wanted, checkpoints), unfitted_of(run, guard, wanted)
    if settings["plan"]:
        from palisade.evaluation.plan import with_reach
        from palisade.targets.plan import cost

        return with_reach(cost(run, settings, dataset, missing), settings, dataset)
    if not missing and not unguarded and run.is_complete() and label(guard) in guards_of(run.folder):
        progress.report(run.name, wanted, cached=True)
        run.describe(settings)
        return {"folder": str(run.folder), "status": "cached"}
    from palisade.targets.training import SETTLED, try_out  # here alone: a run that is cached needs no torch

    settled = None if (run.folder / SETTLED).exists() else try_out(settings, dataset, membership)
    if missing and (reach := Reach.planned(settings, dataset)) is not None:
        progress.say(reach.sentence())
    with run.lock() as mine:
        if not mine:
            return {"folder": str(run.folder), "status": "skipped"}
        log = RunLog(folder=run.folder, verbose=settings["verbose"])
        try:
            run.create(settings, settings["secret"], dataset)
            if settled is not None:
                write_json(run.folder / SETTLED, dict(settled))
                if settled.get("per_record", "fast") != "fast":
                    progress.say(
                        f"{run.name}: per_record={settled['per_record']}, which is slower: {settled['reason']}"
                    )
            # Anew: another process may have worked on it until now, or have been killed while it wrote.
            missing, unguarded = run.missing(wanted, checkpoints), unfitted_of(run, guard, wanted)
            progress.report(run.name, wanted - len(missing), cached=True)
            log.start(wanted, len(missing))
            with log.timed("complete"):
                train_missing(run, settings, missing)
                fit_missing(run, settings, unguarded)
                register(run.folder, guard)
                run.complete(wanted)
        except Exception as error:
            run.fail(one_line(error))
            log.add("failed; the reason is in FAILED")
            raise
    return {"folder": str(run.folder), "status": "trained"}


def unfitted_of(run: Run, guard: Guard, wanted: int) -> list[tuple[Guard, int]]:
    """Every guard of a run, this one included, with each model that it is still to be fitted to."""
    from palisade.targets.guards.registry import guards_of, label, registered, unfitted

    guards = [guard, *(registered(run.folder, other) for other in guards_of(run.folder) if other != label(guard))]
    return [(each, k) for each in guards for k in unfitted(run.folder, each, range(wanted))]


def check_groups(settings: dict[str, Any]) -> None:
    """Raises ValueError for a single value in the place of a group, whatever the group is for."""
    from palisade.data.settings import check_group, check_switches

    check_switches(settings, ("plan", "quiet", "verbose"))
    if settings["quiet"] and settings["verbose"]:
        raise ValueError("quiet=true and verbose=true say the opposite; leave one of them out")
    for group in ("fleet", "membership", "network", "defense", "guard", "trainer"):
        check_group(group, settings.get(group))  # trainer=[] leaves none
    for group in (group for group in ("tuning", "canary") if settings.get(group)):
        check_group(group, settings[group])
    key, node = "defense", settings["defense"]
    while node.get("base") is not None:
        key, node = f"{key}.base", node["base"]
        check_group(key, node)


def check_shipped(settings: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Raises ValueError for a setting beside `ship=<run>` that the release would not have."""
    keys = [override.lstrip("+~").partition("=")[0] for override in overrides]
    if unused := [key for key in keys if key.partition(".")[0] not in SHIPPING]:
        raise ValueError(
            f"{unused[0]} changes nothing about ship={settings['ship']}, which is trained as its run was; leave it out,"
            " or train a run with it and ship that"
        )


def check_guard(guard: Guard, classes: int) -> None:
    """Raises ValueError for a guard that would hold nothing back."""
    if guard.top_k is not None and guard.top_k >= classes:
        raise ValueError(f"guard.k={guard.top_k} lets out all {classes} classes; choose at most {classes - 1}")


def release(settings: dict[str, Any]) -> Path:
    """Trains the release of the run `ship` behind the guard that was chosen; returns its folder."""
    from palisade.data.secret import Secret
    from palisade.targets.files import replacing
    from palisade.targets.guards.registry import GUARDS, label, make_guard
    from palisade.targets.release import check_unreleased, ship
    from palisade.targets.run import Run

    run = Run.existing(Path(settings["ship"]))
    if run.config.get("canary"):
        raise ValueError(f"ship={run.folder} has canaries, which no release may be trained on; ship a run without them")
    secret = Secret.from_system() if settings["secret"] is None else Secret.from_text(str(settings["secret"]))
    guard, named = make_guard(settings), run.config["names"]
    check_guard(guard, len(run.dataset.classes))
    released = Path(settings["released"]) / f"{run.dataset.name}-{named['network']}-{named['defense']}"
    others = [released.with_name(f"{released.name}-{name}") for name in GUARDS if name != "none"]
    for place in (released, *others):
        check_unreleased(place)  # the same records behind another guard are a further release
    folder = released if guard.name == "none" else released.with_name(f"{released.name}-{guard.name}")
    with replacing(run.folder / "private" / "release_secret") as temporary:
        secret.save(temporary)
    config = {**run.config, **{key: settings[key] for key in ("guard", "release", "verbose")}}
    ship(config, Run(run.folder, label(guard)).audit(), secret).save(folder)
    return folder


def train_missing(run: Run, settings: dict[str, Any], missing: list[int]) -> None:
    from palisade.targets import workers
    from palisade.targets.training import chunks, train_models

    parts = chunks(missing, settings["fleet"]["at_once"])
    items = [(settings, str(run.folder), run.name, models) for models in parts]
    for _ in workers.run(train_models, items, workers.count(settings["fleet"]["workers"])):
        pass  # files are all that workers leave


def fit_missing(run: Run, settings: dict[str, Any], unguarded: list[tuple[Guard, int]]) -> None:
    from palisade.targets import workers

    if unguarded:
        from palisade.targets.guarding import fit_guard

        items = [(settings, str(run.folder), guard, [k]) for guard, k in unguarded]
        for _ in workers.run(fit_guard, items, workers.count(settings["fleet"]["workers"])):
            pass


if __name__ == "__main__":
    call(main)
