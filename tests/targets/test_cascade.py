"""Further shadows of a run: anchors hold, coins and noise are their own, nothing public tells of them, they resume."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hydra import compose as compose_command
from hydra import initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file

from palisade.attacks import Cascading
from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.evaluation.measuring.runs import results_of
from palisade.evaluation.plan import cost_of_attacks
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.settings import EvaluationSettings
from palisade.evaluation.signals.signals import view
from palisade.evaluation.signals.stored import answers
from palisade.targets.cascade import Stage
from palisade.targets.checkpoints import weights_path
from palisade.targets.guards import NoGuard
from palisade.targets.guards.registry import guards_of
from palisade.targets.run import Run
from palisade.targets.training import make_fitter
from palisade.train import train_run

SMALL_RUN = ("data=digits", "trainer.epochs=2", "network.hidden=[]", "fleet.workers=1", "secret=cascade")
CASCADING_ATTACK = {"cascading": {"_target_": "palisade.attacks.Cascading", "targets": 2, "shadows": 6}}
TWO_ATTACKS = AttackProtocol(attacks={**CASCADING_ATTACK, "lira": {"_target_": "palisade.attacks.LiRA"}})


@pytest.fixture
def trained(compose, monkeypatch):
    monkeypatch.setattr("palisade.targets.engines.count", lambda workers: 1)
    return lambda *overrides: Run(Path(train_run(compose(*SMALL_RUN, "fleet.models=6", *overrides))["folder"]))


def anchors(run: Run) -> tuple[np.ndarray, np.ndarray]:
    drawn = np.random.default_rng(0).random(len(run.dataset.split.pool))
    return drawn < 0.2, drawn > 0.8


def test_all_shadows_agree_on_anchors_and_on_nothing_else(trained):
    run = trained()
    inside, outside = anchors(run)
    stage, split = Stage.of(run.folder, 0, inside, outside), run.dataset.split
    rows = stage.membership(run.config, split, range(40))
    rest = ~(inside | outside)
    assert rows[:, inside].all() and not rows[:, outside].any()
    assert abs(rows[:, rest].mean() - 0.5) < 0.02 and rows[:, rest].any(axis=0).all()
    np.testing.assert_array_equal(stage.membership(run.config, split, [7])[0], rows[7])
    of_another = Stage.of(run.folder, 1, inside, outside).membership(run.config, split, range(40))
    assert abs((rows ^ of_another)[:, rest].mean() - 0.5) < 0.02
    assert abs((rows[:6] ^ run.membership())[:, rest].mean() - 0.5) < 0.05


def test_a_stage_has_a_secret_of_its_own_and_keeps_the_recipe(trained):
    run = trained("defense=dp_sgd", "defense.trainer.epochs=2")
    inside, outside = anchors(run)
    stages = [Stage.of(run.folder, 0, inside, outside), Stage.of(run.folder, 0, outside, inside)]
    secrets = [run.secret, *(stage.secret for stage in stages)]
    assert len({secret.value for secret in secrets}) == 3
    fitter = stages[0].fitter(run.config, run.dataset, [0])
    own = make_fitter(run.config, run.dataset, run.secret, [0], Membership(**run.config["membership"]))
    assert (fitter.size, fitter.schedule) == (own.size, own.schedule) and fitter.defense == own.defense
    stages[0].train(run.config, NoGuard(), 2)
    assert not stages[0].missing(NoGuard(), 2)
    one, other = (load_file(weights_path(folder, 0)) for folder in (run.folder, stages[0].folder))
    assert any((one[name] != other[name]).any() for name in one)


def test_what_is_missing_is_trained_again(trained):
    run = trained()
    stage = Stage.of(run.folder, 0, *anchors(run))
    stage.train(run.config, NoGuard(), 4)
    paths = [weights_path(stage.folder, k) for k in range(4)]
    before = [path.read_bytes() for path in paths]
    paths[2].unlink()
    assert stage.missing(NoGuard(), 4) == [2]
    others = [path.stat().st_mtime_ns for path in (paths[0], paths[3])]
    stage.train(run.config, NoGuard(), 4)
    assert [path.stat().st_mtime_ns for path in (paths[0], paths[3])] == others
    for path, content in zip(paths, before, strict=True):
        one, other = load_file(path), path.with_name("before")
        other.write_bytes(content)
        for name, value in load_file(other).items():
            assert np.allclose(one[name], value, atol=1e-6)  # trained alone, a model rounds otherwise than in a stack


def test_only_the_owner_sees_it_and_no_name_is_a_guess_that_can_be_tested(trained):
    run = trained()
    public = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    inside, outside = anchors(run)
    stage = Stage.of(run.folder, 0, inside, outside)
    assert (run.folder / "cascade").stat().st_mode & 0o777 == 0o700
    assert (stage.folder / "anchors.npz").stat().st_mode & 0o777 == 0o600
    stage.train(run.config, NoGuard(), 2)
    assert all(path.read_bytes() == content for path, content in public.items()), "files of the run were changed"
    new = {path for path in run.folder.rglob("*") if path.is_file()} - set(public)
    assert all(path.is_relative_to(run.folder / "cascade") for path in new)
    Secret.from_text("another").save(run.folder / "private" / "secret")
    assert Stage.of(run.folder, 0, inside, outside).name != stage.name, "the name follows from the anchors alone"


def test_an_evaluation_trains_attacks_and_keeps_them(trained, capsys):
    run = trained()
    (result,) = results_of([run], TWO_ATTACKS)
    assert "trains up to 6 further shadows of model 1" in capsys.readouterr().err
    assert result.attacks == ["cascading", "lira"] and result.strongest == "lira"
    row = result.get("auc", attack="cascading")
    assert row.low is None and 0.3 < row.value < 1
    assert {other.model for other in result.rows if other.attack == "cascading" and other.model != "all"} == {0, 1}
    trained_at = {path: path.stat().st_mtime_ns for path in run.folder.glob("cascade/*/*/models/*.safetensors")}
    assert len(trained_at) == 12
    run.metrics.unlink()
    (again,) = results_of([run], TWO_ATTACKS)
    assert again.rows == result.rows
    assert trained_at == {path: path.stat().st_mtime_ns for path in trained_at}
    metrics = json.loads(run.metrics.read_text())
    assert "anchors" not in json.dumps(metrics)


def test_shadows_stand_behind_the_guard_of_their_target(trained):
    run = trained("guard=topk", "guard.k=3")
    behind = Run(run.folder, guards_of(run.folder)[1])
    seen = view(behind, threats=[Cascading().threat])
    inside, outside = anchors(run)
    shadows = seen.further_shadows(1, inside, outside, 4)
    rest = ~(inside | outside)
    assert shadows.top_k == 3 and shadows.outputs == seen.outputs and shadows.models == 5
    assert ((shadows.probabilities > 0).sum(axis=-1) <= 3).all()
    np.testing.assert_array_equal(shadows.probabilities[0], answers(behind, "pool").of(1)[rest])
    assert not shadows.membership[0].any()


@pytest.mark.parametrize(
    "overrides",
    [("membership.how=complementary",), ("membership.how=fixed",), ("canary=clean", "canary.count=40")],
    ids=lambda overrides: overrides[0],
)
def test_is_skipped_with_the_reason_where_memberships_are_no_independent_coins(trained, overrides):
    (result,) = results_of(
        [trained(*overrides)],
        AttackProtocol(attacks={**CASCADING_ATTACK, "loss": {"_target_": "palisade.attacks.LossThreshold"}}),
    )
    assert result.skipped["cascading"].startswith(("needs to train further shadows", "needs models that did"))


def test_a_plan_says_what_attacks_train(trained):
    run = trained()
    cost = cost_of_attacks(run, TWO_ATTACKS.attacks_on(run))
    assert cost["models"] == cost["missing"] == 12 and cost["minutes"] > 0


def test_a_plan_of_something_else_is_refused_before_it_trains():
    with initialize_config_dir(str(Path(__file__).parents[2] / "conf"), version_base="1.3"):
        settings = OmegaConf.to_container(compose_command("evaluate", ["data=digits", "study=queries", "plan=true"]))
    with pytest.raises(ValueError, match="plan=true"):
        EvaluationSettings.parsed(settings)
