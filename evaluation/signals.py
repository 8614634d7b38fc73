"""Signals: what the models of a run answer, queried once and kept as released."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Real

from attacks import View
from evaluation.runs import Run
from targets.files import replacing

GUARD = "none"


def view(run: Run) -> View:
    """What an attacker sees of a run: every model's logits for every pool record, labels, and who is a member."""
    return View(
        logits=answers(run, "pool"),
        labels=run.dataset.y[run.dataset.split.pool],
        membership=run.membership(),
        groups=run.groups(),
    )


def answers(run: Run, role: str) -> Float[np.ndarray, "models records classes"]:
    """Logits of all models for the records of a role, float32 as released, memory-mapped from the run's folder."""
    path = run.folder / "signals" / GUARD / f"{role}.npy"
    models = run.models()
    if path.exists() and len(kept := np.load(path, mmap_mode="r")) == len(models):
        return kept
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        np.save(temporary, query(run, models, run.dataset.x[getattr(run.dataset.split, role)]))
    return np.load(path, mmap_mode="r")


def query(
    run: Run, models: list[int], x: Real[np.ndarray, "records ..."]
) -> Float[np.ndarray, "models records classes"]:
    from targets.training import load_fleet

    return load_fleet(run.config, run.dataset, run.folder, models).predict(x)
