"""The device that models are trained and asked on: a setting of the engine, never of a run.

Whatever is drawn at random is drawn on the CPU by counters and then copied, so a run means the same models on every
device, to rounding; the device is no part of its name and of nothing that it leaves on disk.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

DEVICE_VARIABLE = "PALISADE_DEVICE"
"""Variable of the environment, which worker processes share with the process that made them."""
DEVICE_NAMES = re.compile(r"auto|cpu|cuda(:\d+)?|mps")


def choose(name: str) -> None:
    """Sets the device of this process and of its workers from now on; needs torch for a GPU alone.

    Args:
        name: cpu; cuda, the first NVIDIA GPU, or cuda:1, …; mps, that of a Mac; auto: cuda where there is one, else
            cpu. Never mps by itself, which has no double precision.

    Raises:
        ValueError: if there is no such device here.
    """
    check(name)
    os.environ[DEVICE_VARIABLE] = name


def chosen() -> torch.device:
    """The device of this process; the CPU unless another was chosen."""
    import torch

    name = os.environ.get(DEVICE_VARIABLE, "cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cuda", 0) if name == "cuda" else torch.device(name)


def check(name: Any) -> None:
    """Raises ValueError for a name of no device, or of one that is not here."""
    if not isinstance(name, str) or not DEVICE_NAMES.fullmatch(name):
        raise ValueError(f"device={name}: expected auto, cpu, cuda, cuda:<number> or mps; choose auto")
    if name in ("auto", "cpu"):
        return
    import torch

    kind, _, number = name.partition(":")
    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise ValueError("device=mps: expected a Mac with a GPU that PyTorch can use; choose cpu")
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or 0) >= count:
        there = f"cuda:0 to cuda:{count - 1}" if count else "none"
        raise ValueError(f"device={name}: expected a GPU that PyTorch can use, of which here are {there}; choose cpu")


def trainer_arguments(device: torch.device) -> dict[str, Any]:
    """Arguments of a Lightning `Trainer` that uses this device and no other."""
    if device.type == "cpu":
        return {"accelerator": "cpu", "devices": 1}
    from pytorch_lightning.accelerators import AcceleratorRegistry
    from pytorch_lightning.strategies import SingleDeviceStrategy

    # A Trainer that is handed an accelerator it does not know trains on the CPU without a word; a strategy is obeyed.
    return {"strategy": SingleDeviceStrategy(device=device, accelerator=AcceleratorRegistry.get(device.type))}
