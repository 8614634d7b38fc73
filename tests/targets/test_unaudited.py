"""A release without an audit on its card is asked for in words, and a guard that hides nothing is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from palisade.targets.guards import Rounding, TopK
from palisade.targets.guards.registry import check_guard
from palisade.targets.run import Run
from palisade.targets.shipping import ship_run
from palisade.train import composed, train_run

SMALL_RUN = ("data=digits", "fleet.models=2", "network.hidden=[]", "fleet.workers=1", "secret=unaudited")
DP_SGD_RUN = ("defense=dp_sgd", "defense.epsilon=8", "defense.trainer.epochs=1")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    place = tmp_path_factory.mktemp("unaudited")
    return Run(Path(train_run(composed(f"runs={place / 'runs'}", *SMALL_RUN, *DP_SGD_RUN))["folder"]))


def shipped(run: Run, place: Path, *words: str) -> dict:
    folder = ship_run(composed(f"ship={run.folder}", f"released={place}", "secret=shipped", *words))
    return json.loads((folder / "card.json").read_text())


def measured(run: Run) -> None:
    """As an evaluation leaves it."""
    row = {"attack": "loss", "access": "black_box", "metric": "auc", "value": 0.6, "low": 0.5, "high": 0.7}
    rows = [{**row, "model": "all", "group": "all"}]
    run.metrics.write_text(json.dumps({"key": "", "models": 2, "results": {"rows": rows}}))


def test_shipping_before_evaluating_is_refused_unless_asked_for(run, tmp_path):
    message = (
        rf"^ship={run.folder}: expected a run that was attacked behind guard=none, .*, or set ship_unaudited=true$"
    )
    with pytest.raises(ValueError, match=message):
        shipped(run, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    assert shipped(run, tmp_path / "unaudited", "ship_unaudited=true")["audit"]["results"] == []


def test_a_card_says_that_its_delta_is_not_that_of_the_audited_models(run, tmp_path):
    measured(run)
    card = shipped(run, tmp_path / "audited")
    assert card["audit"]["results"][0]["attack"] == "loss"
    own, theirs = card["statement"]["delta"], run.statement.delta
    assert own < theirs, "twice as many records"
    said = f"Their claim is at δ = {theirs:.3g}, that of this release at δ = {own:.3g}"
    assert said in card["audit"]["note"]
    with pytest.raises(ValueError, match="attacked behind guard=topk"):
        shipped(run, tmp_path / "guarded", "guard=topk", "guard.k=3")


@pytest.mark.parametrize(("k", "classes"), [(1, 2), (2, 3), (9, 10), (2, 2), (11, 10)])
def test_all_probabilities_but_one_hide_nothing(k, classes):
    with pytest.raises(ValueError, match=rf"^guard\.k={k}: expected at "):
        check_guard(TopK(k=k), classes)


def test_what_hides_something_is_allowed():
    check_guard(TopK(k=1), 3)
    check_guard(TopK(k=8), 10)
    check_guard(Rounding(decimals=2), 2)
    with pytest.raises(ValueError, match=r"choose guard=label_only or guard=rounding$"):
        check_guard(TopK(k=1), 2)
    with pytest.raises(ValueError, match=r"^guard\.k=9: expected at most 8, "):
        check_guard(TopK(k=9), 10)
