"""Plausible findings of a sweep, without training anything."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from evaluation.findings import AUC, FPRS, Findings, Row, tpr_at
from targets.statement import NOT_COVERED, Statement

MODELS, MEMBERS, NONMEMBERS = 16, 630, 628
DELTA = MEMBERS**-1.1
ATTACKS = {"correctness": ("label_only", 0.55), "loss": ("black_box", 0.7), "lira": ("black_box", 1.0)}
ATTACKS["lira_offline"] = ("black_box", 0.85)


def gdp_delta(epsilon: float, mu: float) -> float:
    """δ(ε) of a μ-Gaussian mechanism (Dong et al. 2022, corollary 2.13)."""
    return float(
        norm.cdf(mu / 2 - epsilon / mu) - np.exp(epsilon + norm.logcdf(-mu / 2 - epsilon / mu)) if mu > 0 else 0.0
    )


def claim(epsilon: float) -> Statement:
    """The statement of DP-SGD at this ε, with a privacy curve that a Gaussian mechanism has."""
    described: dict[str, Any] = {
        "sampling": "Poisson",
        "public_size": MEMBERS,
        "sampling_rate": 0.2,
        "steps_planned": 200,
    }
    described |= {"steps_done": 200, "max_grad_norm": 1.0, "engine": "ghost", "randomness": "operating system"}
    if math.isinf(epsilon):
        return Statement(guarantee=False, epsilon=epsilon, noise_multiplier=0.0, **described)
    mu = brentq(lambda m: gdp_delta(epsilon, m) - DELTA, 1e-3, 60)
    curve = [(float(e), gdp_delta(float(e), mu)) for e in np.linspace(0, 2 * epsilon, 40)]
    return Statement(
        guarantee=True, epsilon=epsilon * 0.997, delta=DELTA, accountant="PRV", epsilon_rdp=epsilon * 1.1,
        noise_multiplier=12 / epsilon, privacy_curve=tuple(curve), not_covered=NOT_COVERED, **described,
    )  # fmt: skip


def finding(
    defense: str = "none", *, accuracy: float = 0.97, separation: float = 0.9, strength: float | None = None,
    statement: Statement | None = None, nonmembers: int = NONMEMBERS, **changed: Any,
) -> Findings:  # fmt: skip
    """One run whose strongest attack separates members by this many standard deviations."""
    rows = [
        Row(metric="test_accuracy", value=accuracy, low=accuracy - 0.008, high=accuracy + 0.008),
        Row(metric="train_accuracy", value=min(1.0, accuracy + 0.03 * separation)),
    ]
    rows += [Row(metric="test_accuracy", value=accuracy, model=k) for k in range(MODELS)]
    roc = {}
    fprs = np.geomspace(1 / nonmembers, 1, 121)
    for attack, (access, share) in ATTACKS.items():
        mu = share * separation
        named: dict[str, Any] = {"attack": attack, "access": access}
        values: dict[str, float | None] = {AUC: float(norm.cdf(mu / math.sqrt(2)))}
        values |= {tpr_at(f): float(norm.cdf(norm.ppf(f) + mu)) if f * nonmembers >= 1 else None for f in FPRS}
        for metric, value in values.items():
            counts: dict[str, Any] = {"members": MODELS * MEMBERS, "nonmembers": MODELS * nonmembers}
            spread = 0.0 if value is None else 0.12 * value * (1 - value) + 0.002
            low, high = (None, None) if value is None else (value - spread, value + spread)
            rows.append(Row(metric=metric, value=value, low=low, high=high, **counts, **named))
            one: dict[str, Any] = {"members": MEMBERS, "nonmembers": nonmembers}
            rows += [Row(metric=metric, value=value, model=k, **one, **named) for k in range(MODELS)]
            tenth: dict[str, Any] = {"members": MODELS * MEMBERS // 10, "nonmembers": MODELS * nonmembers // 10}
            rows.append(Row(metric=metric, value=value, low=low, high=high, group="class=3", **tenth, **named))
        roc[attack] = (fprs.tolist(), norm.cdf(norm.ppf(fprs) + mu).tolist())
    setting: dict[str, object] = {"name": defense}
    if strength is not None:
        setting["epsilon" if defense == "dp_sgd" else "strength"] = strength
    if defense == "dp_sgd":
        setting["trainer"] = {"epochs": 40, "batch_size": 128}
    config = {
        "data": {"_target_": "datamodules.bundled.Digits", "name": "digits"},
        "network": {"_target_": "targets.networks.MLP", "hidden": [128]},
        "defense": setting,
        "trainer": {"epochs": 40, "batch_size": 64, "optimizer": {"lr": 1e-3}},
        "split": {"pool": 0.7},
        "membership": {"how": "bernoulli", "share": 0.5},
        "seed": 0,
        "names": {"network": "mlp", "defense": defense},
        "fleet": {"models": MODELS},
    }
    run = f"mlp-{defense}-{strength}"
    described: dict[str, Any] = {
        "run": run, "folder": f"runs/digits/{run}", "data": "digits", "network": "mlp", "defense": defense,
        "guard": "none", "seed": 0, "models": MODELS, "strength": strength, "config": config,
        "statement": statement or Statement.none(), "rows": rows, "roc": roc, "skipped": {},
    }  # fmt: skip
    return Findings(**{**described, **changed})


@pytest.fixture
def make_findings() -> Callable[..., Findings]:
    """Makes the findings of one run."""
    return finding


@pytest.fixture(scope="session")
def sweep() -> list[Findings]:
    """None, L2 at three strengths and DP-SGD over ε, in no order."""
    l2 = [(1e-2, 0.955, 0.55), (1e-4, 0.971, 0.88), (1e-3, 0.969, 0.75)]
    dp = [(math.inf, 0.965, 0.6), (16, 0.945, 0.3), (1, 0.80, 0.02), (4, 0.91, 0.12), (256, 0.962, 0.5)]
    dp.append((64, 0.958, 0.42))
    return [
        *(finding("l2", accuracy=a, separation=s, strength=x) for x, a, s in l2),
        *(finding("dp_sgd", accuracy=a, separation=s, strength=x, statement=claim(x)) for x, a, s in dp),
        finding(),
    ]
