"""The game and the grants are those of the runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from palisade.evaluation.findings import Findings
from palisade.evaluation.report.game import game, grants, shadows_of
from palisade.targets.statement import Statement


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("bernoulli", "For every model and every record a coin is tossed"),
        ("complementary", "For every record a coin is tossed. Heads, and it is used to train the first"),
        ("fixed", "The same records are used to train every model"),
    ],
)
def test_the_game_follows_the_membership(make_findings: Callable[..., Findings], how: str, words: str) -> None:
    found = make_findings()
    told = game(replace(found, config={**found.config, "membership": {"how": how}}))
    assert told[0].startswith(words)
    assert "guessing then finds 1 % of those that were used" in told[-1]


def test_persons_and_canaries_take_the_place_of_records(make_findings: Callable[..., Findings]) -> None:
    found = make_findings()
    persons = " ".join(game(replace(found, dataset={**found.dataset, "persons": 600})))
    assert "every person a coin" in persons and "All records of one person share that fate." in persons
    statement = Statement(guarantee=True, epsilon=1.0, delta=1e-5, unit="person")
    assert "every person a coin" in game(make_findings(statement=statement))[0]
    assert "every ood canary a coin" in game(make_findings(canary="ood"))[0]


def test_what_is_granted_and_denied(make_findings: Callable[..., Findings]) -> None:
    found = make_findings()
    told = {grant.what: grant for grant in grants([found])}
    assert told["shadow models by the very same recipe"].words.startswith("15 for each model")
    assert told["other records, on which no model was trained"].words == "180"
    assert not told["the weights of the model"].granted and not told["the secret of a run"].granted
    bare = replace(found, dataset={}, threat="white_box", config={**found.config, "membership": {"how": "fixed"}})
    told = {grant.what: grant for grant in grants([bare])}
    assert not told["shadow models by the very same recipe"].granted and shadows_of(bare) == 0
    assert not told["other records, on which no model was trained"].granted
    assert told["the weights of the model"].words == "as if they were published, or leaked"


def test_answers_are_told_by_guard_where_they_differ(make_findings: Callable[..., Findings]) -> None:
    runs = [make_findings(), make_findings(guard="topk", released="top-3"), make_findings("l2", strength=1)]
    assert grants(runs)[0].words == "logits (undefended, l2); top-3 (none + topk)"
