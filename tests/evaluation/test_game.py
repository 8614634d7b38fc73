"""The game and the grants are those of the runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from palisade.evaluation.report.verdict import game, grants, shadows_of
from palisade.evaluation.result import Result
from palisade.targets.statement import Statement


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("bernoulli", "For every model and every record a coin is tossed"),
        ("complementary", "For every record a coin is tossed. Heads, and it is used to train the first"),
        ("fixed", "The same records are used to train every model"),
    ],
)
def test_the_game_follows_the_membership(make_result: Callable[..., Result], how: str, words: str) -> None:
    result = make_result()
    sentences = game(replace(result, config={**result.config, "membership": {"how": how}}))
    assert sentences[0].startswith(words)
    assert "guessing then finds 1 % of those that were used" in sentences[-1]


def test_persons_and_canaries_take_the_place_of_records(make_result: Callable[..., Result]) -> None:
    result = make_result()
    persons = " ".join(game(replace(result, dataset={**result.dataset, "persons": 600})))
    assert "every person a coin" in persons and "All records of one person share that fate." in persons
    statement = Statement(guarantee=True, epsilon=1.0, delta=1e-5, unit="person")
    assert "every person a coin" in game(make_result(statement=statement))[0]
    assert "every ood canary a coin" in game(make_result(canary="ood"))[0]


def test_what_is_granted_and_denied(make_result: Callable[..., Result]) -> None:
    result = make_result()
    by_grant = {grant["what"]: grant for grant in grants([result])}
    assert by_grant["shadow models by the very same recipe"]["words"].startswith("15 for each model")
    assert by_grant["other records, on which no model was trained"]["words"] == "180 records"
    assert not by_grant["the weights of the model"]["granted"] and not by_grant["the secret of a run"]["granted"]
    bare = replace(result, dataset={}, threat="white_box", config={**result.config, "membership": {"how": "fixed"}})
    by_grant = {grant["what"]: grant for grant in grants([bare])}
    assert not by_grant["shadow models by the very same recipe"]["granted"] and shadows_of(bare) == 0
    assert not by_grant["other records, on which no model was trained"]["granted"]
    assert by_grant["the weights of the model"]["words"] == "as if they were published, or leaked"


def test_answers_are_named_by_guard_where_they_differ(make_result: Callable[..., Result]) -> None:
    runs = [make_result(), make_result(guard="topk", released="top-3"), make_result("l2", strength=1)]
    assert grants(runs)[0]["words"] == "logits (undefended, l2); top-3 (none + topk)"
