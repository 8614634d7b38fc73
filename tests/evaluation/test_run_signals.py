"""Signals of a run: asked once, kept as long as the models are the same, in as many ways as were asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from palisade.attacks import LossThreshold, ThreatModel
from palisade.data.queries import QUERY_AUGMENTATIONS, augmented
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.signals.signals import view
from palisade.evaluation.signals.stored import answers, stamp
from palisade.targets.run import Run
from palisade.targets.training import load_fleet
from palisade.train import composed, train_run

SMALL_RUN = ["data=digits", "trainer.epochs=2", "fleet.workers=1", "fleet.models=2", "secret=signals"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, request) -> Run:
    return trained(tmp_path_factory.mktemp("signals"))


def trained(folder: Path, *overrides: str) -> Run:
    return Run(Path(train_run(composed(f"runs={folder}", *SMALL_RUN, *overrides))["folder"]))


def test_answers_are_the_models_own(run: Run):
    pool = run.dataset.split.pool
    expected = load_fleet(run.config, run.dataset, run.folder, run.models()).predict(run.dataset.x[pool])
    stored = answers(run, "pool")
    assert isinstance(stored.files[1][0], np.memmap) and stored.dtype == np.float32
    np.testing.assert_array_equal(stored, expected)


def test_signals_of_other_models_are_never_used(run: Run):
    """Whoever trains again in the same folder, with another secret or another defense, gets fresh signals."""
    before, named = np.array(answers(run, "test")), stamp(run)
    files = sorted((run.folder / "models").glob("[01].safetensors"))
    contents = [file.read_bytes() for file in files]
    try:
        for file, content in zip(files, reversed(contents), strict=True):
            file.write_bytes(content)
        assert stamp(run) != named
        np.testing.assert_array_equal(answers(run, "test"), before[::-1])
        assert len(list((run.folder / "signals" / "none" / "test-plain").glob("*.npy"))) == 2
    finally:
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)


def test_every_way_of_asking_is_a_query(run: Run):
    seen = view(run, queries=("plain", "mirrored", "up"))
    assert seen.queries == 3
    asked = np.asarray(seen.logits)
    np.testing.assert_array_equal(asked[:, :, 0], answers(run, "pool"))
    x = run.dataset.x[run.dataset.split.pool]
    fleet = load_fleet(run.config, run.dataset, run.folder, run.models())
    np.testing.assert_array_equal(asked[:, :, 1], fleet.predict(x[..., ::-1]))
    assert LossThreshold().run(seen).queries == 1


def test_augmentations_keep_an_images_content():
    x = np.random.default_rng(0).random((3, 1, 4, 5))
    for name in QUERY_AUGMENTATIONS:
        moved = augmented(name, x)
        assert moved.shape == x.shape and np.isclose(np.sort(moved.ravel()), np.sort(x.ravel())).all()
    np.testing.assert_array_equal(augmented("down", augmented("up", x)), x)
    with pytest.raises(ValueError, match="queries=rotated"):
        augmented("rotated", x)
    with pytest.raises(ValueError, match=r"queries=mirrored"):
        augmented("mirrored", x[:, 0, 0, :4])


def test_an_attacker_may_ask_what_it_likes(run: Run):
    seen = view(run, Grant(outputs="label"))
    x = np.zeros((5, *run.dataset.shape), dtype=np.float32)
    assert seen.outputs == "label" and seen.predict(1, x).shape == (5,)
    np.testing.assert_array_equal(seen.predict(1, seen.features), seen.predictions[1])


def test_the_population_is_disjoint_from_whoever_is_audited(run: Run):
    split = run.dataset.split
    seen = view(run)
    assert seen.population is not None and seen.population.records == len(split.population) > 0
    assert not np.intersect1d(split.population, split.audited).size
    np.testing.assert_array_equal(seen.population_features, run.dataset.x[split.population])


def test_weights_are_read_only_where_granted_and_needed(run: Run):
    white, nothing = [ThreatModel(gradients=True)], [ThreatModel()]
    assert view(run, Grant(), threats=white).gradient_norms is None
    assert view(run, Grant(weights=True), threats=nothing).gradient_norms is None
    seen = view(run, Grant(weights=True), threats=white)
    assert seen.gradient_norms.shape[:2] == seen.membership.shape and seen.alignment is None, "no checkpoints"
    assert seen.activation_norms.shape == seen.gradient_norms.shape


def test_hidden_layers_are_read_only_where_needed_and_lead_to_the_logits(run: Run):
    assert view(run).shadow_features is None
    hidden = view(run, threats=[ThreatModel(shadow_features=True)]).shadow_features
    pool = run.dataset.split.pool
    for model, state in enumerate(load_fleet(run.config, run.dataset, run.folder, run.models()).states):
        *_, bias, weight = (value.numpy() for value in state.values())  # by name
        np.testing.assert_allclose(hidden[model] @ weight.T + bias, answers(run, "pool")[model], atol=1e-4)
    assert hidden.shape[:2] == (2, len(pool)) and hidden.dtype == np.float32
