"""May it leave? The answer is that of the limit that was set, and says which limits a run keeps where none was."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from palisade.evaluation.comparison import Comparison
from palisade.evaluation.labels import detection_text
from palisade.evaluation.limit import WITHIN_LIMIT, Limit
from palisade.evaluation.report.permission import UNPROVEN_ANSWER, by_limit, limit_text, without_limit
from palisade.evaluation.report.run_report import write
from palisade.evaluation.result import FPR, Result, tpr_at
from tests.evaluation.conftest import claim

pytestmark = pytest.mark.usefixtures("undrawn")

Make = Callable[..., Result]


def two(make_result: Make) -> Comparison:
    return Comparison([make_result(separation=1.5), make_result("l2", strength=0.1, separation=0.2)])


def answers(comparison: Comparison, **limits: float) -> dict[str, str]:
    return {line["title"]: line["answer"] for line in by_limit(comparison, Limit(name="gate", **limits))["lines"]}  # type: ignore[arg-type]


def test_those_that_keep_the_limit_may_leave(make_result: Make) -> None:
    comparison = two(make_result)
    assert answers(comparison, max_tpr=0.05) == {"l2 0.1": UNPROVEN_ANSWER, "undefended": "no"}
    entry = by_limit(comparison, Limit(name="gate", max_tpr=0.05))
    assert entry["heading"] == "May it leave? Only l2 0.1"
    assert (
        "of 1,000 people who were in, at most 50 are found while 10 of 1,000 who were not are accused" in entry["limit"]
    )
    first, second = entry["lines"]
    assert (first["measured"], first["why"]) == ("17 (up to 21) by lira", "")
    assert second["measured"] == "204 (up to 226) by lira" and second["why"].startswith("10.1 % by loss in model 0,")
    near = {line["title"]: line["why"] for line in by_limit(comparison, Limit(name="gate", max_tpr=0.018))["lines"]}
    assert near["l2 0.1"] == "may be more than the limit", "its number stands beside it"
    assert second["attacks"] == ["lira"]
    assert (
        by_limit(comparison, Limit(name="gate", max_tpr=0.5))["heading"]
        == f"May it leave? {UNPROVEN_ANSWER.capitalize()}"
    )
    assert by_limit(comparison, Limit(name="gate", max_tpr=0.012))["heading"] == "May it leave? No"


def test_a_claim_stands_behind_a_yes_without_reserve(make_result: Make) -> None:
    private = make_result("dp_sgd", strength=4, statement=claim(4), separation=0.1)
    assert answers(Comparison([private]), max_tpr=0.05) == {"dp_sgd ε=4": "yes"}
    assert answers(two(make_result), max_tpr=0.05)["l2 0.1"] == UNPROVEN_ANSWER


def test_what_too_few_models_leave_open_is_not_known(make_result: Make) -> None:
    comparison = Comparison([make_result(separation=0.2, models=2)])
    assert by_limit(comparison, Limit(name="choose", max_tpr=0.05))["heading"] == "May it leave? Not known yet"


def test_attacks_without_shadow_models_allow_less(make_result: Make) -> None:
    result = make_result(separation=0.2)
    needs = {attack: {**own, "text": "top-k"} for attack, own in result.needs.items()}
    entry = by_limit(Comparison([replace(result, needs=needs)]), Limit(name="gate", max_tpr=0.05))
    assert entry["heading"] == "May it leave? Yes, as far as attacks without shadow models can tell"


def test_a_run_with_canaries_never_leaves(make_result: Make) -> None:
    comparison = Comparison([make_result(canary="label_noise", nonmembers=251)])
    entry = by_limit(comparison, Limit(name="gate", max_tpr=0.5))
    assert entry["lines"] == [] and entry["heading"] == "May it leave? Not known: only canaries were attacked"
    beside = Comparison([*comparison.results, make_result(separation=0.2)])
    entry = by_limit(beside, Limit(name="gate", max_tpr=0.05))
    assert [line["title"] for line in entry["lines"]] == ["undefended"] and "people who were in" in entry["limit"]


def test_the_smallest_limit_is_kept_and_the_next_smaller_one_is_not(make_result: Make) -> None:
    comparison = two(make_result)
    entry = without_limit(comparison)
    assert (
        entry["heading"] == "May it leave? Nobody has set a limit"
        and "gate.max_tpr=0.05 says: of 1,000" in entry["limit"]
    )
    assert entry["columns"][2] == "members found at most, of 1,000"
    for line in entry["lines"]:
        (result,) = [one for one in comparison.results if line["title"] in ("undefended", "l2 0.1")
                     and one.is_undefended == (line["title"] == "undefended")]  # fmt: skip
        smallest = float(line["answer"].removeprefix("gate.max_tpr="))
        assert Limit(name="gate", max_tpr=smallest).verdict(result, comparison).word == WITHIN_LIMIT
        below = Limit(name="gate", max_tpr=round(smallest - 0.001, 3))
        assert below.verdict(result, comparison).word != WITHIN_LIMIT
        assert line["measured"] == f"{1000 * smallest:.0f} by lira"


def test_where_nothing_can_be_measured_no_limit_is_proposed(make_result: Make) -> None:
    (line,) = without_limit(Comparison([make_result(nonmembers=50)]))["lines"]
    assert line["answer"] == line["measured"] == "–" and "cannot be resolved" in line["why"]
    (line,) = by_limit(Comparison([make_result(roc={})]), Limit(name="gate", max_tpr=0.05))["lines"]
    assert line["answer"] == "not known" and "every attack was skipped" in line["why"]


def test_other_limits_are_told_as_they_are(make_result: Make) -> None:
    limit = Limit(name="gate", max_tpr=0.05, max_auc=0.6, max_gap=0.05)
    text = limit_text(limit, make_result())
    assert text.endswith(
        "accused, and an AUC of at most 0.6, accuracy at most 5 points lower on others than on members"
    )
    (line,) = by_limit(Comparison([make_result()]), limit)["lines"]
    assert "; AUC 0.7" in line["measured"]


def test_people_with_several_records_are_not_counted_as_people(make_result: Make) -> None:
    result = make_result()
    row = result.get(tpr_at(FPR), attack="lira")
    assert detection_text(result, row).startswith("of 1,000 people who")
    several = replace(result, dataset={**result.dataset, "persons": 600})
    assert detection_text(several, row).startswith("of 1,000 records that")
    assert detection_text(make_result(canary="ood"), row).startswith("of 1,000 canaries that")
    texts = replace(result, dataset={**result.dataset, "vocabulary": 257})
    assert detection_text(texts, row).startswith("of 1,000 texts that")


def test_the_page_answers_first_and_the_public_one_without_numbers(make_result: Make, tmp_path: Path) -> None:
    comparison, limits = two(make_result), [Limit(name="gate", max_tpr=0.05)]
    for scope in ("internal", "public"):
        write(comparison, tmp_path / scope, "python evaluate.py", scope=scope, limits=limits)
        html = (tmp_path / scope / "report.html").read_text()
        card = html[html.index('<h3 class="answer">May it leave? Only l2 0.1</h3>') : html.index("<h3>Undefended</h3>")]
        assert html.index('id="verdict"') < html.index("May it leave?")
        assert re.findall(r'<th scope="row">(.+?)</th><td>(.+?)</td>', card) == [
            ("l2 0.1", UNPROVEN_ANSWER),
            ("undefended", "no"),
        ]
        sentence, table = card.split("<table>")
        assert "are found" in sentence and "are found" not in table, "once, not in each row"
        assert ("(up to 21) by lira" in table) == (scope == "internal")
    write(comparison, tmp_path / "unset", "python evaluate.py", scope="public")
    assert "smallest limit that it keeps" not in (tmp_path / "unset" / "report.html").read_text()


def test_each_attack_is_explained_once_where_it_first_stands(make_result: Make, tmp_path: Path) -> None:
    result = make_result()
    ideas = {"lira": "Compares models.", "loss": "Looks at the fit.", "correctness": "Looks at the class."}
    needs = {attack: {**own, "idea": ideas.get(attack, "")} for attack, own in result.needs.items()}
    write(Comparison([replace(result, needs=needs)]), tmp_path, "python evaluate.py")
    html = (tmp_path / "report.html").read_text()
    verdict, rest = html[: html.index('id="released"')], html[html.index('id="released"') :]
    assert verdict.count("<strong>lira</strong>: compares models.") == 1 and "looks at the fit" not in verdict
    for words in ("<strong>loss</strong>: looks at the fit.", "<strong>correctness</strong>: looks at the class."):
        assert rest.count(words) == 1
    assert "compares models" not in rest and "lira_offline</strong>" not in html
