"""White-box signals of a run that was trained, against plain loops over its models."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from palisade.attacks import Alignment, GradientNorm, Trajectory, View, WhiteBox
from palisade.data.split import Membership
from palisade.evaluation.measuring import runs
from palisade.evaluation.protocol import BLACK_BOX, AttackProtocol
from palisade.evaluation.signals.inner import inner_signals, inside, unmeasured
from palisade.evaluation.statistics.metrics import roc_auc
from palisade.targets.run import Run
from palisade.targets.training import load_fleet, make_fitter
from palisade.train import train_run

FLEET_MODELS = 3
RUN_SETTINGS = [
    "data=digits",
    "trainer.epochs=3",
    "split.pool=0.1",
    "trainer.batch_size=16",
    f"fleet.models={FLEET_MODELS}",
]
RUN_SETTINGS += ["fleet.workers=1", "secret=s", "network.hidden=[16]"]


WHITE_BOX = ("gradient_norms", "activation_norms", "alignment")


def inner(run: Run) -> dict[str, np.ndarray]:
    return inside(run, (*WHITE_BOX, "trajectory"), run.models())


@pytest.fixture
def make(compose):
    def trained(*overrides: str) -> Run:
        return Run(Path(train_run(compose(*RUN_SETTINGS, *overrides))["folder"]))

    return trained


def weights(run: Run, model: int) -> list[dict[str, torch.Tensor]]:
    """Initial, kept and final weights."""
    fitter = make_fitter(run.config, run.dataset, run.secret, [model], Membership())
    checkpoints = [run.folder / "models" / f"{model}.epoch{epoch}.safetensors" for epoch in run.checkpoints()]
    paths = [*checkpoints, run.folder / "models" / f"{model}.safetensors"]
    return [fitter.initial_network(model).state_dict(), *(load_file(path) for path in paths)]


def network_of(run: Run, state: dict[str, torch.Tensor]) -> torch.nn.Module:
    network = make_fitter(run.config, run.dataset, run.secret, [0], Membership()).initial_network(0)
    network.load_state_dict(state)
    return network.eval()


def test_signals_equal_plain_loops(make):
    run = make("fleet.keep_checkpoints=2")
    pool = run.dataset.split.pool
    x, y = torch.from_numpy(run.dataset.x[pool]), torch.from_numpy(run.dataset.y[pool])
    signals = inner(run)
    losses = signals.pop("trajectory")
    assert signals["gradient_norms"].shape == signals["activation_norms"].shape == (FLEET_MODELS, len(pool), 2)
    assert losses.shape == (FLEET_MODELS, len(pool), 3)
    assert {array.dtype for array in (*signals.values(), losses)} == {np.dtype(np.float32)}
    model, records = 1, range(4)
    path = weights(run, model)
    for position, state in enumerate(path[1:]):
        expected = F.cross_entropy(network_of(run, state)(x), y, reduction="none").detach().numpy()
        np.testing.assert_allclose(losses[model, :, position], expected, rtol=1e-3, atol=1e-6)
    for i in records:
        total = 0.0
        for start, end in itertools.pairwise(path):
            network = network_of(run, start)
            F.cross_entropy(network(x[i : i + 1]), y[i : i + 1]).backward()
            gradient = {name: p.grad for name, p in network.named_parameters()}
            length = torch.cat([(end[name] - start[name]).flatten() for name in gradient]).norm()
            total -= sum(float((gradient[name] * (end[name] - start[name])).sum()) for name in gradient) / length
        assert signals["alignment"][model, i] == pytest.approx(float(total), rel=1e-3, abs=1e-5)
        network = network_of(run, path[-1])
        F.cross_entropy(network(x[i : i + 1]), y[i : i + 1]).backward()
        last = network[2]
        norm = (last.weight.grad.square().sum() + last.bias.grad.square().sum()).sqrt()
        assert signals["gradient_norms"][model, i, 1] == pytest.approx(float(norm), rel=1e-3, abs=1e-6)


def test_without_checkpoints_there_is_the_way_from_start_to_end(make):
    run = make()
    signals = inner(run)
    assert run.checkpoints() == [] and signals["trajectory"].shape[2] == 1
    assert np.isfinite(signals["alignment"]).all()


def test_only_audited_records_are_looked_at(make):
    run = make("canary=label_noise", "canary.count=20")
    signals = inner(run)
    assert {array.shape[:2] for array in signals.values()} == {(FLEET_MODELS, 20)}
    assert signals["trajectory"].shape == (FLEET_MODELS, 20, 1)


def test_workers_look_inside_a_few_models_each(make, monkeypatch):
    run = make("fleet.keep_checkpoints=1")
    names = ("WhiteBox", "Trajectory", "LossThreshold")
    attacks = {name: {"_target_": f"palisade.attacks.{name}"} for name in names}
    protocol = AttackProtocol(attacks=attacks, threat={**BLACK_BOX, "weights": True})
    threats = [attack.threat for attack in protocol.attacks_on(run)]
    assert unmeasured(run, threats) == [*WHITE_BOX, "trajectory"]
    asked: list[list[int]] = []
    monkeypatch.setattr(runs, "MODELS_AT_ONCE", 2)
    original = runs.inside_some
    monkeypatch.setattr(runs, "inside_some", lambda *item: (asked.append(item[2]), original(*item))[1])
    runs.look_inside([run], protocol)
    assert asked == [[0, 1], [2]] and unmeasured(run, threats) == []
    whole = inner(run)
    for name, array in inner_signals(run, threats).items():
        assert array.tobytes() == whole[name].tobytes()
    runs.look_inside([run], protocol)
    assert len(asked) == 2, "files hold them"


def test_members_of_an_overfit_fleet_are_detected(make):
    run = make("fleet.keep_checkpoints=2", "fleet.models=6", "trainer.epochs=60", "canary=label_noise",
               "canary.count=100")  # fmt: skip
    split, signals = run.dataset.split, inner(run)
    shown = {"labels": run.dataset.y[split.audited], "membership": run.membership()[:, split.is_audited], **signals}
    view = View(
        logits=load_fleet(run.config, run.dataset, run.folder, run.models()).predict(run.dataset.x[split.audited]),
        **shown,
    )
    for attack in (GradientNorm(), WhiteBox(), Trajectory(), Alignment()):
        scores = attack.score(view)
        assert np.mean([roc_auc(*row) for row in zip(scores, view.membership, strict=True)]) > 0.7, attack.name


def test_the_referee_imports_no_torch():
    code = "import sys, palisade.evaluation.signals.signals; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
