"""The card as a page: the facts of card.json, on two sheets, of which nothing is loaded and nothing runs."""

from __future__ import annotations

import html
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from docs.browser import Browser, find
from palisade.evaluation.result import FPR, MAX_TIES_PER_FPR, tied_at
from palisade.targets import card_page as card_page_module
from palisade.targets.card_page import _preprocessing, card_page, written
from palisade.targets.shipping import AUDIT_LIMITS
from palisade.targets.statement import NOT_COVERED, Statement

METRIC_VALUES = {"auc": 0.612, "tpr@1%fpr": 0.076, "tpr@0.1%fpr": None, "chance@1%fpr": 0.011, "null@1%fpr": 0.0181}


def card(**changed: Any) -> dict[str, Any]:
    claim = Statement(
        guarantee=True, epsilon=7.9704, delta=1.23e-4, accountant="PRV", sampling="Poisson",
        randomness="operating system", noise_multiplier=0.7007, public_size=1258, privacy_curve=((0.0, 0.5),) * 200,
        not_covered=NOT_COVERED,
    )  # fmt: skip
    rows = [
        {"attack": attack, "access": "black_box", "metric": metric, "value": value and factor * value,
         "low": value and 0.9 * factor * value, "high": value and 1.1 * factor * value}
        for attack, factor in (("loss", 0.5), ("lira", 1.0))
        for metric, value in METRIC_VALUES.items()
    ]  # fmt: skip
    content: dict[str, Any] = {
        "data": {"name": "people", "classes": ["no", "<yes>"], "shape": [3], "records": 1258, "persons": None,
                 "checksum": "hmac-sha256:0a1b"},
        "network": {"name": "palisade.targets.networks.MLP", "settings": {"hidden": [128], "activation": "relu"}},
        "defense": {"name": "dp_sgd", "epsilon": 8, "base": {"_target_": "palisade.defenses.none.NoDefense"},
                    "delta": None, "secure_rng": False, "trainer": {"epochs": 5}},
        "guard": {"name": "topk", "settings": {"k": 3}, "note": "It protects nothing once the weights leak."},
        "access": "api", "recipe": {"epochs": 5, "batch_size": 128}, "base_recipes": [{"epochs": 7, "batch_size": 64}],
        "preprocessing": {"kind": "scale", "shift": [0.5] * 30}, "statement": claim.to_json(),
        "cost": "m releases cost m times its ε.", "audit": {"note": "Not this model itself.", "results": rows},
        "versions": {"python": "3.11.7", "palisade": "0.1.0"},
    }  # fmt: skip
    return json.loads(json.dumps(content | changed))


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", page[page.index("<body>") :])).replace("\u00a0", " ")


def test_a_table_is_described_by_its_columns_and_not_by_all_their_words() -> None:
    columns = {"sex": {"categories": ["f", "m"], "fill": "f"}, "age": {"center": 50.0, "scale": 9.0}}
    text = _preprocessing({"kind": "columns", "statistics": "schema", "decimal": ".", "columns": columns})
    assert text == "kind=columns, statistics=schema; 2 columns: sex, age. Their words and scales are in card.json"


def test_the_page_has_the_facts_of_the_card() -> None:
    text = " ".join(text_of(card_page(card())).split())
    for fact in (
        "Card of the release: people", "1,258 records, each an input of shape [3]", "hmac-sha256:0a1b",
        "answers one of 2 classes: [no, <yes>]", "answers only: nobody but its owner holds the files",
        "palisade.targets.networks.MLP: hidden=[128], activation=relu",
        "defense dp_sgd: epsilon=8 guard",
        "topk: k=3. It protects nothing once the weights leak.", "epochs=5, batch_size=128", "epochs=7, batch_size=64",
        "kind=scale, shift=[0.5, 0.5, 0.5, … 30 in all]", *NOT_COVERED, "m releases cost m times its ε.",
        "Not this model itself.", "noise multiplier σ 0.7007", "public size N 1258",
        "200 pairs of ε and δ in card.json",
        "python=3.11.7, palisade=0.1.0", "(ε = 7.98, δ = 0.000123)-differential privacy per record",
        "lira black-box 0.612 [0.551–0.673] 7.6 % [6.8–8.4] not measured loss black-box 0.306",
    ):  # fmt: skip
        assert fact in text, fact


def test_texts_are_told_by_their_tokens() -> None:
    shown = card(preprocessing={"kind": "bytes", "length": 64, "new_tokens": 0})
    shown["data"] |= {"shape": [64], "classes": [str(token) for token in range(257)]}
    text = " ".join(text_of(card_page(shown)).split())
    assert "1,258 texts, each 64 tokens at most" in text and "answers the next of 257 tokens" in text


def test_members_are_told_as_people_beside_guessing() -> None:
    text = " ".join(text_of(card_page(card())).split())
    assert (
        "Of 1,000 people who were in, 76 (68 to 84) are found while 10 of 1,000 who were not are accused, by the best"
        " attack (lira); guessing finds 11 (luck explains up to 18)."
    ) in text
    several = card(data={**card()["data"], "persons": 600})
    assert "Of 1,000 records that were in, 76" in card_page(several) and "1,258 records of 600 persons" in card_page(
        several
    )


def test_texts_are_not_counted_as_people() -> None:
    assert "Of 1,000 texts that were in, 76" in card_page(card(preprocessing={"kind": "bytes", "length": 32}))


def test_the_numbers_hold_without_limits_where_there_are_numbers() -> None:
    limited = card(audit={**card()["audit"], "limits": AUDIT_LIMITS})
    assert f"<p>{AUDIT_LIMITS}</p>" in card_page(limited) and "add nothing to ε" in AUDIT_LIMITS
    assert AUDIT_LIMITS not in card_page(card()), "a card of an earlier version"


def test_epsilon_is_never_rounded_down() -> None:
    assert "ε 7.9704 δ 0.000123" in " ".join(text_of(card_page(card())).split())
    statement = card()["statement"] | {"epsilon": 7.970401}
    assert "ε 7.9705 " in " ".join(text_of(card_page(card(statement=statement))).split())


def test_a_card_without_audit_or_claim_says_so() -> None:
    bare = card(audit={"note": "Nothing.", "results": []}, statement=Statement.none().to_json(), access="weights")
    text = " ".join(text_of(card_page(bare)).split())
    assert "Nobody attacked models like this one" in text and "No formal guarantee." in text
    assert "whoever asks for them gets the weights" in text
    for of_a_promise in ("leaves out", "m times its ε", "neighboring relation", "unit of privacy"):
        assert of_a_promise not in text, of_a_promise
    unresolved = [row for row in card()["audit"]["results"] if row["metric"] == "auc"]
    assert "The best attack (lira) has an AUC of 0.612 [0.551–0.673]; guessing has 0.5." in card_page(
        card(audit={"note": "", "results": unresolved})
    )


def test_what_stands_above_a_promise_is_what_it_means() -> None:
    warned = card()["statement"] | {"warnings": ["ε = 16 is above 10: vacuous as a guarantee"]}
    text = " ".join(text_of(card_page(card(statement=warned))).split())
    promised = text[: text.index("What attacks find")]
    assert "Mind: ε = 16 is above 10: vacuous as a guarantee." in promised and "below 1 it is strong" in promised


def test_clipping_without_noise_has_numbers_and_no_promise() -> None:
    clipped = Statement(guarantee=False, epsilon=math.inf, delta=1e-4, noise_multiplier=0.0, noise="ChaCha20 keystream")
    text = " ".join(text_of(card_page(card(statement=clipped.to_json()))).split())
    assert "How it was trained, which proves nothing ε ∞ δ" in text and "ChaCha20" not in text
    assert "leaves out" not in text


def test_ties_are_no_rate_of_nothing() -> None:
    """A threshold that jumps over 1 % FPR: the TPR there is that of a smaller one."""
    assert card_page_module.MOST_TIED == MAX_TIES_PER_FPR * FPR and tied_at(FPR) == card_page_module.TIED_METRIC
    tied = [
        {"attack": "correctness", "access": "label_only", "metric": metric, "value": value, "low": value, "high": value}
        for metric, value in (("auc", 0.55), ("tpr@1%fpr", 0.0), ("tied@1%fpr", 0.97))
    ]
    text = " ".join(
        text_of(card_page(card(audit={"note": "", "results": [*card()["audit"]["results"], *tied]}))).split()
    )
    assert "correctness label-only 0.550 [0.550–0.550] only ties not measured" in text and "best attack (lira)" in text
    alone = card_page(card(audit={"note": "", "results": tied}))
    assert "The best attack (correctness) has an AUC of 0.550" in alone and "are found while" not in alone
    beyond = [{**row, "value": 0.2} if row["metric"] == "tpr@1%fpr" else row for row in tied]
    assert "only ties" not in card_page(card(audit={"note": "", "results": beyond}))


def test_nothing_of_a_card_runs_and_nothing_is_loaded() -> None:
    page = card_page(card(data={**card()["data"], "name": "<script>alert(1)</script>"}))
    assert "<script" not in page and "&lt;script&gt;" in page and "http" not in page.replace("http-equiv", "")
    assert "content=\"default-src 'none'; style-src 'unsafe-inline'\"" in page and "@media print" in page


def test_values_are_written_in_a_line() -> None:
    assert written({"a": None, "b": [1, 2.5], "c": {"_target_": "x.Y", "d": True}}) == "a=–, b=[1, 2.5], c=x.Y, d=True"


@pytest.mark.slow
@pytest.mark.skipif(find() is None, reason="no Chromium is installed; Debian's package is chromium")
def test_it_is_printed_on_two_sheets_and_fits_a_telephone(tmp_path: Path) -> None:
    rows = card()["audit"]["results"]
    many = [{**row, "attack": f"{row['attack']}_{k}"} for k in range(12) for row in rows]
    path = tmp_path / "card.html"
    path.write_text(card_page(card(audit={"note": "Not this model itself.", "results": many})), encoding="utf-8")
    with Browser(str(find())) as browser:
        browser.open(path)
        assert browser.errors == [] and browser.requests == [path.as_uri()]
        browser.resize(400)
        assert browser.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
        assert browser.sheets() <= 2
