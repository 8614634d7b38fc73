"""The plan of a search: the undefended run, and trials as if all were of the slowest defense; nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palisade.evaluation.frontier_search import Search, explore
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.result import Result
from palisade.evaluation.search_plan import show_search_costs
from palisade.targets.composition import composed
from palisade.targets.run import Run
from palisade.train import train_run

LOSS_PROTOCOL = AttackProtocol(attacks={"loss": {"_target_": "palisade.attacks.LossThreshold"}})
SMALL_SEARCH = Search(
    name="frontier",
    trials=4,
    train={"network": "linear", "fleet": {"models": 3, "workers": 1}},
    space={"l2": {"weight_decay": [0.1]}, "selena": {"sub_models": [12]}},
)


def printed_rows(search: Search, folder: Path, capsys: Any) -> dict[str, list[str]]:
    """Last columns of the plan's table by the first: models, models to train, minutes, megabytes."""

    def compose(*words: str) -> dict[str, Any]:
        return composed("data=digits", f"runs={folder / 'runs'}", *words)

    show_search_costs(search, LOSS_PROTOCOL, folder / "reports", compose, train_run)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.endswith(" ") and "." in line]
    return {" ".join(words[:-4]): words[-4:] for words in lines}


def test_all_trials_are_counted_as_the_slowest(tmp_path: Path, capsys: Any) -> None:
    rows = printed_rows(SMALL_SEARCH, tmp_path, capsys)
    undefended, *trials, total = rows
    assert Path(undefended).name.startswith("linear-none-")
    assert trials == ["a trial of l2", "a trial of selena"]
    assert total == "4 trials: at most, as if all were of selena"
    assert [row[:2] for row in rows.values()] == [["3", "3"], ["3", "3"], ["3", "3"], ["15", "15"]]
    assert not any(tmp_path.iterdir())


def test_trials_that_are_over_cost_nothing(make_result: Callable[..., Result], tmp_path: Path, capsys: Any) -> None:
    (undefended, *_) = printed_rows(SMALL_SEARCH, tmp_path, capsys)
    name = SMALL_SEARCH.study_name(Run(Path(undefended)).name, LOSS_PROTOCOL)
    folder = tmp_path / "reports" / "frontier"
    explore(replace(SMALL_SEARCH, trials=3), folder, name, lambda _: ("none", make_result("l2")))
    before = (folder / "study.db").read_bytes()
    rows = printed_rows(SMALL_SEARCH, tmp_path, capsys)
    assert rows["4 trials, 3 of them over: at most, as if all were of selena"][:2] == ["6", "6"]
    other = replace(SMALL_SEARCH, space={"l2": {"weight_decay": [0.1, 0.2]}})
    assert printed_rows(other, tmp_path, capsys)["4 trials: at most, as if all were of l2"][:2] == ["15", "15"]
    assert (folder / "study.db").read_bytes() == before


def test_a_database_that_cannot_be_read_is_named(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "reports" / "frontier").mkdir(parents=True)
    (tmp_path / "reports" / "frontier" / "study.db").write_text("no database, and long enough not to be empty" * 99)
    with pytest.raises(ValueError, match=r"study\.db cannot be read or written as the database of a search; "):
        printed_rows(SMALL_SEARCH, tmp_path, capsys)
