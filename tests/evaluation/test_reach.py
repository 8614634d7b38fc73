"""An audit that cannot refute a claim says so before anything is trained, and again when it is made."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palisade.data.dataset import from_config
from palisade.evaluation.claims import FAMILYWISE_ALPHA, violations
from palisade.evaluation.comparison import Comparison
from palisade.evaluation.measuring.measure import measure
from palisade.evaluation.plan import Reach
from palisade.evaluation.protocol import AttackProtocol
from palisade.evaluation.report.page import render
from palisade.evaluation.report.run_report import page_of, summary
from palisade.evaluation.result import Result
from palisade.evaluation.statistics.epsilon import MOST_CANARIES, canaries_needed, one_run
from palisade.evaluation.table import reaches, show_results
from palisade.targets.run import Run
from palisade.train import run_single, train_run

REPOSITORY_ROOT = Path(__file__).parents[2]
DP_WORDS = ["data=digits", "defense=dp_sgd"]
CANARY_WORDS = [*DP_WORDS, "canary=label_noise", "canary.count=200"]
"""What docs/commands.md trains, at ε = 8."""
FEW_MODELS = ["fleet.models=1", "fleet.workers=1", "defense.trainer.epochs=1"]
REACH_SENTENCE = (
    "this audit can refute claims up to ε = 2.2; ε = 8 takes at least 44,660 canaries and a smaller δ than 0.00043"
)


def perfect(canaries: int, share: float, delta: float, p: float = FAMILYWISE_ALPHA) -> float:
    guesses = 2 * int(share * canaries)
    return one_run(canaries, guesses, guesses, delta, p)


@settings(deadline=None, max_examples=40)
@given(
    st.floats(0.1, 7),
    st.sampled_from([0.1, 0.25, 0.4]),
    st.sampled_from([0.0, 1e-6, 1e-5, 1e-4]),
    st.sampled_from([0.05, 0.01]),
)
def test_the_least_number_of_canaries_suffices_and_one_less_does_not(
    epsilon: float, share: float, delta: float, p: float
) -> None:
    count = canaries_needed(epsilon, share, delta, p)
    if count is None:
        assert all(perfect(round(50 * 1.3**i), share, delta, p) <= epsilon for i in range(24))
    else:
        assert perfect(count, share, delta, p) >= epsilon - 1e-5
        assert perfect(count - 1, share, delta, p) < epsilon


@pytest.mark.parametrize("epsilon", [16.0, 256.0, 1000.0])
def test_no_number_beyond_a_million_is_named(epsilon: float) -> None:
    assert canaries_needed(epsilon, 0.1, 0.0) is None
    assert (canaries_needed(10, 0.1, 0.0) or 0) < MOST_CANARIES < 2 * math.exp(16)


@pytest.mark.parametrize(
    ("reach", "sentence"),
    [
        ({"epsilon": 1}, "this audit can refute claims up to ε = 3.3"),
        ({"epsilon": 1, "canaries": 5}, "this audit can refute no claim; ε = 1 takes at least 50 canaries"),
        (
            {"epsilon": 4},
            "this audit can refute claims up to ε = 3.3; ε = 4 takes at least 1,220 canaries, or",
        ),
        ({"epsilon": 4, "share": 0.4}, "this audit can refute claims up to ε = 4.7"),
        ({"epsilon": 64}, "this audit can refute claims up to ε = 3.3; ε = 64 takes more than a million canaries"),
        ({"epsilon": 1, "drawn": False}, "this audit can refute no claim; ε = 1 takes membership.share=0.5"),
    ],
)
def test_the_sentence_says_what_it_takes(reach: dict[str, Any], sentence: str) -> None:
    planned = Reach(**{"delta": 4000**-1.1, "canaries": 500, **reach})
    assert planned.sentence().startswith(sentence)
    assert ("takes" in sentence) == (planned.ceiling() <= planned.epsilon)


def test_more_claims_leave_less(make_violated: Callable[..., Result]) -> None:
    reach = Reach(epsilon=8, delta=1e-5, canaries=500)
    assert reach.ceiling(FAMILYWISE_ALPHA / 4) < reach.ceiling() == perfect(500, 0.1, 1e-5)


def test_training_says_so_once_and_first(
    compose: Callable[..., Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    chosen = compose(*CANARY_WORDS, *FEW_MODELS)
    run_single(chosen)
    said = capsys.readouterr()
    assert said.err.count("this audit") == 1 and f"{REACH_SENTENCE}\n" in said.err
    assert said.err.index(REACH_SENTENCE) < said.err.index("1/1 models")
    run_single(chosen)
    assert "this audit" not in capsys.readouterr().err  # nothing is trained


@pytest.mark.parametrize("words", [DP_WORDS, [*CANARY_WORDS, "defense.epsilon=inf"], ["data=digits", "canary=ood"]])
def test_nothing_is_said_without_canaries_or_a_claim(compose: Callable[..., Any], words: list[str]) -> None:
    settings = compose(*words)
    assert Reach.planned(settings, from_config(settings)) is None


def test_the_plan_says_so(compose: Callable[..., Any], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run_single(compose(*CANARY_WORDS, "plan=true"))
    assert REACH_SENTENCE in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_a_plan_of_several_claims_divides_the_level(
    compose: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from palisade.evaluation.plan import show_costs

    ways = [CANARY_WORDS, [*DP_WORDS, "canary=ood"], DP_WORDS, ["data=digits", "canary=ood"]]
    show_costs([train_run(compose(*way, "plan=true")) for way in ways])
    lines = [line for line in capsys.readouterr().out.splitlines() if "this audit" in line]
    settings = compose(*CANARY_WORDS)
    reach = Reach.planned(settings, from_config(settings))
    assert reach is not None and reach.sentence(FAMILYWISE_ALPHA / 3) != reach.sentence()
    assert len(lines) == 2 and lines[0].endswith(f": {reach.sentence(FAMILYWISE_ALPHA / 3)}")
    assert lines[0].startswith("linear-dp_sgd-label_noise-") and lines[1].startswith("linear-dp_sgd-ood-")


def test_delta_is_that_of_the_claim(compose: Callable[..., Any]) -> None:
    for own in ([], ["defense.delta=1e-6"], ["membership.share=0.4"]):
        settings = compose(*CANARY_WORDS, *FEW_MODELS, *own)
        reach, run = Reach.planned(settings, from_config(settings)), Run(Path(train_run(settings)["folder"]))
        assert reach is not None and reach.delta == pytest.approx(run.statement.delta, rel=1e-12)
        assert reach.drawn == (own != ["membership.share=0.4"])


def test_what_was_foretold_is_what_an_audit_can_show(compose: Callable[..., Any]) -> None:
    settings = compose(*CANARY_WORDS, *FEW_MODELS)
    run = Run(Path(train_run(settings)["folder"]))
    result = measure(run, AttackProtocol(attacks={"loss": {"_target_": "palisade.attacks.LossThreshold"}}))
    foretold = Reach.planned(settings, run.dataset)
    assert foretold is not None and result.audit["ceilings"]["one_run"] == foretold.ceiling()
    assert foretold.ceiling() == Reach.measured(result).ceiling()
    right = {**result.audit, "correct": result.audit["guesses"]}
    assert violations([replace(result, audit=right)]) == []  # not even these


BLANK_CANARIES = ["canary=blank", "canary.count=1000", "defense.epsilon=4"]


@pytest.mark.parametrize(
    ("more", "share", "reaches"), [([], 0.1, "3.3"), (BLANK_CANARIES, 0.1, "3.9"), (BLANK_CANARIES, 0.4, "5.3")]
)
def test_the_recipes_reach_what_the_documents_say(
    compose: Callable[..., Any], more: list[str], share: float, reaches: str
) -> None:
    root = REPOSITORY_ROOT.parent / "shared" / "data" / "location30"
    if not root.is_dir():
        pytest.skip("no location30 under ../shared/data")
    settings = compose("experiment=dp_audit", f"data.root={root}", f"guesses={share}", *more)
    reach = Reach.planned(settings, from_config(settings))
    assert reach is not None and reach.share == share
    assert reach.sentence().startswith(f"this audit can refute claims up to ε = {reaches}")
    assert (reach.ceiling() > reach.epsilon) == (reaches != "3.9")
    if reaches != "3.9":
        for page in ("docs/commands.md", "docs/attacks.md", "conf/experiment/dp_audit.yaml"):
            assert reaches in (REPOSITORY_ROOT / page).read_text(encoding="utf-8")


def test_the_documents_quote_what_is_said() -> None:
    assert REACH_SENTENCE in (REPOSITORY_ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
    assert "up to ε = 2.2" in (REPOSITORY_ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


def test_table_and_report_say_so_of_canaries(canaries: list[Result], make_violated: Callable[..., Result]) -> None:
    private = [result for result in canaries if result.defense == "dp_sgd"]
    sentences = reaches(Comparison(canaries))
    assert [title for title, _ in sentences] == ["dp_sgd ε=4 with label_noise canaries"] and len(private) == 1
    sentence = Reach.measured(private[0]).sentence()
    assert sentences[0][1] == sentence and "; ε = 4 takes " in sentence
    file = io.StringIO()
    show_results(Comparison(canaries), file=file)
    assert f"{sentences[0][0]}: {sentence}" in " ".join(file.getvalue().split())
    content = page_of(Comparison(canaries), summary(Comparison(canaries), ""))
    page = render(content, {"tradeoff": "", "roc": ""})
    assert f"{sentences[0][0]}: {sentence}." in page
    assert reaches(Comparison([make_violated()])) == []  # the table has the ceiling of records that are no canaries
