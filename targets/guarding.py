"""Fits guards to the models of a run in worker processes, and reads models with their guards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from palisade.data.dataset import Dataset, from_config
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.targets.files import replacing
from palisade.targets.guards.guard import Guard
from palisade.targets.guards.guarded import Guarded
from palisade.targets.guards.registry import label, registered, state_path, unfitted
from palisade.targets.training import load_fleet, make_fitter


def fit_guard(config: Mapping[str, Any], folder: str, guard: Guard, models: Sequence[int]) -> None:
    """The work item of a process: fits a guard to some models of a run."""
    torch.set_num_threads(1)
    dataset = from_config(config)
    secret, membership = Secret.load(Path(folder) / "private" / "secret"), Membership(**config["membership"])
    for k in models:
        fitter = make_fitter({**config, "fleet": {"at_once": 1}}, dataset, secret, [k], membership)
        members = dataset.split.pool[membership.draw(dataset.split, [k], secret)[0]]
        state = guard.fit(load_fleet(config, dataset, Path(folder), [k]), members, fitter, dataset.split)
        path = state_path(Path(folder), label(guard), k)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(save(state))


def load_guarded(
    config: Mapping[str, Any], dataset: Dataset, folder: Path, models: Sequence[int], guard: str
) -> Guarded:
    """The models of a run behind one of its guards.

    Raises:
        ValueError: if the guard was not fitted to all of them.
    """
    made = registered(folder, guard)
    if missing := unfitted(folder, made, models):
        raise ValueError(
            f"guard={made.name} of {folder} is fitted to {len(models) - len(missing)} of {len(models)} models; train"
            " the run again with this guard"
        )
    fitted = type(made).fit is not Guard.fit
    states = [load_file(state_path(folder, guard, k)) if fitted else {} for k in models]
    return Guarded(load_fleet(config, dataset, folder, models), made, states)
