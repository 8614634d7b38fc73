"""Ray: a task for each chunk of models, on machines that share no folder; results come through the object store."""

from __future__ import annotations

import asyncio
import atexit
import importlib.util
import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from palisade.data.dataset import data_settings, from_config
from palisade.data.derived import KeyQuestion, answer
from palisade.data.secret import Secret
from palisade.fields import Count, NonNegative, Positive
from palisade.targets.device import DEVICE_VARIABLE
from palisade.targets.engines.engine import WorkEngine
from palisade.targets.engines.own_files import OwnFile, missing_here, own_files
from palisade.targets.engines.parcel import SECRET_PATH, Parcel, loaded, packed, pickled
from palisade.targets.run import Run

Result = TypeVar("Result")

MAX_RETRIES = 3
"""Of a task whose worker or node died: nodes of clusters come and go."""
MAX_WAITING_WORKERS = 10_000
"""Workers that may wait for keys at a time."""
MAX_CHARACTERS_OF_REASON = 300
"""Part of Ray's message in an error."""
FAREWELL_SECONDS = 5.0
"""Time for the last answer before the cluster is left."""
CONNECTION_SECONDS = 5.0
"""Time for a cluster's port to open; Ray itself tries for minutes."""
QUESTION_SECONDS = 0.5
"""For how long the driver waits for a question before it looks whether the cluster is left."""

_session: RaySession | None = None


@dataclass(frozen=True, kw_only=True)
class RayEngine(WorkEngine):
    """Tasks of a Ray cluster, each with a copy of what it reads; the driver writes what they return.

    Data are shipped once a node. The secret of a run stays with the driver, which derives the keys of models as tasks
    ask for them. Whoever runs the cluster can read records, models and these keys: it is inside the trust boundary.

    Args:
        address: of the cluster; auto: the one that is running here; local: one that ends with the command.
        cpus: cores of a task; a model is trained by one thread.
        gpus: of a task; fractions share one, each with that part of its memory.
        tasks: how many run at a time, unless `fleet.workers` is a number.
    """

    address: str = "auto"
    cpus: Positive = 1
    gpus: NonNegative = 0
    tasks: Count = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if importlib.util.find_spec("ray") is None:
            raise ValueError("engine=ray: expected the package ray; pip install -e '.[ray]'")
        if self.devices_per_model > 1:
            raise ValueError(
                f"devices_per_model={self.devices_per_model}: expected 1 with engine=ray, whose tasks are single"
                " processes; set it, or choose engine=local or slurm"
            )

    def count(self, workers: int | str) -> int:
        """Number of tasks that run at a time, if the cluster has room for them."""
        return workers if isinstance(workers, int) else self.tasks

    def run(
        self, function: Callable[..., Result], items: Iterable[tuple[Any, ...]], workers: int, folders: Sequence[Path]
    ) -> Iterator[Result]:
        """Yields results as tasks end; what a dead worker or node leaves is run again by another."""
        import ray

        session = self._connected()
        places: dict[int, Path] = {}
        contents: dict[int, Any] = {}
        waiting, running, seen = iter(items), list[Any](), 0
        try:
            while True:
                for item in islice(waiting, workers - len(running)):
                    for folder in folders[seen:]:
                        number = session.number(folder)
                        places[number], contents[number] = folder, ray.put(packed(folder))
                    seen = len(folders)
                    running.append(self._submitted(session, (function, item), places, contents))
                if not running:
                    return
                (ended, *_), running = ray.wait(running, num_returns=1)
                outcome, changes = loaded(_result(ended), places)
                for number, changed in changes.items():
                    changed.apply(places[number])
                yield outcome.delivered()
        except BaseException as error:
            for task in running:
                with suppress(Exception):
                    ray.cancel(task, force=True)
            if isinstance(error, ray.exceptions.RayError):  # such as of an object store whose disk is full
                raise ChildProcessError(
                    f"the cluster of Ray failed ({_short(error)}); once it is well, the same command goes on from there"
                ) from error
            raise

    def stop(self) -> None:
        """Leaves the cluster."""
        disconnect()

    def _submitted(
        self, session: RaySession, work: Any, places: Mapping[int, Path], contents: Mapping[int, Any]
    ) -> Any:
        content, numbers = pickled(work, places)
        session.check((work[1], [Run(places[n]).config for n in numbers]))
        datasets = {text: ref for n in numbers for text, ref in session.datasets(places[n], work[1]).items()}
        parcel = Parcel(
            work=content,
            names={number: places[number].name for number in numbers},
            user_chosen={number: session.secrets[number].user_chosen for number in numbers},
            data_settings=tuple(datasets),
            device=os.environ.get(DEVICE_VARIABLE, "cpu"),
        )
        task = session.task.options(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=MAX_RETRIES)
        shipment = (*(contents[number] for number in numbers), *datasets.values())
        return task.remote(parcel, self.gpus, session.desk, *shipment)

    def _connected(self) -> RaySession:
        global _session
        if _session is None:
            os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
            import ray

            own: dict[str, Any] = {"include_dashboard": False} if self.address == "local" else {}
            try:
                _check_reachable(self.address)
                with _unnamed_command():
                    ray.init(
                        address=self.address, log_to_driver=False, logging_level=logging.ERROR,
                        ignore_reinit_error=True, **own,
                    )  # fmt: skip
            except Exception as error:  # most of them Ray's: none there, no address, another version, no start in time
                others = "start one with `ray start --head`, or choose engine.address=local"
                remedy = "the same command tries again" if self.address == "local" else others
                raise ValueError(
                    f"engine.address={self.address}: expected a Ray cluster that runs ({_short(error)}); {remedy}"
                ) from None
            _session = RaySession()
            atexit.register(disconnect)
        return _session


def _check_reachable(address: str) -> None:
    """Raises OSError, or an error of Ray's, unless somebody listens where the cluster is said to be."""
    from ray._private.services import canonicalize_bootstrap_address

    place = canonicalize_bootstrap_address(address.removeprefix("ray://"))  # None of a cluster that is yet to start
    host, _, port = (place or "").rpartition(":")
    if port.isdecimal():
        with socket.create_connection((host.strip("[]"), int(port)), CONNECTION_SECONDS):
            pass


def disconnect() -> None:
    """Leaves the cluster; tasks of this command end."""
    global _session
    if _session is not None:
        import ray

        _session.close()
        _session = None
        ray.shutdown()


@contextmanager
def _unnamed_command() -> Iterator[None]:
    """Ray keeps the command line of whoever connects in its table of jobs, and with it a secret that stands there."""
    from ray._private import utils

    name = utils.get_entrypoint_name
    utils.get_entrypoint_name = lambda: "palisade"
    try:
        yield
    finally:
        utils.get_entrypoint_name = name


class RaySession:
    """The driver's side of a cluster: what was shipped there, and the desk where tasks ask for keys."""

    def __init__(self) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        desk = ray.remote(KeyDesk).options(
            num_cpus=0, max_concurrency=MAX_WAITING_WORKERS, scheduling_strategy=here, max_restarts=-1,
            max_task_retries=-1,
        )  # fmt: skip
        self.desk: Any = desk.remote()
        self.task: Any = ray.remote(carried_out)
        self.folders: list[Path] = []
        self.secrets: dict[int, Secret] = {}
        self._shipped: dict[str, Any] = {}
        self._checked: set[OwnFile] = set()
        self._is_left = threading.Event()
        self._answering = threading.Thread(target=self._answer, daemon=True)
        self._answering.start()

    def close(self) -> None:
        """Ends the answers: a thread that is inside Ray while it shuts down takes the whole process with it."""
        import ray

        with suppress(Exception):  # or Ray prints an error about the call that waits; the desk may be gone
            ray.get(self.desk.close.remote(), timeout=FAREWELL_SECONDS)
            self._answering.join(FAREWELL_SECONDS)
        self._is_left.set()
        self._answering.join()

    def number(self, folder: Path) -> int:
        """Number by which tasks know a run."""
        if folder not in self.folders:
            self.folders.append(folder)
        number = self.folders.index(folder)
        self.secrets[number] = Secret.load(folder / SECRET_PATH)
        return number

    def datasets(self, folder: Path, item: Sequence[Any]) -> dict[str, Any]:
        """References to the data of a run, by the settings that its configuration and the item hold of them."""
        import ray

        configs = [value for value in item if isinstance(value, Mapping) and "data" in value] + [Run(folder).config]
        texts = [data_settings(config) for config in configs]
        ref = next((self._shipped[text] for text in texts if text in self._shipped), None)
        if ref is None:
            ref = ray.put(from_config(configs[0]))
        self._shipped |= dict.fromkeys(texts, ref)
        return dict.fromkeys(texts, ref)

    def check(self, settings: Any) -> None:
        """Asks every node for own code and files, once for each of them.

        Raises:
            ValueError: if one lacks something.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if not (files := {file for file in own_files(settings) if file.is_here} - self._checked):
            return
        task: Any = ray.remote(missing_here)
        nodes: Any = ray.nodes  # without types
        for node in nodes():
            if node["Alive"]:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                answer = task.options(num_cpus=0, scheduling_strategy=there).remote(sorted(files, key=str))
                for file in ray.get(answer):
                    raise ValueError(file.lacking(node["NodeManagerAddress"]))
        self._checked |= files

    def _answer(self) -> None:
        """Derives keys for tasks until the cluster is left: a thread, since the command waits for results."""
        import ray

        with suppress(Exception, SystemExit):  # Ray's way of telling a thread that the cluster went away
            while not self._is_left.is_set():
                asking = self.desk.next.remote()
                while not ray.wait([asking], timeout=QUESTION_SECONDS)[0]:
                    if self._is_left.is_set():
                        return
                if (waiting := ray.get(asking)) is None:
                    return
                asked, number, question = waiting
                self.desk.reply.remote(asked, answer(self.secrets[number], question))


class KeyDesk:
    """Hands questions of tasks to the driver, and its answers back: an actor, which holds no secret.

    If its process dies, Ray starts another one and makes the calls again that wait for it; questions have names that
    are used once, so that an answer to the dead one is nobody else's.
    """

    def __init__(self) -> None:
        self.questions: asyncio.Queue[tuple[str, int, KeyQuestion] | None] = asyncio.Queue()
        self.waiting: dict[str, asyncio.Future[bytes]] = {}

    async def ask(self, number: int, question: KeyQuestion) -> bytes:
        """The key that a task asks for, of the run of a number."""
        asked, answered = uuid.uuid4().hex, asyncio.get_running_loop().create_future()
        self.waiting[asked] = answered
        await self.questions.put((asked, number, question))
        return await answered

    async def next(self) -> tuple[str, int, KeyQuestion] | None:
        """A question that was not answered yet, as soon as there is one; None once the desk is closed."""
        return await self.questions.get()

    async def reply(self, asked: str, key: bytes) -> None:
        """Gives the answer to whoever asked, and still waits."""
        if (answered := self.waiting.pop(asked, None)) is not None and not answered.done():
            answered.set_result(key)

    async def close(self) -> None:
        """Ends the wait for questions."""
        await self.questions.put(None)


def carried_out(parcel: Parcel, gpu_share: float, desk: Any, *shipment: Any) -> bytes:
    """The task.

    Args:
        parcel: what is to be done.
        gpu_share: part of a GPU, or how many.
        desk: where keys are asked for.
        shipment: files of every run, then data sets.
    """
    import ray

    if 0 < gpu_share < 1:
        import torch

        torch.cuda.set_per_process_memory_fraction(gpu_share)

    def ask(number: int, question: KeyQuestion) -> bytes:
        return bytes(ray.get(desk.ask.remote(number, question)))

    return parcel.carried_out(ask, shipment[: len(parcel.names)], shipment[len(parcel.names) :])


def _result(task: Any) -> bytes:
    """Return value of a task.

    Raises:
        ChildProcessError: if its workers died in every attempt.
        Exception: what went wrong there before or after the item itself, such as a full disk.
    """
    import ray

    try:
        return bytes(ray.get(task))
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else RuntimeError(str(error))
        raise cause from None
    except ray.exceptions.RayError as error:
        raise ChildProcessError(
            f"a task of Ray died {MAX_RETRIES + 1} times ({_short(error)}); give it more memory, or choose fewer"
            " engine.tasks"
        ) from error


def _short(error: Exception) -> str:
    """Beginning of Ray's messages, which go over many lines."""
    return " ".join(str(error).split())[:MAX_CHARACTERS_OF_REASON]
