"""Shipping: the release of a run trained on the whole pool by its recipe, and its card written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from palisade.data.dataset import from_config
from palisade.data.secret import Secret
from palisade.targets import versions
from palisade.targets.base_model import on_card
from palisade.targets.engines import together
from palisade.targets.files import replacing
from palisade.targets.guards import NoGuard
from palisade.targets.guards.registry import GUARDS_BY_NAME, check_answers, check_guard, label, make_guard
from palisade.targets.release import Release, check_unreleased
from palisade.targets.run import Run
from palisade.targets.shipped import WHOLE_POOL
from palisade.targets.statement import INFINITY_TEXT, Statement

if TYPE_CHECKING:
    from palisade.data.dataset import Dataset
    from palisade.targets.fleet import Fitter, Fleet
    from palisade.targets.recipe import Recipe

CARD_LIBRARIES = ("torch", "opacus", "pytorch-lightning", "numpy")
AUDIT_NOTE = (
    "Measured by attacking a fleet of models trained by the same recipe on random parts of the same pool, not this "
    "model itself, which was trained on the whole pool. A weak attack is no proof of privacy."
)
AUDIT_NOT_COVERED = (
    "the audit on the card: it was measured on the private records, which rounding its numbers to three digits does not"
    " hide"
)
AUDIT_LIMITS = (
    "The numbers hold without any limit: each attack asks about every record as often as it needs, most of them once."
    " Limits of a server, such as a budget of different records for each key, bound how many people the holder of a key"
    " can test; they change none of these numbers, add nothing to ε and take nothing from it."
)
ACCESS_KINDS = ("api", "weights")
GUARD_NOTE = (
    "It stands between the model and those who query it, hence exists only while nobody else holds these files; if the "
    "weights leak, it protects nothing. The statement is about its answers."
)
COST_NOTE = (
    "The statement covers this one release; m releases from the same records cost up to m times its ε and m times"
    " its δ."
)


def ship_run(settings: Mapping[str, Any]) -> Path:
    """Trains the release of the run `ship` behind the guard that was chosen; returns its folder.

    Raises:
        ValueError: if there is no such run, it has canaries, it was not attacked behind this guard (unless
            `ship_unaudited`), or a release of it is there already.
    """
    run = Run.existing(Path(settings["ship"]))
    if run.config.get("canary"):
        raise ValueError(f"ship={run.folder}: expected a run without canaries, which no release may hold; ship another")
    secret = Secret.from_system() if settings["secret"] is None else Secret.from_text(str(settings["secret"]))
    guard, named = make_guard(settings), run.config["names"]
    check_guard(guard, len(run.dataset.classes))
    check_answers(guard, run.dataset.positional)
    attacked = Run(run.folder, label(guard))
    if not (audit := attacked.audit()) and not settings["ship_unaudited"]:
        raise ValueError(
            f"ship={run.folder}: expected a run that was attacked behind guard={guard.name}, or its card would hold no"
            " audit; call evaluate.py first (train.py … guard=… puts a run behind a guard), or set ship_unaudited=true"
        )
    released = Path(settings["released"]) / f"{run.dataset.name}-{named['network']}-{named['defense']}"
    others = [released.with_name(f"{released.name}-{name}") for name in GUARDS_BY_NAME if name != "none"]
    for place in (released, *others):
        check_unreleased(place)  # the same records behind another guard are a further release
    folder = released if guard.name == "none" else released.with_name(f"{released.name}-{guard.name}")
    with replacing(run.folder / "private" / "release_secret") as temporary:
        secret.save(temporary)
    config = {**run.config, **{key: settings[key] for key in ("guard", "release", "verbose")}}
    ship(config, audit, secret, of=run.statement).save(folder)
    return folder


def ship(
    config: Mapping[str, Any], audit: Sequence[Mapping[str, Any]], secret: Secret, *, of: Statement | None = None
) -> Release:
    """Trains a release: one model on the whole pool by a run's recipe, with N = pool and σ calibrated anew.

    Args:
        config: the run's configuration; `guard` puts a guard before the model, and `release.access` says who will hold
            the files: nobody else (api, the default) or whoever asks for them (weights).
        audit: what was measured on the run's fleet, one mapping per number.
        secret: fixes initial weights, batches and noise of this one model, and the key of its guard.
        of: the claim of the models that were attacked.

    Raises:
        ValueError: if the weights were to be handed out beside a guard, or `release.access` is unknown.
    """
    from palisade.targets.training import complete_statement

    guard, access = make_guard(config) if "guard" in config else NoGuard(), access_of(config)
    if access == "weights" and not isinstance(guard, NoGuard):
        raise ValueError(
            f"release.access=weights: expected api with guard={guard.name}, which protects a model that nobody else"
            " holds; choose it, or guard=none"
        )
    on_card(config["network"])  # what cannot be shipped is refused before it is trained
    dataset = from_config(config)
    for role in sorted(guard.roles):
        dataset.split.require(role, who=f"guard={guard.name}")
    fitter = _fitter(config, dataset, secret)
    with together.processes(train_release_along, (dict(config), secret)):
        fleet: Fleet = fitter.defense.fit(fitter, dataset.split, WHOLE_POOL.draw(dataset.split, [0], secret))
    state = guard.fit(fleet, dataset.split.pool, fitter, dataset.split)
    fleet.network.load_state_dict(fleet.states[0])
    claim = guard.statement_after(complete_statement(fitter, fleet), dataset)
    if audit and dataset.published is None:
        claim = claim.leaving_out(AUDIT_NOT_COVERED)
    target, *settings = on_card(config["network"]).items()
    note = None if isinstance(guard, NoGuard) else " ".join(filter(None, (GUARD_NOTE, guard.note_on(state))))
    card = {
        "data": {
            "name": dataset.name,
            "classes": list(dataset.classes),
            "shape": list(dataset.shape),
            "records": len(dataset.split.pool),
            "persons": None if dataset.split.persons is None else len(np.unique(dataset.split.persons)),
            "checksum": dataset.published or f"hmac-sha256:{secret.seal(dataset.fingerprint.encode())}",
        },
        # Where weights were read from is a place on this machine, and the release holds them all.
        "network": {"name": target[1], "settings": {key: value for key, value in settings if key != "path"}},
        "defense": {
            "name": config["names"]["defense"],
            **{key: _plain(value) for key, value in config["defense"].items() if key != "_target_"},
        },
        "guard": {"name": guard.name, "settings": asdict(guard), "note": note},
        "access": access,
        "recipe": asdict(fitter.recipe),
        "base_recipes": [asdict(recipe) for recipe in _trained_bases(fitter)],
        "preprocessing": dataset.preprocessing.to_json(),
        "statement": claim.to_json(),
        "cost": COST_NOTE,
        "audit": {
            "note": AUDIT_NOTE + _other_delta(claim, of),
            **({"limits": AUDIT_LIMITS} if audit else {}),
            "results": list(audit),
        },
        "versions": versions(CARD_LIBRARIES),
    }
    return Release(fleet.network, dataset.preprocessing, card, guard, state)


def _fitter(config: Mapping[str, Any], dataset: Dataset, secret: Secret) -> Fitter:
    from palisade.targets.training import make_fitter, recipe_digest

    fitter = make_fitter({**config, "fleet": {"at_once": 1}}, dataset, secret, models=[0], membership=WHOLE_POOL)
    return replace(fitter, defense=fitter.defense.for_release(), purpose=f"release {recipe_digest(config)}")


def _trained_bases(fitter: Fitter) -> Iterator[Recipe]:
    """Recipes of the bases that are trained: those of defenses of one stage, such as DP-SGD, are not."""
    while fitter.defense.staged and fitter.base_recipes:
        fitter = fitter.base
        yield fitter.recipe


def train_release_along(config: Mapping[str, Any], secret: Secret) -> None:
    """Trains a release as one of several processes of this machine that train it together, and writes nothing."""
    torch.set_num_threads(1)
    dataset = from_config(config)
    fitter = _fitter(config, dataset, secret)
    fitter.defense.fit(fitter, dataset.split, WHOLE_POOL.draw(dataset.split, [0], secret))


def _other_delta(claim: Statement, attacked: Statement | None) -> str:
    """The sentence that the attacked models claim another δ; empty where they do not."""
    if attacked is None or not (claim.guarantee and attacked.guarantee) or claim.delta == attacked.delta:
        return ""
    return (
        f" Their claim is at δ = {attacked.delta:.3g}, that of this release at δ = {claim.delta:.3g}: each follows from"
        " the number of records that a model is trained on."
    )


def _plain(value: Any) -> Any:
    """A value for strict JSON, which knows no infinity."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return INFINITY_TEXT if value == math.inf else value


def access_of(config: Mapping[str, Any]) -> str:
    """Access to a release: `api` if nobody else holds its files, `weights` if whoever asks for them does.

    Raises:
        ValueError: if `release.access` is unknown.
    """
    access: str = (config.get("release") or {}).get("access", "api")
    if access not in ACCESS_KINDS:
        raise ValueError(f"release.access={access}: expected one of {', '.join(ACCESS_KINDS)}; choose e.g. api")
    return access
