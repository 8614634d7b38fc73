"""The numbers published with LiRA, made again from the files that its code leaves on disk.

Point PALISADE_LIRA_ARTEFACT to the folder that `score.py` of the reference implementation has filled, with the layout
`experiment-<i>_<n>/keep.npy` (membership) and `experiment-<i>_<n>/scores/<epoch>.npy` (φ of records and augmentations).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from palisade.attacks import LiRA, View
from palisade.evaluation.statistics.metrics import tpr_at_fpr

ARTEFACT_VARIABLE = "PALISADE_LIRA_ARTEFACT"
# TPR at 0.1 % FPR on CIFAR-10, by number of models: that of the README of the reference implementation for 16, of
# Carlini et al. 2022, Table I, for 256; the first with the fixed variance, the second with each record's own.
PUBLISHED_TPRS = {16: ("fixed", 0.0593), 256: ("per_record", 0.084)}
RELATIVE_TOLERANCE = 0.3  # of the value: those numbers are of one target, models differ


def read(folder: Path) -> View:
    """φ and membership of all models, at the last epoch that was scored."""
    experiments = sorted(path for path in folder.glob("experiment*") if any(path.glob("scores/*.npy")))
    phi = np.stack([np.load(max(path.glob("scores/*.npy"))) for path in experiments]).astype(np.float64)
    records = phi.shape[1]
    membership = np.stack([np.load(path / "keep.npy")[:records] for path in experiments]).astype(bool)
    logits = np.stack([phi, np.zeros_like(phi)], axis=-1)
    return View(logits=logits, labels=np.zeros(records, dtype=int), membership=membership)


def test_reads_the_layout(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    phi, keep = rng.standard_normal((3, 5, 2)), rng.random((3, 6)) < 0.5
    for model in range(3):
        folder = tmp_path / f"experiment-{model}_3"
        (folder / "scores").mkdir(parents=True)
        np.save(folder / "keep.npy", keep[model])
        for epoch, values in (("0000000010", phi[model] - 1), ("0000000020", phi[model])):
            np.save(folder / "scores" / f"{epoch}.npy", values)
    view = read(tmp_path)
    np.testing.assert_allclose(view.log_odds, phi)
    np.testing.assert_array_equal(view.membership, keep[:, :5])


@pytest.mark.skipif(
    ARTEFACT_VARIABLE not in os.environ, reason=f"{ARTEFACT_VARIABLE} names no folder of the paper's own scores"
)
def test_the_published_tpr_comes_out_again() -> None:
    view = read(Path(os.environ[ARTEFACT_VARIABLE]))
    assert view.models in PUBLISHED_TPRS, f"models={view.models}; numbers were published for {sorted(PUBLISHED_TPRS)}"
    variance, published = PUBLISHED_TPRS[view.models]
    scores = LiRA(variance=variance, compat="carlini").score(view)  # type: ignore[arg-type]
    tprs = [tpr_at_fpr(*row, 0.001) for row in zip(scores, view.membership, strict=True)]
    assert np.mean(tprs) == pytest.approx(published, rel=RELATIVE_TOLERANCE)
