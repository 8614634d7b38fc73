"""Run folders: the same settings meet the same run, anything else does not, and nothing is half there."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from palisade.data import dataset
from palisade.data.dataset import from_config
from palisade.data.secret import Secret
from palisade.evaluation.measuring.runs import results_of
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.signals.stored import answers
from palisade.targets import RESULTS_VERSION
from palisade.targets.files import temporary_path
from palisade.targets.run import Run, canonical, find, identity
from palisade.train import train_run

TINY_RUN = ["data=digits", "trainer.epochs=1", "fleet.models=2", "fleet.workers=1"]


def name(settings) -> str:
    return identity(settings, from_config(settings))


@pytest.mark.parametrize("same", ["fleet.models=5", "fleet.workers=2", "fleet.at_once=1", "secret=x", "plan=true"])
def test_settings_that_do_not_change_a_model_do_not_change_the_run(compose, same):
    assert name(compose(*TINY_RUN)) == name(compose(*TINY_RUN, same))


@pytest.mark.parametrize(
    "other",
    ["trainer.epochs=2", "seed=1", "split.pool=0.6", "membership.share=0.4", "network.hidden=[64]", "defense=l2",
     "trainer.optimizer.lr=0.5", "data=breast_cancer"],
)  # fmt: skip
def test_settings_that_change_a_model_change_the_run(compose, other):
    assert name(compose(*TINY_RUN)) != name(compose(*TINY_RUN, other))


def test_one_and_one_point_zero_agree():
    assert canonical({"a": 1, "b": [True, 2]}) == canonical({"a": 1.0, "b": (True, 2.0)})
    assert canonical(True) is True and canonical(float("inf")) == "inf"


def test_changed_data_never_meet_an_old_run(compose, tmp_path):
    path, rng = tmp_path / "mine.npz", np.random.default_rng(0)
    x, y = rng.random((40, 3), dtype=np.float32), np.arange(40) % 2
    names = []
    for value in (0.25, 0.5):
        x[7, 1] = value
        np.savez(path, x=x, y=y)
        dataset._load.cache_clear()
        names.append(name(compose("data=npz", f"data.path={path}")))
    assert names[0] != names[1]


def test_one_byte_of_the_data_or_another_version_of_results_is_another_run(compose, tmp_path, monkeypatch):
    path, x = tmp_path / "mine.npz", np.random.default_rng(0).random((40, 3), dtype=np.float32)
    settings, names = compose("data=npz", f"data.path={path}"), []
    for bit in (0, 0, 1):
        x.view(np.uint8)[7, 1] ^= bit
        np.savez(path, x=x, y=np.arange(40) % 2)
        dataset._load.cache_clear()
        names.append(name(settings))
    monkeypatch.setattr("palisade.targets.run.RESULTS_VERSION", RESULTS_VERSION + 1)
    names.append(name(settings))
    assert names[0] == names[1] and len({*names}) == 3


def test_place_of_the_data_does_not_change_the_run(compose, tmp_path):
    x, y = np.random.default_rng(0).random((40, 3), dtype=np.float32), np.arange(40) % 2
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / "mine.npz", x=x, y=y)
    one, other = (name(compose("data=npz", f"data.path={tmp_path}/{folder}/mine.npz")) for folder in ("a", "b"))
    assert one == other


def test_secret_is_private_and_membership_is_recomputed_from_it(compose):
    run = Run(Path(train_run(compose(*TINY_RUN))["folder"]))
    private = run.folder / "private"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert stat.S_IMODE((private / "secret").stat().st_mode) == 0o600
    hidden = run.secret.value.hex()
    others = [path for path in run.folder.rglob("*") if path.is_file() and path.parent != private]
    assert others and not any(hidden in path.read_bytes().decode("latin1") for path in others)
    membership = run.membership()
    assert membership.shape == (2, len(run.dataset.split.pool)) and 0.4 < membership.mean() < 0.6


@pytest.mark.parametrize("models", [2, 3])
def test_another_secret_is_refused(compose, models):
    train_run(compose(*TINY_RUN, "secret=one"))
    with pytest.raises(
        ValueError, match=r"secret=…: expected the one that .* was trained with; set it, or remove that folder"
    ):
        train_run(compose(*TINY_RUN, "secret=two", f"fleet.models={models}"))


def test_data_that_changed_after_training_are_refused(compose, tmp_path):
    path, rng = tmp_path / "mine.npz", np.random.default_rng(0)
    x, y = rng.random((90, 3), dtype=np.float32), np.arange(90) % 2
    np.savez(path, x=x, y=y)
    small = ["data=npz", f"data.path={path}", "trainer.batch_size=8", *TINY_RUN[1:]]
    folder = Path(train_run(compose(*small))["folder"])
    assert Run(folder).dataset.name == "mine"
    np.savez(path, x=x[::-1], y=y)
    dataset._load.cache_clear()
    with pytest.raises(ValueError, match=r"the data of .* have changed since its models were trained; bring them back"):
        _ = Run(folder).dataset


def test_damaged_model_is_named(compose):
    run = Run(Path(train_run(compose(*TINY_RUN))["folder"]))
    path = run.folder / "models" / "1.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"1\.safetensors is damaged .*; remove it and complete.json, and train again"):
        answers(run, "test")


@pytest.mark.parametrize("completion", [{"models": 2}, {"models": 2, "results_version": RESULTS_VERSION - 1}], ids=str)
def test_a_run_of_another_version_is_refused_in_one_line(compose, tmp_path, completion):
    run = Run(Path(train_run(compose(*TINY_RUN))["folder"]))
    assert [each.folder for each in find(tmp_path / "runs", "digits", None)] == [run.folder]
    (run.folder / "complete.json").write_text(json.dumps(completion))
    for refused in (lambda: find(tmp_path / "runs", "digits", None), lambda: Run.existing(run.folder)):
        with pytest.raises(ValueError, match="another version") as error:
            refused()
        assert run.folder.name in str(error.value) and "\n" not in str(error.value)


def test_audit_is_that_of_the_whole_fleet_and_hides_exact_counts(compose):
    settings = compose(*TINY_RUN, "fleet.models=3")
    run = Run(Path(train_run(settings)["folder"]))
    assert run.audit() == []
    list(results_of([run], AttackProtocol(attacks={"loss": {"_target_": "palisade.attacks.LossThreshold"}})))
    audit = run.audit()
    assert {row["metric"] for row in audit} >= {"auc", "tpr@1%fpr", "ppv@10%prior", "unscored"}
    assert all(row["value"] is None or row["value"] == round(row["value"], 3) for row in audit)
    train_run(compose(*TINY_RUN, "fleet.models=4"))
    assert run.audit() == []


def test_only_missing_models_are_trained(compose):
    settings = compose(*TINY_RUN, "fleet.models=3", "fleet.at_once=1", "secret=s")
    run = Run(Path(train_run(settings)["folder"]))
    before = {path.name: path.read_bytes() for path in (run.folder / "models").glob("*.safetensors")}
    (run.folder / "models" / "1.safetensors").unlink()
    (run.folder / "complete.json").unlink()
    assert train_run(settings)["status"] == "trained"
    after = {path.name: path.read_bytes() for path in (run.folder / "models").glob("*.safetensors")}
    assert before == after
    assert train_run(settings)["status"] == "cached"


def test_run_that_was_killed_while_it_was_created_is_trained(compose):
    """A secret without the seal of the data, or half a secret, must not stand in the way of all that comes."""
    settings = compose(*TINY_RUN)
    run = Run.of(settings, from_config(settings))
    (run.folder / "private").mkdir(parents=True)
    Secret.from_text("kept").save(run.folder / "private" / "secret")
    (run.folder / "private" / temporary_path(Path("secret"))).write_text("sys")
    train_run(settings)
    assert run.secret == Secret.from_text("kept") and Run(run.folder).dataset.name == "digits"


def test_run_that_another_process_finished_in_the_meantime_is_not_trained_again(compose, monkeypatch):
    settings = compose(*TINY_RUN, "secret=s")
    folder = Path(train_run(settings)["folder"])
    before = {path: path.stat().st_mtime_ns for path in (folder / "models").iterdir()}
    seen = iter([[0, 1]])  # as if it had been looked at before the other process was done
    monkeypatch.setattr(Run, "missing", lambda self, *args, true=Run.missing: next(seen, None) or true(self, *args))
    train_run(settings)
    assert {path: path.stat().st_mtime_ns for path in (folder / "models").iterdir()} == before


def test_failed_run_leaves_the_reason_and_nothing_else(compose):
    settings = compose(*TINY_RUN, "trainer.optimizer.lr=1e30")
    run = Run.of(settings, from_config(settings))
    with pytest.raises(ValueError, match="model 0 diverged"):
        train_run(settings)
    assert {path.name for path in run.folder.iterdir()} == {"FAILED", ".lock", "train.log"}
    assert "model 0 diverged: its weights are not finite" in (run.folder / "FAILED").read_text()
    assert not run.is_complete()


def test_run_that_another_process_holds_is_skipped(compose):
    settings = compose(*TINY_RUN)
    run = Run.of(settings, from_config(settings))
    with run.lock() as mine:
        assert mine
        assert train_run(settings)["status"] == "skipped"


def test_runs_by_data_folder_or_pattern(compose, tmp_path):
    runs = tmp_path / "runs"
    one = Path(train_run(compose(*TINY_RUN))["folder"])
    other = Path(train_run(compose(*TINY_RUN, "seed=1"))["folder"])
    assert {run.folder for run in find(runs, "digits", None)} == {one, other}
    assert [run.folder for run in find(runs, None, str(one))] == [one]
    assert {run.folder for run in find(runs, None, str(runs / "*"))} == {one, other}
    with pytest.raises(ValueError, match=r"data=wine: expected a complete run, .* holds digits; choose one of them"):
        find(runs, "wine", None)
    with pytest.raises(ValueError, match="neither data nor runs is given"):
        find(runs, None, None)
    with pytest.raises(ValueError, match=r"is no complete run; give a folder that train.py printed"):
        Run.existing(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_place_that_cannot_be_written_is_an_error(compose, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        train_run(compose(*TINY_RUN))
