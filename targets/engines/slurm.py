"""Slurm: an array of jobs through submitit, one for each chunk of models, in a folder that all nodes share."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from palisade.fields import Count, CountFromZero, Positive
from palisade.targets import progress
from palisade.targets.engines import worker
from palisade.targets.engines.engine import MAX_ATTEMPTS, WorkEngine
from palisade.targets.files import naming, replacing

if TYPE_CHECKING:
    import submitit

Result = TypeVar("Result")

SECONDS_BETWEEN_LOOKS = {"slurm": 5.0, "local": 0.1}
"""Interval at which jobs are asked whether they have ended."""

CANCELLATION_SECONDS = 10.0
"""Time that processes of this machine have to end."""
BYTES_OF_RESULT = 2**20
"""Room that the result of a job takes, such as that of an evaluation."""
MAX_JOBS_PER_ARRAY = 1000
"""Slurm refuses larger arrays, unless its administrators allow for them."""


@dataclass(frozen=True, kw_only=True)
class SlurmEngine(WorkEngine):
    """Jobs of Slurm, started on a node that may submit some; the command waits for them.

    A job that is preempted, or runs into its time limit, is put into the queue again and goes on with the models that
    it has not trained; one that dies is submitted once more. Runs lie in a folder that all nodes share.

    Args:
        cluster: slurm, or local: processes of this machine, to try it out.
        partition: of the jobs; None: the cluster's own choice.
        timeout_min: time limit of a job, in minutes.
        mem_gb: memory of a job, in gigabytes.
        cpus: cores of a job; a model is trained by one thread.
        gpus: of a job.
        jobs: how many run at a time, unless `fleet.workers` is a number.
        parameters: others of submitit, such as `slurm_account`.
    """

    cluster: Literal["slurm", "local"] = "slurm"
    partition: str | None = None
    timeout_min: Count = 240
    mem_gb: Positive = 4
    cpus: Count = 1
    gpus: CountFromZero = 0
    jobs: Count = 64
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if importlib.util.find_spec("submitit") is None:
            raise ValueError("engine=slurm: expected the package submitit; pip install -e '.[sweep]'")
        if self.cluster == "slurm" and shutil.which("srun") is None:
            raise ValueError(
                "engine.cluster=slurm: expected a machine that may submit jobs of Slurm, and there is no srun; go to"
                " one, or choose local"
            )

    def count(self, workers: int | str) -> int:
        """Number of jobs that run at a time."""
        return workers if isinstance(workers, int) else self.jobs

    def run(
        self, function: Callable[..., Result], items: Iterable[tuple[Any, ...]], workers: int, folders: Sequence[Path]
    ) -> Iterator[Result]:
        """Yields results as jobs end; a job whose node failed is submitted once more."""
        from submitit.core.utils import FailedJobError, UncompletedJobError

        if not (left := dict(enumerate(items))):
            return
        with _scratch(folders) as scratch:
            for attempt in range(1, MAX_ATTEMPTS + 1):
                reason = ""
                with closing(self._ended(function, dict(left), workers, scratch)) as ended:
                    for place, job in ended:
                        try:
                            outcome: worker.Outcome = job.result()
                        except (FailedJobError, UncompletedJobError):
                            check_room(scratch)
                            reason = _reason(job)
                            continue
                        result = outcome.delivered()
                        del left[place]
                        yield result
                if not left:
                    return
                if attempt < MAX_ATTEMPTS:
                    progress.say(f"{len(left)} jobs died; what they left is submitted once more")
            raise ChildProcessError(f"a job died twice ({reason}); its output is in {scratch}")

    def _ended(
        self, function: Callable[..., Any], waiting: dict[int, tuple[Any, ...]], workers: int, scratch: Path
    ) -> Generator[tuple[int, submitit.Job[worker.Outcome]], None, None]:
        """Jobs as they end. Slurm gets all of them as one array; of this machine's processes so many run at a time."""
        jobs: dict[int, submitit.Job[worker.Outcome]] = {}
        try:
            while waiting or jobs:
                free = MAX_JOBS_PER_ARRAY if self.cluster == "slurm" else workers - len(jobs)
                if some := {place: waiting.pop(place) for place in list(waiting)[:free]}:
                    jobs |= self._submitted(function, some, workers, scratch)
                for place in [place for place, job in jobs.items() if job.done()]:
                    yield place, jobs.pop(place)
                if jobs:
                    time.sleep(SECONDS_BETWEEN_LOOKS[self.cluster])
        except BaseException:
            for job in jobs.values():
                job.cancel(check=False)
            patience = time.monotonic() + CANCELLATION_SECONDS
            while self.cluster == "local" and time.monotonic() < patience and not all(j.done() for j in jobs.values()):
                time.sleep(SECONDS_BETWEEN_LOOKS["local"])
            raise

    def _submitted(
        self, function: Callable[..., Any], items: Mapping[int, tuple[Any, ...]], workers: int, scratch: Path
    ) -> dict[int, submitit.Job[worker.Outcome]]:
        import submitit

        os.environ["OMP_NUM_THREADS"] = "1"  # jobs inherit it
        executor = submitit.AutoExecutor(folder=scratch, cluster=self.cluster)
        own = {
            "name": "palisade",
            "timeout_min": self.timeout_min,
            "mem_gb": self.mem_gb,
            "cpus_per_task": self.cpus,
            "gpus_per_node": self.gpus,
            "slurm_array_parallelism": workers,
            **({} if self.partition is None else {"slurm_partition": self.partition}),
        }
        try:
            executor.update_parameters(**{**own, **self.parameters})
        except (NameError, AssertionError) as error:  # submitit's words for bad input
            raise ValueError(
                f"engine.parameters={dict(self.parameters)}: expected parameters of submitit"
                f" ({' '.join(str(error).split())}); choose such as slurm_account"
            ) from None
        count = len(items)
        aside = _errors_aside(scratch / "processes.log") if self.cluster == "local" else nullcontext()
        with _heard_interrupts(), aside, naming(scratch):
            jobs = executor.map_array(PreemptibleItem(), [function] * count, list(items.values()))
        return dict(zip(items, jobs, strict=True))


@contextmanager
def _scratch(folders: Sequence[Path]) -> Iterator[Path]:
    """Folder of jobs beside the runs, of which that of jobs that died stays."""
    scratch = Path(tempfile.mkdtemp(prefix=".jobs-", dir=folders[0].resolve().parents[1] if folders else None))
    try:
        yield scratch
    except ChildProcessError:
        raise
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _heard_interrupts() -> Iterator[None]:
    """Processes of this machine would inherit that a command in the background ignores interrupts, and never end."""
    here = threading.current_thread() is threading.main_thread()
    ignored = here and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _errors_aside(path: Path) -> Iterator[None]:
    """Puts into a file what processes that start in the block print on stderr, such as where Ctrl-C ended them."""
    stderr = os.dup(2)
    try:
        with path.open("a") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def check_room(scratch: Path) -> None:
    """Raises OSError if there is no room for the result of a job, which dies then and cannot even say so."""
    with replacing(scratch / "room") as temporary:
        temporary.write_bytes(bytes(BYTES_OF_RESULT))
    (scratch / "room").unlink()


def _reason(job: submitit.Job[Any]) -> str:
    """Reason for a job without a result: its state, such as OUT_OF_MEMORY, and the last line of its errors."""
    said = [line for line in (job.stderr() or "").splitlines() if line.strip()][-1:]
    return ": ".join([f"state {job.state}", *said])


class PreemptibleItem:
    """Item of a job; on preemption submitit keeps `checkpoint()` and calls it again in a job of its own.

    Args:
        log: lines for the logs of runs, from before the preemption.
    """

    def __init__(self, log: Sequence[tuple[Path, str]] = ()) -> None:
        self.notes = progress.WorkerNotes(log=list(log))
        self.preempted = False

    def __call__(self, function: Callable[..., Any], item: tuple[Any, ...]) -> worker.Outcome:
        """Runs an item."""
        outcome = worker.outcome(function, item, self.notes)
        if self.preempted:  # submitit ends the process by SystemExit, which is no failure of the item
            raise SystemExit(_exit_code(outcome.error))
        return outcome

    def checkpoint(self, function: Callable[..., Any], item: tuple[Any, ...]) -> Any:
        """Follower of this job: what it has written stays, and its reports are made again."""
        from submitit.helpers import DelayedSubmission

        self.preempted = True
        return DelayedSubmission(PreemptibleItem(self.notes.log), function, item)


def _exit_code(error: BaseException | None) -> Any:
    while error is not None and not isinstance(error, SystemExit):
        error = error.__cause__ or error.__context__
    return None if error is None else error.code
