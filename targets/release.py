"""Releases: the one model that leaves the building, with a card that says what is claimed for it and what is not."""

from __future__ import annotations

import json
import math
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import nn

from datamodules import preprocessing
from datamodules.dataset import from_config
from datamodules.preprocessing import Preprocessing
from datamodules.secret import Secret
from datamodules.split import Membership
from targets.fleet import Fleet
from targets.networks import CNN, MLP
from targets.statement import INFINITY, Statement
from targets.training import complete_statement, make_fitter
from targets.transformer import Transformer

NETWORKS: dict[str, type[nn.Module]] = {f"{made.__module__}.{made.__name__}": made for made in (MLP, CNN, Transformer)}
LIBRARIES = ("torch", "opacus", "pytorch-lightning", "numpy")
AUDIT_NOTE = (
    "Measured by attacking a fleet of models trained by the same recipe on random parts of the same pool, not this "
    "model itself, which was trained on the whole pool. A weak attack is no proof of privacy."
)
COST_NOTE = "The statement covers this one release; m releases from the same records cost up to m times its ε."


class Release:
    """A trained model with its preprocessing and its card. Loading one runs no code from its files.

    Args:
        network: the trained network.
        preprocessing: turns raw rows into inputs.
        card: plain values: classes, recipe, statement, audit.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, card: Mapping[str, Any]):
        self.network, self.preprocessing, self.card = network.eval(), preprocessing, card

    @property
    def statement(self) -> Statement:
        return Statement.from_json(self.card["statement"])

    @property
    def classes(self) -> Sequence[str]:
        classes: Sequence[str] = self.card["data"]["classes"]
        return classes

    def predict_proba(self, rows: Any) -> Float[np.ndarray, "records classes"]:
        """Probability of each class for raw rows: an array (records, …), a table of the training columns, or texts."""
        inputs = torch.from_numpy(self.preprocessing(rows))
        with torch.inference_mode():
            probabilities: np.ndarray = self.network(inputs).softmax(dim=-1).numpy()
        return probabilities

    def predict(self, rows: Any) -> list[str]:
        """The most likely class of each raw row, in the words of the data set."""
        return [self.classes[k] for k in self.predict_proba(rows).argmax(axis=-1)]

    def save(self, folder: Path) -> None:
        """Writes `model.safetensors` and `card.json`: both or nothing.

        Raises:
            ValueError: if there is a release already.
        """
        check_unreleased(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        temporary.chmod(0o755)
        save_file(
            {name: value.contiguous() for name, value in self.network.state_dict().items()},
            temporary / "model.safetensors",
        )
        (temporary / "card.json").write_text(json.dumps(self.card, indent=2, allow_nan=False) + "\n")
        temporary.rename(folder)

    @classmethod
    def load(cls, folder: Path | str, network: Callable[..., nn.Module] | None = None) -> Release:
        """Reads a release.

        Args:
            folder: what `save` wrote.
            network: the class of an own network; those of this project are found by their name.

        Raises:
            ValueError: if the card names a network that is not this project's and none was given.
            FileNotFoundError: if there is no release.
        """
        folder = Path(folder)
        if not (folder / "card.json").exists():
            raise FileNotFoundError(f"{folder} holds no card.json; give the folder that ship=<run> printed")
        card = json.loads((folder / "card.json").read_text())
        name, settings = card["network"]["name"], card["network"]["settings"]
        make = network or NETWORKS.get(name)
        if make is None:
            raise ValueError(f"network={name} is not one of {', '.join(NETWORKS)}; give its class as network=")
        module = make(shape=card["data"]["shape"], classes=len(card["data"]["classes"]), **settings)
        module.load_state_dict(load_file(folder / "model.safetensors"))
        return cls(module, preprocessing.from_json(card["preprocessing"]), card)


def check_unreleased(folder: Path) -> None:
    """Raises ValueError if there is a release already."""
    if folder.exists():
        raise ValueError(
            f"{folder} is there already and every further release costs privacy anew; "
            "remove it, or choose another place with released=<folder>"
        )


def ship(config: Mapping[str, Any], audit: Sequence[Mapping[str, Any]], secret: Secret) -> Release:
    """Trains a release: one model on the whole pool by a run's recipe, with N = pool and σ calibrated anew.

    Args:
        config: the run's configuration.
        audit: what was measured on the run's fleet, one mapping per number.
        secret: fixes initial weights, batches and noise of this one model.
    """
    dataset = from_config(config)
    everything = Membership(how="fixed", share=1.0)
    fitter = make_fitter(
        {**config, "fleet": {"at_once": 1}},
        dataset,
        secret,
        models=[0],
        membership=everything,
    )
    fitter = replace(fitter, defense=fitter.defense.for_release())
    fleet: Fleet = fitter.defense.fit(fitter, dataset.split, everything.draw(dataset.split, [0], secret))
    fleet.network.load_state_dict(fleet.states[0])
    claim = complete_statement(fitter, fleet)
    target, *settings = config["network"].items()
    card = {
        "data": {
            "name": dataset.name,
            "classes": list(dataset.classes),
            "shape": list(dataset.shape),
            "records": fitter.size,
            "checksum": dataset.published or f"hmac-sha256:{secret.seal(dataset.fingerprint.encode())}",
        },
        "network": {"name": target[1], "settings": dict(settings)},
        "defense": {
            "name": config["names"]["defense"],
            **{k: INFINITY if v == math.inf else v for k, v in config["defense"].items() if k != "_target_"},
        },
        "recipe": asdict(fitter.recipe),
        "preprocessing": dataset.preprocessing.to_json(),
        "statement": claim.to_json(),
        "cost": COST_NOTE,
        "audit": {"note": AUDIT_NOTE, "results": list(audit)},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("palisade", *LIBRARIES)}},
    }
    return Release(fleet.network, dataset.preprocessing, card)
