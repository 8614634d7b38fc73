"""Every attack of `conf/attack`: no target in its own fit, no false alarm, and it finds who is easily found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulated_texts import TEXT_ATTACK_NAMES, text_fleet

from palisade.attacks import Attack, View
from palisade.attacks.parts import blocks
from palisade.evaluation.statistics.metrics import roc_auc

CONF_FOLDER = Path(__file__).parents[2] / "conf"
ATTACK_LISTS = ("quick", "standard", "full")
ATTACK_NAMES = sorted(path.stem for path in (CONF_FOLDER / "attack").glob("*.yaml") if path.stem not in ATTACK_LISTS)
FLEET_MODELS, FLEET_RECORDS, POPULATION_RECORDS, FEATURE_COUNT, CLASS_COUNT = 12, 150, 120, 4, 3
FEW_QUERIES = {"boundary": {"budget": 60}, "cascading": {"targets": 12, "shadows": 8}, "filter_oracle": {"n": 4}}
"""Settings that make an attack quick."""


@cache
def chosen(*names: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
        return dict(compose("evaluate", overrides=[f"attack=[{','.join(names)}]"]).attack)


def attack_of(name: str) -> Attack:
    attack: Attack = instantiate(chosen(name)[name], **FEW_QUERIES.get(name, {}))
    return attack


@pytest.mark.parametrize("name", ATTACK_NAMES)
def test_says_in_one_sentence_what_it_does(name: str) -> None:
    idea = attack_of(name).idea
    assert 40 < len(idea) < 130 and idea[0].isupper() and idea[-1] in ".?" and ". " not in idea
    assert not {"shadow", "log-odds", "logits", "posterior", "FPR", "TPR"} & set(idea.replace(",", "").split())


class Memorizers:
    """Kernel classifiers: each remembers its members, which pull their surroundings to their class by `effect`."""

    def __init__(self, seed: int, effect: float):
        rng = np.random.default_rng(seed)
        self.x = rng.normal(size=(FLEET_RECORDS + POPULATION_RECORDS, FEATURE_COUNT)).astype(np.float32)
        self.y = (self.x @ rng.normal(size=(FEATURE_COUNT, CLASS_COUNT)) + rng.normal(size=CLASS_COUNT)).argmax(axis=1)
        wrong = rng.random(len(self.y)) < 0.3
        self.y = np.where(wrong, rng.integers(CLASS_COUNT, size=len(self.y)), self.y)
        self.weights = rng.normal(size=(FLEET_MODELS, FEATURE_COUNT, CLASS_COUNT))
        self.members = rng.random((FLEET_MODELS, FLEET_RECORDS)) < 0.5
        self.effect, self.rng = effect, rng

    def __call__(self, model: int, x: np.ndarray) -> np.ndarray:
        return self.answers(self.weights[model], self.members[model], x)

    def answers(self, weights: np.ndarray, members: np.ndarray, x: np.ndarray) -> np.ndarray:
        inside, own = self.x[:FLEET_RECORDS][members], self.y[:FLEET_RECORDS][members]
        distance = ((x[:, None] - inside) ** 2).sum(axis=-1)
        pull = np.exp(-4 * distance) @ np.eye(CLASS_COUNT)[own]
        return (x @ weights + self.effect * pull).astype(np.float32)

    def further_shadows(self, target: int, inside: np.ndarray, outside: np.ndarray, shadows: int) -> View:
        rng, rest = np.random.default_rng([target, 7]), ~(inside | outside)
        members = ((rng.random((shadows, FLEET_RECORDS)) < 0.5) | inside) & ~outside
        weights = rng.normal(size=(shadows, FEATURE_COUNT, CLASS_COUNT))
        x = self.x[:FLEET_RECORDS][rest]
        answers = [self(target, x), *(self.answers(*one, x) for one in zip(weights, members, strict=True))]
        membership = np.concatenate([np.zeros((1, rest.sum()), dtype=bool), members[:, rest]])
        return View(logits=np.stack(answers), labels=self.y[:FLEET_RECORDS][rest], membership=membership)

    def view(self) -> View:
        answers = np.stack([self(model, self.x) for model in range(FLEET_MODELS)])
        queries = np.stack([answers, *(answers + self.rng.normal(0, 0.3, answers.shape) for _ in range(2))], axis=2)
        audited, population = (
            queries[:, :FLEET_RECORDS].astype(np.float32),
            queries[:, FLEET_RECORDS:].astype(np.float32),
        )
        view = View(
            logits=audited, labels=self.y[:FLEET_RECORDS], membership=self.members, features=self.x[:FLEET_RECORDS],
            population_logits=population,
            population_labels=self.y[FLEET_RECORDS:], population_features=self.x[FLEET_RECORDS:],
            query=self, further_shadows=self.further_shadows,
        )  # fmt: skip
        layers = view.loss[:, :, :1] * [1.0, 2.0] + self.rng.normal(0, 0.1, (FLEET_MODELS, FLEET_RECORDS, 2)) ** 2
        return replace(
            view,
            gradient_norms=layers,
            activation_norms=self.rng.random((FLEET_MODELS, FLEET_RECORDS, 2)) + 0.1,
            unguarded_logits=view.logits[:, :, 0],
            alignment=self.effect * self.members + self.rng.normal(size=self.members.shape),
            trajectory=view.loss[:, :, :1] + self.rng.random((FLEET_MODELS, FLEET_RECORDS, 3)) * [1.0, 0.5, 0.0],
        )


def mean_auc(scores: np.ndarray, members: np.ndarray) -> float:
    scored = [~np.isnan(row) for row in scores]
    return float(np.mean([roc_auc(s[k], m[k]) for s, m, k in zip(scores, members, scored, strict=True)]))


@cache
def leaky_view(texts: bool) -> View:
    return text_fleet(0) if texts else Memorizers(0, effect=5.0).view()


@cache
def silent_view(texts: bool) -> View:
    return text_fleet(1, effect=0.0) if texts else Memorizers(1, effect=0.0).view()


@pytest.fixture
def leaky(name: str) -> View:
    return leaky_view(bool(attack_of(name).threat.tokens))


@pytest.fixture
def silent(name: str) -> View:
    return silent_view(bool(attack_of(name).threat.tokens))


@cache
def scores_on_leaky_view(name: str) -> np.ndarray:
    attack = attack_of(name)
    return attack.score(leaky_view(bool(attack.threat.tokens)))


@pytest.fixture
def scored() -> Callable[[str], np.ndarray]:
    """Scores of an attack with its usual settings on the leaky view, computed once for several tests."""
    return scores_on_leaky_view


@pytest.mark.parametrize("name", ATTACK_NAMES)
def test_key_is_the_name_and_the_lists_hold_it(name: str) -> None:
    node = chosen(name)
    assert list(node) == [name] and attack_of(name).name == name
    assert name in chosen("full")


def test_attacks_on_texts_are_those_that_declare_tokens() -> None:
    assert {name for name in ATTACK_NAMES if attack_of(name).threat.tokens} == set(TEXT_ATTACK_NAMES)


def test_lists_grow() -> None:
    quick, standard, full = (list(chosen(name)) for name in ATTACK_LISTS)
    assert set(quick) < set(standard) < set(full) == set(ATTACK_NAMES)
    for name in standard:
        threat = attack_of(name).threat
        assert not threat.weights and (threat.queries in (1, None) or threat.outputs == "label"), name


@pytest.mark.parametrize("name", ATTACK_NAMES)
def test_finds_members_that_are_easy_to_find(name: str, leaky: View, scored: Callable[[str], np.ndarray]) -> None:
    attack = attack_of(name)
    run = attack.run(leaky)
    assert run.scores.dtype == np.float64 and run.scores.shape == leaky.membership.shape
    assert not np.isinf(run.scores).any()
    assert mean_auc(run.scores, leaky.membership) > 0.55
    np.testing.assert_array_equal(run.scores, scored(name), err_msg="the same view, other scores")
    if attack.threat.queries is not None:
        assert run.queries <= attack.threat.queries


@pytest.mark.parametrize("name", ATTACK_NAMES)
def test_raises_no_false_alarm(name: str, silent: View) -> None:
    auc = mean_auc(attack_of(name).score(silent), silent.membership)
    assert abs(auc - 0.5) < 4 * np.sqrt(1 / 12 / (FLEET_MODELS * FLEET_RECORDS / 4)), "pure noise tells members apart"


@pytest.mark.parametrize("name", ATTACK_NAMES)
def test_a_targets_membership_never_enters_its_scores(
    name: str, leaky: View, scored: Callable[[str], np.ndarray]
) -> None:
    attack = attack_of(name)
    if attack.threat.known_members:
        pytest.skip("knows some of the target's members by declaration")
    flipped = leaky.membership.copy()
    flipped[3] = ~flipped[3]
    other = replace(leaky, membership=flipped)
    np.testing.assert_array_equal(attack.score(other)[3], scored(name)[3])


@pytest.mark.parametrize("name", ATTACK_NAMES)
def test_a_group_is_left_out_together(name: str, leaky: View) -> None:
    attack = attack_of(name)
    if attack.threat.known_members:
        pytest.skip("knows some of the target's members by declaration")
    paired = replace(leaky, groups=np.arange(FLEET_MODELS) // 2)
    flipped = leaky.membership.copy()
    flipped[2:4] = ~flipped[2:4]
    np.testing.assert_array_equal(attack.score(replace(paired, membership=flipped))[2:4], attack.score(paired)[2:4])


@pytest.mark.parametrize("name", ATTACK_NAMES)
def test_runs_at_the_least_level_that_it_declares(name: str, leaky: View) -> None:
    attack = attack_of(name)
    if attack.threat.tokens:
        assert attack.threat.outputs == "probabilities" == leaky.outputs
        return
    p = np.exp(leaky.logits - np.logaddexp.reduce(leaky.logits, axis=-1, keepdims=True))
    q = np.exp(leaky.population_logits - np.logaddexp.reduce(leaky.population_logits, axis=-1, keepdims=True))
    forms = {
        "logits": {},
        "probabilities": {"probabilities": p, "population_probabilities": q},
        "label": {"predictions": leaky.logits.argmax(-1), "population_predictions": leaky.population_logits.argmax(-1)},
    }  # fmt: skip
    forms["top-k"] = {**forms["probabilities"], "top_k": 2}
    least = forms[attack.threat.outputs]
    blank = {} if attack.threat.outputs == "logits" else {"logits": None, "population_logits": None}
    granted = replace(leaky, **{**blank, **least})
    if attack.threat.outputs == "label" and leaky.query is not None:
        granted = replace(granted, query=lambda model, x: leaky.query(model, x).argmax(-1))
    assert mean_auc(attack.score(granted), leaky.membership) > 0.53


@pytest.mark.parametrize("name", ATTACK_NAMES)
def test_memory_mapped_answers_give_the_same(
    name: str, leaky: View, scored: Callable[[str], np.ndarray], tmp_path: Path
) -> None:
    answers = leaky.logits if leaky.tokens is None else leaky.tokens.log_probabilities
    np.save(tmp_path / "answers.npy", answers)
    read = np.load(tmp_path / "answers.npy", mmap_mode="r")
    held = {"logits": read} if leaky.tokens is None else {"tokens": replace(leaky.tokens, log_probabilities=read)}
    mapped = replace(leaky, **held)
    np.testing.assert_array_equal(attack_of(name).score(mapped), scored(name))


@pytest.mark.parametrize("name", ATTACK_NAMES)
@settings(deadline=None, max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 2 * FLEET_MODELS * FLEET_RECORDS // 3))
def test_scores_in_blocks_of_any_size_are_those_at_once(
    name: str, leaky: View, scored: Callable[[str], np.ndarray], numbers: int
) -> None:
    """Blocks of one record and of many; signals and scores that lie in files, as large ones do."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(blocks, "NUMBERS_AT_ONCE", numbers)
        in_blocks = attack_of(name).score(replace(leaky))  # whose signals are computed anew
    np.testing.assert_allclose(in_blocks, scored(name), rtol=1e-12, atol=1e-12)
