"""Two real processes train one model of a run as one process does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from palisade.targets import engines
from palisade.targets.engines import LocalEngine
from palisade.train import composed, train_run

SMALL_RUN = ("data=digits", "network.hidden=[8]", "trainer.epochs=2", "fleet.models=1", "fleet.workers=1",
             "secret=together", "quiet=true",
             "trainer.optimizer._target_=torch.optim.SGD", "trainer.optimizer.lr=0.5")  # fmt: skip


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    engines.choose({"_target_": "palisade.targets.engines.local.LocalEngine"})


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("defense=dp_sgd", "defense.trainer.epochs=2")], ids=["plain", "dp_sgd"])
def test_two_processes_train_a_model_of_a_run_as_one_does(tmp_path: Path, words: tuple[str, ...]) -> None:
    states, logs = [], []
    for count in (1, 2):
        settings = composed(f"runs={tmp_path / str(count)}", *SMALL_RUN, *words, f"engine.devices_per_model={count}")
        folder = Path(train_run(settings)["folder"])
        states.append(load_file(folder / "models" / "0.safetensors"))
        logs.append((folder / "train.log").read_text().count("models 0 trained"))
        summary = (folder / "summary.json").read_text()
    assert logs == [1, 1] and "epsilon" in summary
    alone, together = states
    for name, value in alone.items():
        assert not value.equal(together[name]) or value.numel() < 20, "summed in another order"
        assert value.allclose(together[name], atol=1e-5), name


def test_workers_have_as_many_gpus_as_train_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALISADE_DEVICE", "auto")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    engine = LocalEngine(devices_per_model=2)
    assert engine._gpus() == ["0,1", "2,3"] and engine.count("auto") == 2
