"""The script for a GPU runs without one, on tiny sizes, so that it works the day there is one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from palisade.targets.device import DEVICE_VARIABLE

SCRIPT_PATH = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv(DEVICE_VARIABLE, "cpu")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT_PATH)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_benchmark", module)
    spec.loader.exec_module(module)

    def called(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT_PATH), *arguments])
        module.main()

    return called


def test_every_section_runs(run, capsys):
    run("--device", "cpu", "--tiny")
    printed = capsys.readouterr().out
    assert printed.count("twice bit-equal: yes") == 2
    assert printed.count("off by 0.0e+00") == 2
    assert "ms a step and model" in printed
    assert printed.count("images/s") == 2
    assert "MISSED" not in printed
    assert not torch.are_deterministic_algorithms_enabled()


def test_sections_beyond_the_time_are_left_out(run, capsys):
    run("--device", "cpu", "--tiny", "--minutes", "0")
    assert capsys.readouterr().out.count("left out after") == 4


def test_without_a_gpu_it_is_refused_in_one_line(run, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("device=cuda: expected a GPU") and printed.err.count("\n") == 1
