"""Language models that learned nothing: attacks tell nobody apart, and secrets are no more exposed IN than OUT."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from palisade.data.canaries import Canaries
from palisade.data.document_canaries import secrets_of
from palisade.evaluation.measuring.baselines import blind_scores
from palisade.evaluation.signals.signals import view
from palisade.evaluation.statistics.metrics import roc_auc
from palisade.evaluation.statistics.secret_exposure import exposure_of_secrets, log_probabilities_of_codes
from palisade.targets.run import Run
from palisade.targets.training import load_fleet
from palisade.train import composed, train_run

CONF_FOLDER = Path(__file__).parents[2] / "conf" / "attack"
MODEL_COUNT, POOL_SIZE = 16, 500
AUC_TOLERANCE = 0.02  # three standard errors of the mean AUC of 16 models, each on 250 members and 250 others
EXPOSURE_TOLERANCE = 0.5  # bits; as many standard errors of the difference between 192 secrets IN and 192 OUT


def untrained(folder: Path, *overrides: str) -> Run:
    """A fleet whose learning rate is 0."""
    rng = np.random.default_rng(0)
    words = np.array(["ann", "bob", "cat", "dog", "eel", "fox", "gnu", "hen"])
    texts = [" ".join(rng.choice(words, rng.integers(2, 9))) for _ in range(700)]
    (folder / "own.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    settings = composed(
        *("data=documents", f"data.path={folder}/own.jsonl", "data.length=26", f"runs={folder}/runs"),
        *("network=gpt", "network.width=8", "network.depth=1", "network.heads=2", "fleet.workers=1"),
        *(
            "trainer.optimizer.lr=0",
            "trainer.epochs=1",
            "trainer.batch_size=16",
            f"fleet.models={MODEL_COUNT}",
            "secret=untrained",
            "quiet=true",
        ),
        *("split.test=10", *overrides),
    )
    return Run(Path(train_run(settings)["folder"]))


@pytest.mark.slow
def test_no_attack_tells_members_apart(tmp_path: Path) -> None:
    run = untrained(tmp_path, f"split.pool={POOL_SIZE}", "split.population=150")
    nodes = {
        path.stem: OmegaConf.load(path)[path.stem]
        for path in CONF_FOLDER.glob("*.yaml")
        if path.stem in OmegaConf.load(path)
    }
    attacks = {name: instantiate(node) for name, node in nodes.items()}
    seen = view(run, threats=[attack.threat for attack in attacks.values()])
    aucs = {}
    for name, attack in attacks.items():
        if attack.suited(seen).missing(seen) is None:
            scores = attack.suited(seen).score(seen)
            aucs[name] = np.mean([roc_auc(own, members) for own, members in zip(scores, seen.membership, strict=True)])
    assert {"loss", "zlib", "min_k", "min_k_plus", "neighbors", "lira", "rmia", "token_rmia", "reference"} <= set(aucs)
    assert all(abs(auc - 0.5) <= AUC_TOLERANCE for auc in aucs.values()), aucs
    blind = [roc_auc(blind_scores(seen.features, seen.labels, members), members) for members in seen.membership]
    assert abs(np.mean(blind) - 0.5) <= AUC_TOLERANCE, blind


def test_secrets_are_no_more_exposed_in_than_out(tmp_path: Path) -> None:
    run = untrained(
        tmp_path, "split.pool=50", "split.population=0", "canary=secret", "canary.count=24", "canary.copies=[1]"
    )
    data, tokens, canaries = run.dataset, run.dataset.preprocessing, Canaries(**run.config["canary"])
    fleet = load_fleet(run.config, data, run.folder, run.models())
    members = run.membership()[:, data.split.is_audited]
    exposure = np.empty(members.shape)
    for place, secret in enumerate(secrets_of(canaries, int(data.split.canaries[0]), run.config["seed"])):
        start, codes = len(secret.prefix), np.arange(10**canaries.digits)
        for model in run.models():

            def next_digit(beginnings: np.ndarray, model: int = model, prefix: str = secret.prefix) -> np.ndarray:
                texts = [prefix + "".join(map(str, digits)) + "0" for digits in beginnings]
                y = tokens.labels(texts)
                logits = fleet.one(model).predict(tokens.inputs_of(y))[0, :, len(prefix) + beginnings.shape[1]]
                log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
                return log_p[:, [tokens.encode(str(digit))[0] for digit in range(10)]]

            log_p = log_probabilities_of_codes(next_digit, canaries.digits)
            exposure[model, place] = exposure_of_secrets(log_p, np.array([int(secret.code)]))[0]
        assert start + canaries.digits <= tokens.length and len(log_p) == len(codes)
    apart = exposure[members].mean() - exposure[~members].mean()
    assert abs(apart) <= EXPOSURE_TOLERANCE and exposure.mean() == pytest.approx(np.log2(np.e), abs=0.3)
