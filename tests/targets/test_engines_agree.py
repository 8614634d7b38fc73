"""Every engine gives the bytes of a plain loop, the same log and the same count of models, and loses nothing."""

from __future__ import annotations

import importlib.util
import os
import pickle
import platform
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from file_limits import files_of_at_most

from palisade.commandline import one_line
from palisade.data.dataset import data_settings
from palisade.data.derived import KeyQuestion, answer
from palisade.evaluation.measuring import runs
from palisade.evaluation.measuring.runs import measure_and_keep, results_of, stored_result
from palisade.evaluation.protocol import AttackProtocol
from palisade.targets import engines, progress
from palisade.targets.defaults import resolved
from palisade.targets.engines import worker
from palisade.targets.engines.parcel import Parcel, loaded, packed, pickled
from palisade.targets.engines.slurm import SlurmEngine, check_room
from palisade.targets.progress import Progress, RunLog
from palisade.targets.run import Run
from palisade.targets.training import chunks, train_models
from palisade.train import composed, train_run

SMALL_FLEET = ("data=digits", "network=linear", "trainer.epochs=1", "fleet.models=32", "secret=unspoken", "quiet=true")
NOISY_FLEET = (*SMALL_FLEET, "defense=dp_sgd", "defense.epsilon=8", "defense.trainer.epochs=1")
ON_RAY = ("engine=ray",)
ON_SLURM = ("engine=slurm", "engine.cluster=local")


def trained(folder: Path, *words: str) -> Run:
    return Run(Path(train_run(composed(f"runs={folder}", *words))["folder"]))


def weights(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run.folder / "models").glob("*.safetensors"))}


def logged(run: Run) -> list[str]:
    """Lines of the log of a run on models, in order, without times."""
    lines = (run.folder / "train.log").read_text().splitlines()
    return sorted(re.sub(r" in .* s$", "", line.split(" ", 1)[1]) for line in lines if "models" in line)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    engines.stop()
    engines.choose({"_target_": "palisade.targets.engines.local.LocalEngine"})


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run of 32 models, trained one chunk after the other in this process."""
    return trained(tmp_path_factory.mktemp("here"), *SMALL_FLEET, "fleet.workers=1")


@pytest.mark.parametrize("words", [("fleet.workers=2",), (*ON_SLURM, "fleet.workers=2")], ids=["local", "slurm"])
def test_engines_agree_to_the_byte(expected: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    with Progress(tmp_path, total=32) as line:
        run = trained(tmp_path / "runs", *SMALL_FLEET, *words)
    assert len(weights(run)) == 32 and weights(run) == weights(expected)
    assert logged(run) == logged(expected)
    assert line.done == 32
    assert not list((tmp_path / "runs").glob(".jobs*"))


def of_submitit(folder: Path) -> list[int]:
    """Processes of jobs whose scratch lies below a folder."""
    lines = {}
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            lines[int(place.parent.name)] = place.read_bytes().decode(errors="replace")
    return [process for process, line in lines.items() if "submitit.core._submit" in line and str(folder) in line]


def most_at_once(count: Callable[[], int], work: Callable[[], Run]) -> tuple[Run, int]:
    """Outcome of some work, and the most of what was counted meanwhile."""
    counts, over = [0], threading.Event()

    def follow() -> None:
        while not over.wait(0.05):
            counts.append(count())

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        return work(), max(counts)
    finally:
        over.set()
        thread.join()


needs_proc = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes under /proc")


@pytest.mark.slow  # two processes import torch, one after the other
@needs_proc
def test_a_preempted_job_goes_on_where_it_was(tmp_path: Path) -> None:
    words = (*SMALL_FLEET, "fleet.models=5", "fleet.at_once=1", "fleet.workers=1")
    run = trained(tmp_path, *words)
    before, log = weights(run), logged(run)
    for path in (*(run.folder / "models").glob("*"), run.folder / "train.log"):
        path.unlink()
    settings = {**resolved(composed(*words), run.dataset), "secret": None}
    item = (settings, str(run.folder), run.name, list(range(5)), None)
    job = SlurmEngine(cluster="local")._submitted(train_models, {0: item}, 1, tmp_path / "scratch")[0]
    while not weights(run):
        time.sleep(0.01)
    (process,) = of_submitit(tmp_path)
    os.kill(process, signal.SIGUSR2)  # as Slurm does
    outcome = job.result()
    assert "Requeued" in str(job.stderr()) + str(job.stdout())
    with Progress(tmp_path, total=5) as line:
        assert outcome.delivered() is None
    assert weights(run) == before and line.done == 5
    assert {*logged(run)} <= {*log}, "the model that was being written may have no line"


SPREAD_FLEET = (*SMALL_FLEET, "fleet.models=64", "fleet.at_once=16", "fleet.workers=4")


@pytest.mark.slow  # four processes import torch
@needs_proc
def test_a_run_of_64_models_spreads_over_four_jobs(tmp_path: Path) -> None:
    run, most = most_at_once(lambda: len(of_submitit(tmp_path)), lambda: trained(tmp_path, *SPREAD_FLEET, *ON_SLURM))
    assert len(weights(run)) == 64 and most == 4


@pytest.mark.slow
@needs_proc
def test_a_job_that_dies_is_submitted_once_more_and_its_reason_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    engines.choose({"_target_": "palisade.targets.engines.slurm.SlurmEngine", "cluster": "local"})
    folder = tmp_path / "data" / "run"
    folder.mkdir(parents=True)
    with pytest.raises(ChildProcessError, match=r"^a job died twice \(state \w+.*\); its output is in .*\.jobs-"):
        list(engines.run(signal.raise_signal, [(signal.SIGKILL,)], 2, [folder]))
    assert capfd.readouterr().err == "1 jobs died; what they left is submitted once more\n"


def test_a_full_disk_is_named_where_a_job_cannot_even_say_so(tmp_path: Path) -> None:
    check_room(tmp_path)
    with files_of_at_most(1000), pytest.raises(OSError, match="File too large") as full:
        check_room(tmp_path)
    assert one_line(full.value).startswith(f"{tmp_path}/room: ") and not list(tmp_path.iterdir())


@pytest.mark.parametrize("parameters", [{"acount": "us"}, {"slurm_acount": "us"}, {"tasks_per_node": "two"}])
def test_parameters_that_submitit_does_not_know_are_named(tmp_path: Path, parameters: dict[str, Any]) -> None:
    pytest.importorskip("submitit", reason="needs the extra `sweep`")
    (name,) = parameters
    with pytest.raises(ValueError, match=rf"^engine\.parameters=.*{name}.*: expected parameters of submitit"):
        SlurmEngine(cluster="local", parameters=parameters)._submitted(print, {0: ()}, 1, tmp_path)
    assert composed("data=digits", *ON_SLURM, "+engine.parameters.slurm_account=us")["engine"]["parameters"]


@needs_proc
def test_jobs_end_with_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Also where interrupts are ignored, as by a command in the background."""
    engines.choose({"_target_": "palisade.targets.engines.slurm.SlurmEngine", "cluster": "local"})
    folder = tmp_path / "data" / "run"
    folder.mkdir(parents=True)
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        results = engines.run(time.sleep, [(0,), (100,)], 2, [folder])
        assert next(results) is None and of_submitit(tmp_path)
        capfd.readouterr()
        results.close()  # as Ctrl-C does
    finally:
        signal.signal(signal.SIGINT, heard)
    assert capfd.readouterr().err == "", "of submitit's processes"
    end = time.monotonic() + 30
    while of_submitit(tmp_path):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert not list((tmp_path).rglob(".jobs*"))


def carried(run: Run, function: Callable[..., Any], item: tuple[Any, ...]) -> Any:
    """Outcome and changes of an item that travels as by Ray, without Ray; and all that travelled, there and back."""
    shutil.copy(run.folder / "private" / "secret", run.folder / "private" / "release_secret")  # as if it was shipped
    content, numbers = pickled((function, item), {7: run.folder})
    assert numbers == [7]
    data, files = run.dataset, packed(run.folder)
    configs = [value for value in item if isinstance(value, dict) and "data" in value]
    texts = tuple(map(data_settings, [run.config, *configs]))
    parcel = Parcel(work=content, names={7: run.name}, user_chosen={7: True}, data_settings=texts, device="cpu")
    secret, keys = run.secret, []

    def ask(number: int, question: KeyQuestion) -> bytes:
        assert number == 7
        keys.append(answer(secret, question))
        return keys[-1]

    back = parcel.carried_out(ask, [files], [data] * len(texts))
    assert keys, loaded(back, {7: run.folder})
    travelled = pickle.dumps((parcel, files, keys)) + back
    for form in (secret.value, secret.value.hex().encode(), b"unspoken", str(run.folder).encode()):
        assert form not in travelled
    return loaded(back, {7: run.folder})


@pytest.mark.parametrize("words", [SMALL_FLEET, NOISY_FLEET], ids=["plain", "dp_sgd"])
def test_a_chunk_that_travels_is_the_same_and_takes_no_secret_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(worker, "_at_work", False)
    run = trained(tmp_path, *words, "fleet.workers=1", "fleet.models=3")
    before, log = weights(run), (run.folder / "train.log").read_text()
    settings = {**resolved(composed(*words), run.dataset), "secret": None}
    for path in (run.folder / "models").glob("*"):
        path.unlink()
    (part,) = chunks(range(3), "auto")
    outcome, changes = carried(run, train_models, (settings, str(run.folder), run.name, part, None))
    assert not weights(run) and (run.folder / "train.log").read_text() == log
    with Progress(tmp_path, total=3) as line:
        for changed in changes.values():
            changed.apply(run.folder)
        assert outcome.delivered() is None
    assert weights(run) == before and line.done == 3
    assert run.is_complete() and len((run.folder / "train.log").read_text().splitlines()) > len(log.splitlines())


def test_an_evaluation_that_travels_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_at_work", False)
    run = trained(tmp_path, *SMALL_FLEET, "fleet.workers=1", "fleet.models=6")
    protocol = AttackProtocol(attacks={"lira": {"_target_": "palisade.attacks.LiRA"}})
    outcome, changes = carried(run, measure_and_keep, (run.folder, "none", protocol, *runs.fixed_on(run, protocol)))
    (place, result) = outcome.delivered()
    assert place == (run.folder, "none") and not run.metrics.exists()
    changes[7].apply(run.folder)
    assert stored_result(run, protocol).to_json() == result.to_json()
    travelled = run.metrics.read_bytes()
    run.metrics.unlink()
    (here,) = results_of([run], protocol)
    assert here.to_json() == result.to_json() and run.metrics.read_bytes() == travelled


def test_a_full_disk_of_a_node_is_named_with_the_node(expected: Run) -> None:
    with files_of_at_most(100), pytest.raises(OSError, match="File too large") as full:
        carried(expected, train_models, ({}, str(expected.folder)))
    assert f"palisade-{platform.node()}-" in str(full.value.filename)


def test_models_of_a_killed_worker_are_in_the_log(tmp_path: Path) -> None:
    """Its lines were lost with it; those of one that was preempted were not."""
    notes = progress.WorkerNotes()
    with progress.noting(notes):
        RunLog(folder=tmp_path).add_again([0, 1])
        RunLog(folder=tmp_path).add_again([2])
    assert [line.split(" ", 1)[1] for _, line in notes.log] == [
        "models 0, 1 trained by a worker that ended before it could say so"
    ]
    RunLog(folder=tmp_path).add_again([0, 1])  # processes that share the log have written it
    assert not (tmp_path / "train.log").exists()


THREE_ATTACKS = AttackProtocol(
    attacks={name: {"_target_": f"palisade.attacks.{name}"} for name in ("LossThreshold", "LiRA", "Correctness")}
)


@pytest.mark.parametrize("words", [(), pytest.param(ON_SLURM, marks=pytest.mark.slow)], ids=["local", "slurm"])
def test_the_attacks_on_one_run_spread_and_agree_to_the_byte(
    expected: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(worker, "_at_work", False)
    (whole,) = results_of([expected], THREE_ATTACKS)
    capfd.readouterr()
    written = expected.metrics.read_bytes()
    expected.metrics.unlink()
    shutil.rmtree(expected.folder / "signals")
    engines.choose(composed(*SMALL_FLEET, *words)["engine"])
    monkeypatch.setattr(engines, "count", lambda asked: 2)
    monkeypatch.setattr(runs, "MIN_SCORES_TO_CUT", 1)
    (cut,) = results_of([expected], THREE_ATTACKS)
    assert cut.to_json() == whole.to_json() and expected.metrics.read_bytes() == written
    assert "3/3 attacks · " in capfd.readouterr().err
    assert [path.name for path in (expected.folder / "signals").iterdir()] == ["none"], "scores are left"
    expected.metrics.unlink()


def test_a_run_travels_without_what_it_has_read(expected: Run) -> None:
    assert len(expected.dataset.x) and len(pickle.dumps(expected)) < 1000


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_engine_that_is_not_installed_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    spec_of = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda asked: None if asked == package else spec_of(asked))
    with pytest.raises(ValueError, match=rf"^engine=.*: expected the package {package}; pip install -e '\.\["):
        train_run(composed(*SMALL_FLEET, f"engine={name}"))


def test_slurm_is_missed_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"^engine\.cluster=slurm: expected a machine that may submit jobs of Slurm"):
        train_run(composed(*SMALL_FLEET, f"runs={tmp_path}", "engine=slurm"))
    assert not list(tmp_path.iterdir())


def test_tasks_of_ray_are_single_processes() -> None:
    pytest.importorskip("ray", reason="needs the extra `ray`")
    with pytest.raises(ValueError, match=r"^engine\.devices_per_model=2: expected 1"):
        train_run(composed(*SMALL_FLEET, "engine=ray", "+engine.devices_per_model=2"))
