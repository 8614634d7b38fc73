"""Losses of edited copies of documents: workers ask a few models each, to the bytes of one process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from palisade.evaluation.measuring import runs
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.signals.documents import copy_losses, lacks_neighbor_losses, neighbor_losses
from palisade.targets.run import Run
from palisade.train import composed, train_run

AUDIT_SETTINGS = {"audit": {"_target_": "palisade.attacks.LossThreshold"}, "guesses": None}


def protocol(name: str) -> AttackProtocol:
    return AttackProtocol(attacks={name: {"_target_": f"palisade.attacks.{name}"}}, threat=AUDIT_SETTINGS)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder, rng = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
    words = np.array(["ann", "bob", "cat", "dog", "eel", "fox"])
    texts = [" ".join(rng.choice(words, rng.integers(2, 6))) for _ in range(90)]
    (folder / "own.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    settings = composed(
        *("data=documents", f"data.path={folder}/own.jsonl", "data.length=20", f"runs={folder}/runs", "quiet=true"),
        *("network=gpt", "network.width=8", "network.depth=1", "network.heads=2", "trainer.epochs=1"),
        *("trainer.batch_size=8", "fleet.models=3", "fleet.workers=1", "split.pool=40", "split.population=20"),
    )
    return Run(Path(train_run(settings)["folder"]))


def test_workers_ask_a_few_models_each(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []
    original = runs.copy_losses_of_some
    monkeypatch.setattr(runs, "MODELS_AT_ONCE", 2)
    monkeypatch.setattr(runs, "copy_losses_of_some", lambda *item: (asked.append(item[1]), original(*item))[1])
    neighbors = protocol("Neighbors")
    threats = [attack.threat for attack in neighbors.attacks_on(run)]
    runs.ask_about_copies([run], protocol("LossThreshold"))
    assert not asked and lacks_neighbor_losses(run, threats), "nobody looks at copies"
    runs.ask_about_copies([run], neighbors)
    assert asked == [[0, 1], [2]] and not lacks_neighbor_losses(run, threats)
    losses = neighbor_losses(run)
    assert losses is not None and losses.tobytes() == copy_losses(run).tobytes() and len(np.unique(losses[:, 0])) > 3
    runs.ask_about_copies([run], neighbors)
    assert len(asked) == 2, "a file holds them"
