"""Lightning's distributed training (DDP) for the processes that train a model of a run together."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy

from palisade.targets import device
from palisade.targets.engines import together


class SummedGradients(DDPStrategy):
    """DDP that sums gradients: each process has those of its records, and the loss is divided by the whole step's size.

    DDP's own mean would divide by the number of processes besides. DP-SGD sums for itself, after it has clipped.
    """

    def setup_distributed(self) -> None:
        """Lightning's hook by which processes become a group, for which it would choose a port."""
        join_group(self.root_device)
        super().setup_distributed()

    def configure_ddp(self) -> None:
        """Lightning's hook by which the module is wrapped."""
        super().configure_ddp()
        self.model.register_comm_hook(None, lambda _, bucket: _summed(bucket))  # type: ignore[operator, union-attr]


def trainer_arguments(chosen: torch.device) -> dict[str, Any]:
    """Arguments of a Lightning `Trainer` for this process: alone on a device, or one of several.

    Args:
        chosen: the device, or the first of several GPUs.
    """
    if together.size() == 1:
        return device.trainer_arguments(chosen)
    check_devices(chosen, together.size())
    strategy = SummedGradients(
        parallel_devices=[own_device(chosen, number) for number in range(together.size())],
        cluster_environment=LightningEnvironment(),
        process_group_backend=backend(chosen),
    )
    return {"strategy": strategy, "accelerator": chosen.type, "use_distributed_sampler": False}


def backend(chosen: torch.device) -> str:
    """Backend of torch.distributed: between GPUs, or on this machine's loopback interface."""
    return "nccl" if chosen.type == "cuda" else "gloo"


def join_group(own: torch.device) -> None:
    """Makes this process one of the group that trains together, unless it is already.

    Args:
        own: device of this process.
    """
    if dist.is_initialized():
        return
    dist.init_process_group(
        backend(own),
        store=dist.FileStore(together.meet(), together.size()),  # type: ignore[attr-defined]
        rank=together.rank(),
        world_size=together.size(),
        timeout=together.PATIENCE_TIME,
        device_id=own if own.type == "cuda" else None,
    )


def check_devices(chosen: torch.device, count: int) -> None:
    """Raises ValueError if so many processes cannot have a device each, from the chosen one on."""
    if chosen.type == "cpu":
        return
    there = torch.cuda.device_count() - (chosen.index or 0) if chosen.type == "cuda" else 1
    if count > there:
        raise ValueError(
            f"engine.devices_per_model={count}: expected at most {there}, the devices from {chosen} on; choose fewer,"
            " or device=cpu"
        )


def own_device(chosen: torch.device, number: int) -> torch.device:
    """Device of the process of a number: GPUs one after the other, from the chosen one on."""
    return torch.device("cuda", (chosen.index or 0) + number) if chosen.type == "cuda" else chosen


def _summed(bucket: Any) -> torch.futures.Future[torch.Tensor]:
    reduced = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return reduced.then(lambda future: future.value()[0])
