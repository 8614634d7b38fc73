"""Public base models: the weights that training begins with, from a run or a folder of one's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palisade.data.sequences import Sequences
from palisade.data.settings import place
from palisade.data.subwords import TOKENIZER_FILE, TOKENS_FILE, same_tokens
from palisade.targets.checkpoints import weights_path
from palisade.targets.digests import content_digest

BASE_KEY, PATH_KEY = "base", "path"
"""Settings of a network that name places: the folder of a base, and what the network itself is read from."""
CONFIGURATION_KEY = "configuration"
"""Setting of a model of Hugging Face's form on a card."""
RELEASED_TYPES = ("gpt2", "llama", "gpt_neox", "qwen2")
"""Types of models of that form that a release may hold: no card, whoever wrote it, reaches others of a library."""
BASE_FILE = "model.safetensors"
"""Weights in a folder that is no run."""
MODEL_FILES = ("config.json", "*.safetensors")
"""Files of a model of Hugging Face's form that decide what it is."""


def base_weights(folder: str) -> Path:
    """The weights file of a base: the first model of a run, or `model.safetensors` of another folder.

    Args:
        folder: value of `network.base`.

    Raises:
        ValueError: if the folder holds none.
    """
    path = place(f"network.{BASE_KEY}", folder)
    for file in (weights_path(path, 0), path / BASE_FILE):
        if file.is_file():
            return file
    raise ValueError(
        f"network.{BASE_KEY}={folder}: expected the folder of a run, or one with {BASE_FILE}, and it holds no weights;"
        " train one with train.py experiment=lm_base"
    )


def check_places(network: Mapping[str, Any]) -> None:
    """Raises ValueError if what a network is read from lies nowhere on this machine, such as a name on a hub.

    Args:
        network: its settings.
    """
    if (base := network.get(BASE_KEY)) is not None:
        base_weights(base)
    if (folder := network.get(PATH_KEY)) is not None and not place(f"network.{PATH_KEY}", folder).exists():
        raise ValueError(
            f"network.{PATH_KEY}={folder}: expected a file or folder of this machine, since nothing is downloaded;"
            " save the model there first"
        )


def check_tokens(network: Mapping[str, Any], preprocessing: Any) -> None:
    """Raises ValueError if what a network begins with is known to cut texts into other tokens than the data.

    Their numbers would mean other words to it, and nothing else would say so where there are as many of them.

    Args:
        network: its settings.
        preprocessing: of the data.
    """
    if not isinstance(preprocessing, Sequences):
        return
    own = preprocessing.to_json()
    for key in (BASE_KEY, PATH_KEY):
        if (folder := network.get(key)) is None:
            continue
        path = place(f"network.{key}", folder)
        run, tokenizer, differs = path / TOKENS_FILE, path / TOKENIZER_FILE, False
        if run.is_file():
            differs = not same_tokens(json.loads(run.read_text(encoding="utf-8")), own)
        elif tokenizer.is_file() and any(path.glob(MODEL_FILES[1])):
            differs = own.get("content") != tokenizer.read_text(encoding="utf-8")
        if differs:
            raise ValueError(
                f"network.{key}={folder}: expected a model that cuts texts into the tokens of the data; set"
                f" data.tokens={folder}"
            )


def reads_places(network: Mapping[str, Any]) -> bool:
    """True if the settings of a network name a file or folder that it is read from."""
    return network.get(BASE_KEY) is not None or network.get(PATH_KEY) is not None


def has_base(network: Mapping[str, Any]) -> bool:
    """True if training begins with public weights, by the settings of a network.

    A folder of Hugging Face's form may hold none: they are then drawn by a run's secret, and are nobody's base.
    """
    if (folder := network.get(PATH_KEY)) is None or network.get(BASE_KEY) is not None:
        return network.get(BASE_KEY) is not None
    path = place(f"network.{PATH_KEY}", folder)
    return path.is_file() or any(path.glob(MODEL_FILES[1]))


def content_of(network: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a network with digests in the place of folders: what decides is their content, wherever they lie.

    Args:
        network: the settings, without `lora` where no rank is set.

    Raises:
        ValueError: if there is no such file or folder.
    """
    check_places(network)
    settings = {name: value for name, value in network.items() if name not in ("lora", BASE_KEY, PATH_KEY)}
    if (rank := (network.get("lora") or {}).get("rank")) is not None:
        settings["lora"] = {"rank": rank}
    if (base := network.get(BASE_KEY)) is not None:
        settings[BASE_KEY] = content_digest(base_weights(base))
    if (folder := network.get(PATH_KEY)) is not None:
        path = place(f"network.{PATH_KEY}", folder)
        files = [path] if path.is_file() else sorted(file for pattern in MODEL_FILES for file in path.glob(pattern))
        settings[PATH_KEY] = [content_digest(file) for file in files]
    return settings


def on_card(network: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a network as a card has them: all of its weights lie beside it, wherever they came from.

    In the place of a folder of Hugging Face's form stands the content of its `config.json`.

    Raises:
        ValueError: for a model of that form of a type that no release may hold.
    """
    settings = {name: value for name, value in network.items() if name not in ("lora", BASE_KEY)}
    if (folder := network.get(PATH_KEY)) is not None and (place(PATH_KEY, folder) / MODEL_FILES[0]).is_file():
        del settings[PATH_KEY]
        content = json.loads((place(PATH_KEY, folder) / MODEL_FILES[0]).read_text(encoding="utf-8"))
        if content.get("model_type") not in RELEASED_TYPES:
            raise ValueError(
                f"network.{PATH_KEY}={folder}: expected a model_type of {', '.join(RELEASED_TYPES)} in a release, which"
                f" is read without a folder beside it, not {content.get('model_type')}; ship a run of one of them"
            )
        settings[CONFIGURATION_KEY] = {key: value for key, value in content.items() if not key.startswith("_")}
    if (rank := (network.get("lora") or {}).get("rank")) is not None:
        settings["lora"] = {"rank": rank}
    return settings


def in_full(network: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a network with folders in full, so that a run finds them from any other."""
    return {
        name: str(Path(value).expanduser().resolve())
        if name in (BASE_KEY, PATH_KEY) and isinstance(value, str)
        else value
        for name, value in network.items()
    }
