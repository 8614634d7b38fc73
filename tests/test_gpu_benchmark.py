"""The script for a GPU runs without one, on tiny sizes, so that it works the day there is one."""

from __future__ import annotations

import importlib.util
import lzma
import sys
from pathlib import Path

import pytest
import simulated_device  # noqa: F401 (before the first backward pass of the process, as the script does)
import torch

from palisade.data.images import CIFAR10
from palisade.targets.device import DEVICE_VARIABLE

SCRIPT_PATH = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
TEST_BATCH = Path("cifar-10-batches-py/test_batch")
SHARED_BATCH = SCRIPT_PATH.parents[2] / "shared" / "data" / "cifar10" / f"{TEST_BATCH}.xz"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setenv(DEVICE_VARIABLE, "cpu")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT_PATH)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_benchmark", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(monkeypatch, script):
    def called(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT_PATH), *arguments])
        script.main()

    return called


@pytest.mark.slow
def test_every_section_runs_and_is_written_to_a_page(run, capsys, tmp_path):
    run("--device", "cpu", "--tiny", "--out", str(tmp_path / "gpu.md"))
    printed = capsys.readouterr().out
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert page.startswith("`python benchmarks/gpu.py --device cpu") and page.endswith(f"```\n{printed}```\n")
    assert printed.count("twice bit-equal: yes") == 2
    assert printed.count("off by 0.0e+00") == 2
    assert "ms a step and model" in printed
    assert printed.count("images/s") == 3 and "WRN-16-1, DP-SGD: " in printed
    counts = [
        line.rsplit(None, 2) for line in printed.splitlines() if line.split(",")[-1].strip()[:5] in ("waits", "kerne")
    ]
    assert [(place, float(count) > 0) for _, place, count in counts] == 3 * [("–", True), ("–", False)]
    assert "left out without --root" in printed
    assert "MISSED" not in printed
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.skipif(not SHARED_BATCH.is_file(), reason="no ../shared/data/cifar10")
def test_accuracies_are_those_of_the_test_records_by_epoch(script, capsys, tmp_path, monkeypatch):
    (tmp_path / TEST_BATCH).parent.mkdir()
    (tmp_path / TEST_BATCH).write_bytes(lzma.decompress(SHARED_BATCH.read_bytes()))
    monkeypatch.setattr(CIFAR10, "checksums", {"test_batch": CIFAR10.checksums["test_batch"]})
    few = ("split.pool=64", "split.test=20", "trainer.batch_size=16")
    script.resnet_accuracy(tmp_path, script.TINY_SIZES, *few)
    printed = capsys.readouterr().out
    assert "after 1 epochs" in printed and "94% not reached" in printed and "for 64 one after the other" in printed
    monkeypatch.setattr(script, "ACCURACY_GOAL", 0.0)
    script.resnet_accuracy(tmp_path, script.TINY_SIZES, *few)
    assert "0% after 1 epochs" in capsys.readouterr().out


def test_sections_beyond_the_time_are_left_out(run, capsys):
    run("--device", "cpu", "--tiny", "--minutes", "0")
    assert capsys.readouterr().out.count("left out after") == 6


def test_without_a_gpu_it_is_refused_in_one_line(run, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("device=cuda: expected a GPU") and printed.err.count("\n") == 1
