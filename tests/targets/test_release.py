"""Releases are usable on raw rows, have a card, and hold no trace of the secret."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from torch import nn

from palisade.data.dataset import CLASS_WORDS_NOT_COVERED, COUNTS_NOT_COVERED, REFERENCE_NOT_COVERED, from_config
from palisade.data.secret import Secret
from palisade.targets.release import Release
from palisade.targets.shipping import AUDIT_NOT_COVERED, _fitter, _trained_bases, ship

SMALL_RUN = ["trainer.epochs=3", "fleet.models=1"]
AUDIT_ROWS = [{"attack": "lira", "metric": "auc", "value": 0.6, "low": 0.5, "high": 0.7}]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    color = rng.choice(["red", "green"], 400)
    size = rng.normal(size=400)
    verdict = np.where((color == "red") ^ (size > 0), "yes", "no")
    frame = pd.DataFrame({"color": color, "size": size, "verdict": verdict})
    frame.to_csv(tmp_path / "things.csv", index=False)
    return tmp_path / "things.csv"


def test_release_predicts_words_from_raw_rows(compose, table, tmp_path):
    config = compose("data=csv", f"data.path={table}", "data.label=verdict", "trainer.epochs=60", "fleet.models=1")
    ship(config, AUDIT_ROWS, Secret.from_text("s")).save(tmp_path / "released")
    release = Release.load(tmp_path / "released")
    frame = pd.read_csv(table)
    predicted = release.predict(frame[["color", "size"]])
    assert set(predicted) <= {"yes", "no"}
    assert (np.array(predicted) == frame["verdict"]).mean() > 0.9
    probabilities = release.predict_proba(frame)
    assert probabilities.shape == (400, 2) and np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_card_tells_the_claim_the_audit_and_what_is_not_covered(compose, table, tmp_path):
    config = compose("data=csv", f"data.path={table}", "data.label=verdict", "defense=dp_sgd")
    config["defense"]["trainer"]["epochs"] = 2
    ship(config, AUDIT_ROWS, Secret.from_text("s")).save(tmp_path / "released")
    card = json.loads((tmp_path / "released" / "card.json").read_text())
    statement = card["statement"]
    assert statement["guarantee"] and 7.9 <= statement["epsilon"] <= 8
    assert statement["public_size"] == 280 and statement["delta"] == pytest.approx(280**-1.1)
    assert "given secret" in statement["randomness"]
    assert {COUNTS_NOT_COVERED, CLASS_WORDS_NOT_COVERED, AUDIT_NOT_COVERED} < set(statement["not_covered"])
    assert any("taken from the pool without noise" in sentence for sentence in statement["not_covered"])
    assert card["audit"]["results"] == AUDIT_ROWS and "not this" in card["audit"]["note"]
    assert "m releases" in card["cost"] and "m times its ε and m times its δ" in card["cost"]


@pytest.mark.parametrize(
    ("words", "bases"),
    [
        (["defense=dp_sgd"], 0),
        (["defense=deduplication", "defense@defense.base=dp_sgd"], 1),
        (["defense=dp_sgd", "defense@defense.base=label_smoothing"], 0),
    ],
)
def test_recipes_of_bases_are_those_that_train_something(compose, words, bases):
    config = compose("data=digits", *SMALL_RUN, *words)
    fitter = _fitter(config, from_config(config), Secret.from_text("s"))
    assert len(list(_trained_bases(fitter))) == bases and len(fitter.base_recipes) >= 1


def test_card_of_private_data_holds_neither_secret_nor_plain_hash(compose, table, tmp_path):
    config = compose("data=csv", f"data.path={table}", "data.label=verdict", *SMALL_RUN)
    secret = Secret.from_system()
    ship(config, AUDIT_ROWS, secret).save(tmp_path / "released")
    public = (tmp_path / "released" / "card.json").read_text()
    fingerprint = from_config(config).fingerprint
    assert secret.value.hex() not in public and fingerprint not in public
    assert json.loads(public)["data"]["checksum"] == f"hmac-sha256:{secret.seal(fingerprint.encode())}"


def test_card_of_published_data_holds_the_published_checksum(compose):
    config = compose("data=digits", *SMALL_RUN)
    card = ship(config, AUDIT_ROWS, Secret.from_text("s")).card
    assert card["data"]["checksum"] == from_config(config).published
    assert card["statement"]["not_covered"] == (), "anyone has the records themselves"


@pytest.mark.parametrize("described", [False, True])
def test_card_holds_no_word_or_number_of_private_records_that_it_does_not_name(compose, tmp_path, described):
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"place": rng.choice(["Quellstadt", "Wiesental"], 200), "dose": rng.normal(731.5, 3, 200)})
    frame["outcome"] = rng.integers(2, size=200) if described else rng.choice(["relapsed", "cured"], 200)
    frame.to_csv(tmp_path / "p.csv", index=False)
    schema = {"columns": {"place": {"categories": ["elsewhere"]}, "dose": {"center": 500, "scale": 100}}}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    overrides = [f"data.path={tmp_path}/p.csv", "data.label=outcome", "network.hidden=[]"]
    overrides += [f"data.schema={tmp_path}/schema.json"] if described else []
    ship(compose("data=csv", *overrides, *SMALL_RUN), [], Secret.from_text("s")).save(tmp_path / "released")
    card = json.loads((tmp_path / "released" / "card.json").read_text())
    named = set(card["statement"].pop("not_covered"))
    held = {word for word in ("Quellstadt", "relapsed", "cured", "731.") if word in json.dumps(card)}
    if described:
        assert held == set() and named == {COUNTS_NOT_COVERED}
    else:
        assert (
            held == {"Quellstadt", "relapsed", "cured", "731."}
            and {COUNTS_NOT_COVERED, CLASS_WORDS_NOT_COVERED} < named
            and len(named) == 3
        )


def test_card_of_a_student_names_the_private_reference_records(compose, table, tmp_path):
    overrides = ["defense=distillation", "defense@defense.base=dp_sgd", "split.reference=0.1", "trainer.batch_size=16"]
    config = compose("data=csv", f"data.path={table}", "data.label=verdict", *SMALL_RUN, *overrides)
    claim = ship(config, [], Secret.from_text("s")).statement
    assert claim.guarantee and f"40 reference records, {REFERENCE_NOT_COVERED}" in claim.not_covered
    assert any("taken from reference records" in sentence for sentence in claim.not_covered)


def test_second_release_to_the_same_place_is_refused(compose, tmp_path):
    release = ship(compose("data=digits", *SMALL_RUN), [], Secret.from_text("s"))
    release.save(tmp_path / "released")
    with pytest.raises(ValueError, match="every further release costs privacy anew"):
        release.save(tmp_path / "released")


class Own(nn.Sequential):
    def __init__(self, *, shape, classes, width):
        super().__init__(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes))


def test_own_network_comes_from_the_caller(compose, tmp_path):
    config = compose("data=digits", *SMALL_RUN)
    config["network"] = {"_target_": f"{Own.__module__}.Own", "width": 7}
    ship(config, [], Secret.from_text("s")).save(tmp_path / "released")
    with pytest.raises(ValueError, match=r"network=test_release.Own: expected one of .*; give its class as network="):
        Release.load(tmp_path / "released")
    release = Release.load(tmp_path / "released", network=Own)
    assert isinstance(release.network, Own)
    assert len(release.predict(np.zeros((3, 1, 8, 8)))) == 3


def test_folder_without_a_release_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no card.json; give the folder that ship=<run> printed"):
        Release.load(tmp_path)
