"""Plausible results of a sweep, without training anything."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from palisade.evaluation.result import AUC, REPORTED_FPRS, Result, Row, tpr_at
from palisade.evaluation.statistics import epsilon
from palisade.targets.statement import NOT_COVERED, Statement

FLEET_MODELS, FLEET_MEMBERS, FLEET_NONMEMBERS = 16, 630, 628
CLAIMED_DELTA = FLEET_MEMBERS**-1.1
SEPARATIONS_OF_ATTACKS = {"correctness": ("label_only", 0.55), "loss": ("black_box", 0.7), "lira": ("black_box", 1.0)}
SEPARATIONS_OF_ATTACKS["lira_offline"] = ("black_box", 0.85)


def gdp_delta(epsilon: float, mu: float) -> float:
    """δ(ε) of a μ-Gaussian mechanism (Dong et al. 2022, corollary 2.13)."""
    return float(
        norm.cdf(mu / 2 - epsilon / mu) - np.exp(epsilon + norm.logcdf(-mu / 2 - epsilon / mu)) if mu > 0 else 0.0
    )


def claim(epsilon: float) -> Statement:
    """The statement of DP-SGD at this ε, with a privacy curve that a Gaussian mechanism has."""
    described: dict[str, Any] = {
        "sampling": "Poisson",
        "public_size": FLEET_MEMBERS,
        "sampling_rate": 0.2,
        "steps_planned": 200,
    }
    described |= {"steps_done": 200, "max_grad_norm": 1.0, "engine": "ghost", "randomness": "operating system"}
    if math.isinf(epsilon):
        return Statement(guarantee=False, epsilon=epsilon, noise_multiplier=0.0, **described)
    mu = brentq(lambda m: gdp_delta(epsilon, m) - CLAIMED_DELTA, 1e-3, 60)
    curve = [(float(e), gdp_delta(float(e), mu)) for e in np.linspace(0, 2 * epsilon, 40)]
    return Statement(
        guarantee=True, epsilon=epsilon * 0.997, delta=CLAIMED_DELTA, accountant="PRV", epsilon_rdp=epsilon * 1.1,
        noise_multiplier=12 / epsilon, privacy_curve=tuple(curve), not_covered=NOT_COVERED, **described,
    )  # fmt: skip


@cache
def guessed(separation: float, members: int, nonmembers: int, delta: float) -> dict[str, Any]:
    """Lower bounds on ε by an attack that guesses as well as the separation allows."""
    canaries, side = members + nonmembers, (members + nonmembers) // 10
    share = float(norm.cdf(norm.ppf(0.1) + separation))
    tp, fp = round(share * members), round(0.1 * nonmembers)
    right = round(2 * side * share / (share + 0.1))

    def bounds(tp: int, fp: int, correct: int) -> dict[str, float]:
        return {
            "one_run": epsilon.one_run(canaries, 2 * side, correct, delta),
            "one_run_fdp": epsilon.one_run_fdp(canaries, 2 * side, correct, delta),
            "gdp": epsilon.gdp(tp, members, fp, nonmembers, delta),
            "clopper_pearson": epsilon.clopper_pearson(tp, members, fp, nonmembers, delta),
        }

    counts: dict[str, Any] = {"canaries": canaries, "guesses": 2 * side, "correct": right}
    measured, perfect = bounds(tp, fp, right), bounds(members, 0, 2 * side)
    return {"attack": "loss", "delta": delta, **counts, "bounds": measured, "ceilings": perfect}


def exposure(separation: float, records: int) -> dict[str, Any]:
    """Records of which a few are far more exposed than the others."""
    rng = np.random.default_rng(0)
    models = rng.binomial(FLEET_MODELS, 0.5, records)
    mu = separation * rng.lognormal(-0.5, 1.0, records)
    result = rng.binomial(models, norm.cdf(norm.ppf(0.01) + mu))
    content = {"record": rng.permutation(1797)[:records], "label": rng.integers(10, size=records)}
    return {name: values.tolist() for name, values in content.items()} | {
        "models": models.tolist(), "found": result.tolist(), "auc": norm.cdf(mu / math.sqrt(2)).tolist(),
    }  # fmt: skip


def finding(
    defense: str = "none", *, accuracy: float = 0.97, separation: float = 0.9, strength: float | None = None,
    statement: Statement | None = None, nonmembers: int = FLEET_NONMEMBERS, canary: str = "none", fitted: float = 0.98,
    guard: str = "none", guard_strength: float | None = None, **changed: Any,
) -> Result:  # fmt: skip
    """One run whose strongest attack separates members by this many standard deviations."""
    members = FLEET_MEMBERS if canary == "none" else nonmembers
    rows = [
        Row(metric="test_accuracy", value=accuracy, low=accuracy - 0.008, high=accuracy + 0.008),
        Row(metric="train_accuracy", value=min(1.0, accuracy + 0.03 * separation)),
    ]
    rows += [Row(metric="test_accuracy", value=accuracy, model=k) for k in range(FLEET_MODELS)]
    roc = {}
    fprs = np.geomspace(1 / nonmembers, 1, 121)
    for attack, (access, share) in SEPARATIONS_OF_ATTACKS.items():
        mu = share * separation
        named: dict[str, Any] = {"attack": attack, "access": access}
        values: dict[str, float | None] = {AUC: float(norm.cdf(mu / math.sqrt(2)))}
        values |= {tpr_at(f): float(norm.cdf(norm.ppf(f) + mu)) if f * nonmembers >= 1 else None for f in REPORTED_FPRS}
        for metric, value in values.items():
            counts: dict[str, Any] = {"members": FLEET_MODELS * members, "nonmembers": FLEET_MODELS * nonmembers}
            spread = 0.0 if value is None else 0.12 * value * (1 - value) + 0.002
            low, high = (None, None) if value is None else (value - spread, value + spread)
            rows.append(Row(metric=metric, value=value, low=low, high=high, **counts, **named))
            one: dict[str, Any] = {"members": members, "nonmembers": nonmembers}
            rows += [Row(metric=metric, value=value, model=k, **one, **named) for k in range(FLEET_MODELS)]
            tenth: dict[str, Any] = {
                "members": FLEET_MODELS * members // 10,
                "nonmembers": FLEET_MODELS * nonmembers // 10,
            }
            rows.append(Row(metric=metric, value=value, low=low, high=high, group="class=3", **tenth, **named))
        roc[attack] = (fprs.tolist(), norm.cdf(norm.ppf(fprs) + mu).tolist())
    if canary != "none":
        rows.append(Row(metric="canaries_fitted", value=fitted))
    setting: dict[str, object] = {"name": defense}
    if strength is not None:
        setting["epsilon" if defense == "dp_sgd" else "strength"] = strength
    if defense == "dp_sgd":
        setting["trainer"] = {"epochs": 40, "batch_size": 128}
    config = {
        "data": {"_target_": "palisade.data.bundled.Digits", "name": "digits"},
        "network": {"_target_": "palisade.targets.networks.MLP", "hidden": [128]},
        "defense": setting,
        "trainer": {"epochs": 40, "batch_size": 64, "optimizer": {"lr": 1e-3}},
        "split": {"pool": 0.7},
        "membership": {"how": "bernoulli", "share": 0.5},
        "seed": 0,
        "names": {"network": "mlp", "defense": defense, "canary": canary},
        "fleet": {"models": FLEET_MODELS},
        "guesses": 0.1,
    }
    if canary != "none":
        config["canary"] = {"kind": canary, "count": 500}
    folder = f"mlp-{defense}-{strength}" + ("" if canary == "none" else f"-{canary}")
    run = folder + (f"+{guard}-{guard_strength}" if guard != "none" else "")
    claimed = statement or Statement.none()
    needs: dict[str, dict[str, Any]] = {attack: {"declared": 1, "measured": 1.0} for attack in SEPARATIONS_OF_ATTACKS}
    for attack, text in zip(SEPARATIONS_OF_ATTACKS, ("label", "top-k", "top-k", "top-k"), strict=True):
        shadows = {"lira": ", shadows (IN and OUT)", "lira_offline": ", shadows (OUT)"}.get(attack, "")
        needs[attack] |= {"text": f"{text}, true label{shadows}", "declared": None if shadows else 1}
    described: dict[str, Any] = {
        "run": run, "folder": f"runs/digits/{folder}", "data": "digits", "network": "mlp", "defense": defense,
        "guard": guard, "guard_strength": guard_strength, "seed": 0, "models": FLEET_MODELS, "strength": strength,
        "config": config,
        "statement": claimed, "rows": rows, "roc": roc, "skipped": {}, "needs": needs, "canary": canary,
        "audit": guessed(0.7 * separation, members, nonmembers, claimed.delta or CLAIMED_DELTA),
        "exposed": exposure(separation, members + nonmembers),
        "dataset": {
            "records": 1797, "persons": None, "classes": [str(k) for k in range(10)], "canaries": 0,
            "roles": {"pool": 1258, "validation": 0, "reference": 0, "population": 180, "test": 359},
            "published": False, "checksum": "hmac-sha256:0a1b",
        },
    }  # fmt: skip
    return Result(**{**described, **changed})


@pytest.fixture
def make_result() -> Callable[..., Result]:
    """Makes the results of one run."""
    return finding


@pytest.fixture
def make_violated() -> Callable[..., Result]:
    """Makes the results of a DP-SGD run on whose model 0 nearly all guesses are right: no small ε allows that."""

    def violated(strength: float = 1.0, **changed: Any) -> Result:
        counts: dict[str, Any] = {"canaries": 500, "guesses": 100, "correct": 99}
        audit = guessed(1.0, FLEET_MEMBERS, FLEET_NONMEMBERS, CLAIMED_DELTA) | counts | {"delta": 1e-5}
        bounds = {**audit["bounds"], "one_run": epsilon.one_run(500, 100, 99, 1e-5)}
        ceilings = {**audit["ceilings"], "one_run": epsilon.one_run(500, 100, 100, 1e-5)}
        stated = replace(claim(strength), delta=1e-5)
        audit |= {"bounds": bounds, "ceilings": ceilings}
        return finding("dp_sgd", **{"strength": strength, "statement": stated, "audit": audit, **changed})

    return violated


@pytest.fixture(scope="session")
def sweep() -> list[Result]:
    """None, L2 at three strengths and DP-SGD over ε, in no order."""
    l2 = [(1e-2, 0.955, 0.55), (1e-4, 0.971, 0.88), (1e-3, 0.969, 0.75)]
    dp = [(math.inf, 0.965, 0.6), (16, 0.945, 0.3), (1, 0.80, 0.02), (4, 0.91, 0.12), (256, 0.962, 0.5)]
    dp.append((64, 0.958, 0.42))
    return [
        *(finding("l2", accuracy=a, separation=s, strength=x) for x, a, s in l2),
        *(finding("dp_sgd", accuracy=a, separation=s, strength=x, statement=claim(x)) for x, a, s in dp),
        finding(),
    ]


POINTS_OF_DEFENSES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "l1": ((1e-5, 0.595, 1.05), (1e-4, 0.582, 0.84), (1e-3, 0.47, 0.42)),
    "l2": ((1e-4, 0.604, 1.10), (1e-3, 0.608, 0.92), (1e-2, 0.571, 0.60)),
    "dropout": ((0.2, 0.613, 1.02), (0.5, 0.617, 0.83), (0.8, 0.59, 0.55)),
    "early_stopping": ((5, 0.598, 0.62), (10, 0.609, 0.71), (20, 0.607, 0.95)),
    "label_smoothing": ((0.1, 0.606, 1.15), (0.3, 0.611, 1.20), (0.5, 0.602, 1.16)),
    "mixup": ((0.2, 0.612, 1.12), (0.5, 0.616, 1.05), (1.0, 0.609, 0.98)),
    "relaxloss": ((0.5, 0.601, 0.75), (1.0, 0.588, 0.52), (1.5, 0.552, 0.38)),
    "ccl": ((0.1, 0.597, 0.9), (0.5, 0.583, 0.7), (1.0, 0.56, 0.57)),
    "hamp": ((0.2, 0.602, 0.84), (0.5, 0.594, 0.66), (0.8, 0.573, 0.5)),
    "adversarial_regularization": ((0.5, 0.586, 0.74), (1.0, 0.569, 0.58), (2.0, 0.531, 0.41)),
    "distillation": ((1.0, 0.561, 0.31), (2.0, 0.555, 0.27), (4.0, 0.537, 0.21)),
    "selena": ((5, 0.583, 0.38), (10, 0.589, 0.33), (25, 0.593, 0.29)),
}
"""Of each defense three strengths, with accuracy and what attacks separate: about what small tables give."""
POINTS_OF_GUARDS: dict[str, tuple[tuple[float | None, float], ...]] = {
    "memguard": ((None, 0.6),), "topk": ((1, 0.8), (3, 0.95), (5, 1.05)), "rounding": ((1, 0.93), (2, 1.1), (3, 1.16)),
    "temperature": ((2, 1.15), (5, 1.1), (20, 1.0)),
}  # fmt: skip


def behind(bare: Result, guard: str, strength: float | None, separation: float) -> Result:
    """Models behind a guard that keeps every label, with the separation of attacks on scores."""
    result = finding(
        bare.defense, strength=bare.strength, separation=separation, accuracy=bare.get("test_accuracy").value or 0.0,
        guard=guard, guard_strength=strength, folder=bare.folder,
    )  # fmt: skip
    by_scores = [row for row in result.rows if row.access != "label_only"]
    return replace(result, rows=[*by_scores, *(row for row in bare.rows if row.access == "label_only")])


@pytest.fixture
def make_guarded() -> Callable[..., Result]:
    """Puts a guard before the models of another run."""
    return behind


@pytest.fixture(scope="session")
def many() -> list[Result]:
    """Eighteen lines: what a comparison of all defenses shows."""
    dp = [(1, 0.31, 0.03), (4, 0.47, 0.10), (16, 0.545, 0.19), (64, 0.571, 0.30), (256, 0.583, 0.41)]
    dp.append((math.inf, 0.588, 0.52))
    pate = [(100, 1.914, 0.38, 0.02), (40, 5.378, 0.45, 0.06), (20, 14.2, 0.49, 0.10)]
    results: list[Result] = [finding(accuracy=0.603, separation=1.18)]
    for defense, points in POINTS_OF_DEFENSES.items():
        results += [finding(defense, strength=x, accuracy=a, separation=s) for x, a, s in points]
    for guard, answers in POINTS_OF_GUARDS.items():
        results += [behind(results[0], guard, strength, separation) for strength, separation in answers]
    results += [finding("dp_sgd", strength=x, accuracy=a, separation=s, statement=claim(x)) for x, a, s in dp]
    for strength, stated, accuracy, separation in pate:
        statement = Statement(guarantee=True, epsilon=stated, delta=1e-5, accountant="RDP", not_covered=NOT_COVERED)
        results += [finding("pate", strength=strength, accuracy=accuracy, separation=separation, statement=statement)]
    for stated, accuracy, separation in ((16, 0.49, 0.1), (64, 0.532, 0.17)):
        own = {"run": f"mlp-selena-{stated}", "folder": f"runs/digits/mlp-selena-{stated}", "statement": claim(stated)}
        results.append(finding("selena(dp_sgd)", strength=10, accuracy=accuracy, separation=separation, **own))
    return results


@pytest.fixture(scope="session")
def canaries() -> list[Result]:
    """Fleets of which only canaries were scored, beside three runs of the sweep."""
    dp = {"strength": 4, "statement": claim(4)}
    small: dict[str, Any] = {"nonmembers": 251}
    return [
        finding(canary="label_noise", accuracy=0.96, separation=3.4, **small),
        finding(canary="ood", accuracy=0.962, separation=2.1, fitted=0.31, **small),
        finding("dp_sgd", canary="label_noise", accuracy=0.92, separation=0.3, **dp, **small),
        finding("l2", canary="label_noise", accuracy=0.965, separation=2.9, strength=1e-3, **small),
    ]
