"""Registry of a run's guards, and the files they leave in its folder; nothing here needs torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from palisade.data.settings import instantiated
from palisade.targets.files import write_json
from palisade.targets.guards.aggregate import Aggregate
from palisade.targets.guards.guard import Guard, NoGuard
from palisade.targets.guards.hamp_output import HAMPOutput
from palisade.targets.guards.label_only import LabelOnly
from palisade.targets.guards.memfree import MemFree
from palisade.targets.guards.memguard import MemGuard
from palisade.targets.guards.rounding import Rounding
from palisade.targets.guards.temperature import Temperature
from palisade.targets.guards.top_k import TopK, check_top_k

GUARDS_BY_NAME: dict[str, type[Guard]] = {
    guard.name: guard
    for guard in (NoGuard, MemGuard, HAMPOutput, TopK, Rounding, Temperature, LabelOnly, Aggregate, MemFree)
}
"""Every guard there is, by its name: a card names one of them, and reading a card runs no other code."""
STATE_VERSION = 2
"""Part of the files of what guards learned; raised when a guard learns other things, so that runs fit theirs anew."""


def make_guard(config: Mapping[str, Any]) -> Guard:
    """The guard of a configuration.

    Raises:
        ValueError: if it is none of this project's.
    """
    guard = instantiated("guard", config["guard"], Guard)
    if type(guard) not in GUARDS_BY_NAME.values():
        raise ValueError(
            f"guard._target_={config['guard'].get('_target_')}: expected one of {', '.join(GUARDS_BY_NAME)}, since"
            " a guard is part of what is released; choose one by name"
        )
    return guard


def check_guard(guard: Guard, classes: int) -> None:
    """Raises ValueError for a guard that would hold nothing back: the last probability is what others leave of 1."""
    check_top_k("guard.k", guard.top_k, classes, "choose guard=label_only or guard=rounding")


def check_answers(guard: Guard, positional: bool) -> None:
    """Raises ValueError for a guard that means nothing before such models.

    Args:
        guard: that is to stand before them.
        positional: whether they are language models, which are asked for tokens, or classifiers.
    """
    if positional and guard.not_on_documents is not None:
        raise ValueError(
            f"guard={guard.name}: expected none or memfree for language models, since {guard.not_on_documents}; choose"
            " one of them"
        )
    if guard.on_documents_alone and not positional:
        raise ValueError(
            f"guard={guard.name}: expected documents, since it keeps language models from copying them; choose another"
            " guard for classifiers, such as label_only"
        )


def label(guard: Guard) -> str:
    """The guard with its settings in one word, such as `none` or `top_k-1f3a02`: names its folder in a run."""
    if not (settings := asdict(guard)):
        return guard.name
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=3).hexdigest()
    return f"{guard.name}-{digest}"


def guard_folder(folder: Path, guard: str) -> Path:
    """Folder of a guard in a run, by its label."""
    return folder / "guards" / guard


def register(folder: Path, guard: Guard) -> None:
    """Says in the folder of a run that its models also stand behind this guard; without any they do anyway."""
    if isinstance(guard, NoGuard):
        return
    content = {"name": guard.name, "settings": asdict(guard)}
    path = guard_folder(folder, label(guard))
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "guard.json", content)


def registered(folder: Path, guard: str) -> Guard:
    """The guard of a run that has this label."""
    path = guard_folder(folder, guard) / "guard.json"
    if not path.exists():
        return GUARDS_BY_NAME[guard]()
    content = json.loads(path.read_text())
    return GUARDS_BY_NAME[content["name"]](**content["settings"])


def state_path(folder: Path, guard: str, model: int) -> Path:
    """The file of what a guard learned about a model."""
    return guard_folder(folder, guard) / f"{model}.{STATE_VERSION}.safetensors"


def unfitted(folder: Path, guard: Guard, models: Sequence[int]) -> list[int]:
    """The models that a guard has not been fitted to."""
    if type(guard).fit is Guard.fit:
        return []
    return [k for k in models if not state_path(folder, label(guard), k).exists()]


def guards_of(folder: Path) -> list[str]:
    """The labels of the guards before a run, `none` first: what they hide is seen beside what they let out."""
    return [NoGuard.name, *sorted(path.parent.name for path in folder.glob("guards/*/guard.json"))]
