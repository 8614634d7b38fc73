"""Guarded releases: the guard travels with the model, answers as it did, and says what it cannot do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from palisade.data.dataset import from_config
from palisade.data.secret import Secret
from palisade.targets.guards import GUARDS_BY_NAME, adversarial_noise, discriminator, grid
from palisade.targets.guards.probabilities import probabilities
from palisade.targets.guards.registry import make_guard
from palisade.targets.release import Release
from palisade.targets.shipping import GUARD_NOTE, ship
from palisade.targets.statement import Statement

DIGIT_IMAGES = load_digits().images[:60, None]


@pytest.fixture(autouse=True)
def short_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adversarial_noise, "MAX_SEARCH_STEPS", 40)
    monkeypatch.setattr(discriminator, "MAX_STEPS", 50)


@pytest.fixture
def released(compose, tmp_path):
    def make(*overrides: str) -> Release:
        small = ("data=digits", "network.hidden=[]", "trainer.epochs=1", "split.reference=0.1")
        ship(compose(*small, *overrides), [], Secret.from_text("s")).save(tmp_path / "released")
        return Release.load(tmp_path / "released")

    return make


@pytest.mark.parametrize(
    ("guard", "settings"),
    [
        ("memguard", {"budget": 1.0}),
        ("hamp_output", {}),
        ("topk", {"k": 3}),
        ("rounding", {"decimals": 2}),
        ("temperature", {"temperature": 5.0}),
    ],
)
def test_probabilities_go_through_the_guard(released, tmp_path: Path, guard: str, settings: dict[str, float]) -> None:
    release = released(f"guard={guard}")
    card = json.loads((tmp_path / "released" / "card.json").read_text())
    assert card["guard"] == {"name": guard, "settings": settings, "note": GUARD_NOTE} and card["access"] == "api"
    assert "if the weights leak, it protects nothing" in GUARD_NOTE
    assert (tmp_path / "released" / "guard.safetensors").exists() == (guard in ("memguard", "hamp_output"))
    shown = release.predict_proba(DIGIT_IMAGES)
    plain = Release(release.network, release.preprocessing, release.card).predict_proba(DIGIT_IMAGES)
    assert shown.shape == plain.shape and np.abs(shown - plain).max() > 1e-3
    np.testing.assert_allclose(release.predict_proba(DIGIT_IMAGES[::-1]), shown[::-1], rtol=1e-4, atol=1e-6)
    if guard == "topk":
        assert ((shown > 0).sum(axis=1) == 3).all()
    if release.guard.keeps_label:
        assert release.predict(DIGIT_IMAGES) == [release.classes[k] for k in plain.argmax(axis=1)]


def test_without_a_guard_probabilities_are_the_models(released, tmp_path: Path) -> None:
    release = released()
    assert release.card["guard"] == {"name": "none", "settings": {}, "note": None}
    assert {path.name for path in (tmp_path / "released").iterdir()} == {"card.json", "card.html", "model.safetensors"}
    inputs = release.preprocessing(DIGIT_IMAGES)
    np.testing.assert_array_equal(release.predict_proba(DIGIT_IMAGES), probabilities(release._logits(inputs)))
    with pytest.raises(ValueError, match=r"guard=none: expected aggregate, .*; call predict instead"):
        release.counts(DIGIT_IMAGES)


def test_label_only_gives_labels(released) -> None:
    release = released("guard=label_only")
    plain = Release(release.network, release.preprocessing, release.card)
    assert release.predict(DIGIT_IMAGES) == plain.predict(DIGIT_IMAGES)
    with pytest.raises(
        ValueError, match="guard=label_only: expected a guard that releases probabilities; call predict instead"
    ):
        release.predict_proba(DIGIT_IMAGES)


def test_aggregate_gives_noisy_counts_of_groups(released) -> None:
    release = released("guard=aggregate")
    plain = Release(release.network, release.preprocessing, release.card).predict(DIGIT_IMAGES)
    counts = release.counts(DIGIT_IMAGES)
    exact = np.array([plain.count(name) for name in release.classes])
    assert counts.shape == exact.shape and 0 < np.abs(counts - exact).max() < 10
    np.testing.assert_array_equal(release.counts(DIGIT_IMAGES[::-1]), counts)
    with pytest.raises(ValueError, match=r"guard\.k=10"):
        release.counts(DIGIT_IMAGES[:3])
    with pytest.raises(ValueError, match=r"guard=aggregate: expected .* single rows; call counts instead"):
        release.predict(DIGIT_IMAGES)
    with pytest.raises(
        ValueError, match="guard=aggregate: expected a guard that releases probabilities; call counts instead"
    ):
        release.predict_proba(DIGIT_IMAGES)


PRIVATE_CLAIM = Statement(guarantee=True, epsilon=8.0, delta=1e-5, accountant="PRV")


@pytest.mark.parametrize("name", sorted(GUARDS_BY_NAME))
def test_claim_holds_behind_a_guard_that_saw_no_members(compose, name: str) -> None:
    guard, digits = make_guard(compose(f"guard={name}")), from_config(compose("data=digits"))
    assert (guard.statement_after(PRIVATE_CLAIM, digits) == PRIVATE_CLAIM) == (name not in ("memguard", "memfree"))
    assert guard.statement_after(Statement.none(), digits) == Statement.none()


def test_card_names_what_a_guard_took_from_private_records(compose, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "mine.npz", x=rng.normal(size=(300, 4)), y=rng.integers(2, size=300))
    overrides = ("data=npz", f"data.path={tmp_path}/mine.npz", "network.hidden=[]", "trainer.epochs=1")
    cards = [ship(compose(*overrides, f"guard={name}"), [], Secret.from_text("s")) for name in ("none", "aggregate")]
    named = [set(card.statement.not_covered) for card in cards]
    assert (
        named[1] - named[0] == {grid.not_covered(from_config(compose(*overrides)))} and grid.STEP_KEY in cards[1].state
    )


def test_aggregate_says_what_its_noise_cannot_do(released, tmp_path: Path) -> None:
    released("guard=aggregate")
    note = json.loads((tmp_path / "released" / "card.json").read_text())["guard"]["note"]
    assert note.startswith(GUARD_NOTE) and "no differential privacy" in note


def test_raw_rows_that_differ_in_last_bits_get_the_same_counts(released) -> None:
    release = released("guard=aggregate")
    near = np.nextafter(DIGIT_IMAGES, 99)
    np.testing.assert_array_equal(release.counts(near), release.counts(DIGIT_IMAGES))


def test_card_of_a_guard_that_saw_members_claims_nothing(released) -> None:
    private = ("defense=dp_sgd", "defense.trainer.epochs=1", "split.reference=0.1")
    behind = released("guard=memguard", *private).statement
    assert not behind.guarantee and "guard=memguard was fitted on members without noise" in behind.warnings[0]


def test_weights_are_not_handed_out_beside_a_guard(compose) -> None:
    config = compose("data=digits", "guard=topk")
    config["release"] = {"access": "weights"}
    with pytest.raises(ValueError, match=r"release\.access=weights"):
        ship(config, [], Secret.from_text("s"))
    config["release"] = {"access": "everybody"}
    with pytest.raises(ValueError, match=r"release\.access=everybody"):
        ship(config, [], Secret.from_text("s"))


def test_handed_out_weights_are_on_the_card(compose) -> None:
    config = compose("data=digits", "network.hidden=[]", "trainer.epochs=1")
    config["release"] = {"access": "weights"}
    assert ship(config, [], Secret.from_text("s")).card["access"] == "weights"


def test_guard_without_its_role_is_refused(compose) -> None:
    with pytest.raises(ValueError, match=r"split\.reference=0"):
        ship(compose("data=digits", "guard=memguard"), [], Secret.from_text("s"))


def test_unknown_guard_on_a_card_runs_no_code(released, tmp_path: Path) -> None:
    released("guard=topk")
    path = tmp_path / "released" / "card.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, "guard": {"name": "os.system", "settings": {"command": "true"}}}))
    with pytest.raises(ValueError, match=r"guard=os\.system: expected one of none, memguard, .*; use the version that"):
        Release.load(tmp_path / "released")
