"""Guards on a trained run: fitted to every model without training one anew, and met by every query."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palisade.data.queries import augmented
from palisade.evaluate import all_attacks
from palisade.evaluation.measuring.runs import results_of
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.signals.saved import predictions
from palisade.evaluation.signals.signals import view
from palisade.evaluation.signals.stored import answers
from palisade.evaluation.studies.study_runs import run_study
from palisade.targets.guards import Query, adversarial_noise, discriminator
from palisade.targets.guards.registry import guards_of, label, make_guard, state_path
from palisade.targets.run import Run, find
from palisade.targets.training import load_guarded
from palisade.train import composed, train_run

pytestmark = pytest.mark.usefixtures("undrawn")

FLEET_MODELS = 3
SMALL_SETTINGS = ("data=digits", "network.hidden=[]", "trainer.epochs=1", "split.reference=0.1", "split.pool=200")
FLEET_SETTINGS = (*SMALL_SETTINGS, "fleet.workers=1", "secret=guards")
ALL_GUARDS = ("memguard", "hamp_output", "topk", "rounding", "temperature", "label_only", "aggregate")


def trained(runs: Path, *overrides: str, models: int = FLEET_MODELS) -> dict[str, str]:
    return train_run(composed(f"runs={runs}", f"fleet.models={models}", *FLEET_SETTINGS, *overrides))


@pytest.fixture(scope="module", autouse=True)
def short_searches() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adversarial_noise, "MAX_SEARCH_STEPS", 40)
        patch.setattr(discriminator, "MAX_STEPS", 100)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    trained(folder)
    for guard in ALL_GUARDS:
        assert trained(folder, f"guard={guard}")["status"] == "trained"
    return folder


@pytest.fixture(params=ALL_GUARDS)
def run(runs: Path, request) -> Run:
    return behind(runs, request.param)


def cheap(known: dict[str, Any]) -> dict[str, Any]:
    """The attacks, with fewer queries."""
    return {**known, **{name: {**known[name], "copies": 1} for name in ("noise_agreement", "votes")}}


def behind(runs: Path, guard: str) -> Run:
    """The run behind a guard, with the settings of its YAML."""
    return Run(next((runs / "digits").glob("*/")), label(make_guard(composed(f"guard={guard}"))))


def test_a_guard_trains_no_model_anew(runs: Path) -> None:
    (folder,) = (runs / "digits").glob("*/")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("models/*.safetensors")}
    assert len(before) == FLEET_MODELS
    assert trained(runs, "guard=memguard")["status"] == "cached"
    assert trained(runs, "defense=memguard") == {"folder": str(folder), "status": "cached"}, "another name for it"
    assert trained(runs, "guard=topk", "guard.k=5") == {"folder": str(folder), "status": "trained"}
    assert {path: path.stat().st_mtime_ns for path in folder.glob("models/*.safetensors")} == before
    assert len([name for name in guards_of(folder) if name.startswith("topk-")]) == 2
    assert {"none", "hamp_output", "label_only"} < set(guards_of(folder))


def test_every_model_stands_behind_its_own_guard(run: Run) -> None:
    """Shadows without the guard, or behind that of another model, would not be what the target is."""
    plain, seen = Run(run.folder), view(run)
    data, split = run.dataset, run.dataset.split
    held = load_guarded(run.config, data, run.folder, run.models(), run.guard)
    for role, guarded in (("pool", seen), ("population", seen.population)):
        x, logits = data.x[getattr(split, role)], np.asarray(answers(plain, role))
        shown = guarded.predictions if held.guard.level == "label" else guarded.probabilities
        for k in range(FLEET_MODELS):
            ask = held.fleet.one(k).predict
            expected = held.guard.answer(Query(x, np.array(logits[k]), held.states[k], lambda x, ask=ask: ask(x)[0]))
            np.testing.assert_allclose(shown[k], expected, rtol=1e-5, atol=1e-7)
            if role == "pool":
                np.testing.assert_allclose(seen.query(k, x[:40]), expected[:40], rtol=1e-4, atol=1e-6)
    if "key" in held.states[0]:
        assert len({bytes(state["key"].numpy()) for state in held.states}) == FLEET_MODELS, "each has its own key"


def test_guarded_answers_are_not_the_models_own(run: Run) -> None:
    logits = np.array(answers(Run(run.folder), "pool"))
    for k, shown in enumerate(answers(run, "pool")):
        if run.registered_guard.level == "probabilities":
            exact = np.exp(logits[k] - np.logaddexp.reduce(logits[k], axis=1, keepdims=True))
            assert np.abs(shown - exact).max() > 1e-3
        else:
            assert shown.shape == logits[k].shape[:1]


def test_members_and_reference_play_their_parts_in_memguard(runs: Path) -> None:
    """Swapped, the discriminator would be a mirror image, and its noise none the worse for its looks."""
    memguard_run = behind(runs, "memguard")
    split, secret = memguard_run.dataset.split, memguard_run.secret
    members = split.pool[memguard_run.membership()[1]]
    held = load_guarded(
        memguard_run.config, memguard_run.dataset, memguard_run.folder, memguard_run.models(), memguard_run.guard
    )
    inside, outside = (
        held.fleet.one(1).predict(memguard_run.dataset.x[part])[0] for part in (members, split.reference)
    )
    weights = discriminator.fit(inside, outside, secret, 1)
    for name, weight in weights.items():
        np.testing.assert_array_equal(held.states[1][f"discriminator.{name}"], weight)


def test_shadows_are_known_without_their_guard_and_only_then(runs: Path) -> None:
    guarded = behind(runs, "label_only")
    seen = view(guarded, Grant(outputs="label"))
    np.testing.assert_array_equal(seen.unguarded_logits, answers(Run(guarded.folder), "pool"))
    assert view(Run(guarded.folder)).unguarded_logits is None


def test_evaluation_shows_a_run_once_for_each_guard(runs: Path) -> None:
    names = ("none", "memguard", "label_only")
    assert {run.guard for run in find(runs, "digits", None)} >= {behind(runs, name).guard for name in names}
    chosen = [behind(runs, name) for name in names]
    method = AttackProtocol(
        attacks={"loss": {"_target_": "palisade.attacks.LossThreshold"}}, adaptive=cheap(all_attacks())
    )
    by_guard = {one.guard: one for one in results_of(chosen, method)}
    assert set(by_guard) == {"none", "memguard", "label_only"}
    labels_alone = ["correctness", "calibrated_correctness", "noise_agreement", "votes"]
    assert by_guard["memguard"].attacks == ["loss", *labels_alone, "negated_classifier"]
    assert by_guard["label_only"].attacks == labels_alone
    assert by_guard["memguard"].released == "probabilities" and by_guard["label_only"].released == "label"
    assert "only labels are released" in by_guard["label_only"].skipped["loss"]
    accuracy = {name: one.get("test_accuracy").value for name, one in by_guard.items()}
    assert len(set(accuracy.values())) == 1, "the labels are the model's"
    for run in chosen:
        assert run.metrics.exists()
        assert (run.metrics.parent.name == run.guard) == (run.guard != "none")


def test_more_models_get_the_guard_they_lack(tmp_path: Path) -> None:
    folder = Path(trained(tmp_path, "guard=memguard", models=1)["folder"])
    name = label(make_guard(composed("guard=memguard")))
    first = state_path(folder, name, 0).stat().st_mtime_ns
    assert trained(tmp_path, models=2)["status"] == "trained", "whatever guard is chosen now"
    assert view(Run(folder, name)).models == 2
    state_path(folder, name, 1).unlink()
    with pytest.raises(
        ValueError,
        match=r"guard=memguard: expected to be fitted to all models of .*, and not to model 1 yet; train the run",
    ):
        view(Run(folder, name))
    assert trained(tmp_path, "guard=memguard", models=2)["status"] == "trained"
    assert trained(tmp_path, "guard=memguard", models=2)["status"] == "cached"
    assert state_path(folder, name, 0).stat().st_mtime_ns == first


def test_canaries_accuracy_and_several_queries_are_answered_by_the_guard(tmp_path: Path) -> None:
    """Aggregate changes classes, so what reads the bare models shows."""
    noisy = ("guard=aggregate", "guard.k=2", "guard.noise=4", "canary=label_noise", "canary.count=50")
    settings = composed(f"runs={tmp_path}", f"fleet.models={FLEET_MODELS}", *FLEET_SETTINGS, *noisy)
    guarded_run = Run(Path(train_run(settings)["folder"]), label(make_guard(settings)))
    data, held = (
        guarded_run.dataset,
        load_guarded(
            guarded_run.config, guarded_run.dataset, guarded_run.folder, guarded_run.models(), guarded_run.guard
        ),
    )
    test = data.x[data.split.test]
    np.testing.assert_array_equal(predictions(guarded_run, "test"), held.predict(test))
    assert (predictions(guarded_run, "test") != predictions(Run(guarded_run.folder), "test")).any()
    queries = ("plain", "mirrored")
    seen = view(guarded_run, queries=queries)
    canaries = data.x[data.split.canaries]
    expected = np.stack([held.predict(augmented(name, canaries)) for name in queries], axis=2)
    np.testing.assert_array_equal(seen.predictions, expected)
    assert seen.unguarded_logits.shape[:2] == (FLEET_MODELS, 50)


def test_memguard_refuses_students_of_its_non_members(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"guard=memguard: expected reference records .*, and Distillation"):
        trained(tmp_path, "guard=memguard", "defense=distillation", models=1)


def test_shadows_of_another_run_stand_behind_the_same_guard(tmp_path: Path) -> None:
    few = (f"runs={tmp_path}", "fleet.models=3", "fleet.workers=1")
    folders = [
        Path(train_run(composed(*few, *SMALL_SETTINGS, *more, guard))["folder"])
        for more in (["secret=a"], ["secret=b", "defense=l2"])
        for guard in ("guard=none", "guard=label_only")
    ]
    chosen = [Run(folder, guard) for folder in folders[::2] for guard in guards_of(folder)]
    protocol = AttackProtocol(
        attacks={"correctness": {"_target_": "palisade.attacks.Correctness"}}, adaptive=cheap(all_attacks())
    )
    rows = run_study({"name": "shadow_mismatch"}, chosen, protocol)
    assert len({(row.target, row.setting) for row in rows}) == 8, "each with two runs' shadows behind its own guard"


def test_a_guard_without_its_role_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"split\.reference=0"):
        train_run(
            composed(f"runs={tmp_path}", *FLEET_SETTINGS, "split.reference=0", "fleet.models=1", "guard=memguard")
        )
