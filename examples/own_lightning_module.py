"""Your own LightningModule under DP-SGD: one callback, the claim it proves, and an attack on what came out.

    python examples/own_lightning_module.py

Each record is a member by the toss of a coin: the lower bounds on ε rest on that.
"""

import numpy as np
import pytorch_lightning as pl
import torch
from sklearn.datasets import make_classification
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from palisade.attacks import LossThreshold, View
from palisade.defenses.dp_sgd import DPSGD
from palisade.evaluation import audit_scores

QUIET_RUN = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class MyModule(pl.LightningModule):
    """Knows nothing of privacy."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(32, 128), nn.Tanh(), nn.Linear(128, 2))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.network(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=5e-3)


def main() -> None:
    x, y = make_classification(1200, 32, n_informative=8, flip_y=0.2, random_state=0)
    inputs, labels = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    member = np.random.default_rng().random(len(y)) < 0.5
    loader = DataLoader(TensorDataset(inputs[member], labels[member]), batch_size=128, shuffle=True)
    private = DPSGD(epsilon=4, delta=1e-4)
    for name, callbacks in (("undefended", []), ("DP-SGD", [private])):
        module = MyModule()
        pl.Trainer(max_epochs=60, callbacks=callbacks, accelerator="cpu", **QUIET_RUN).fit(module, loader)
        logits = module.network(inputs).detach().numpy()
        accuracy = (logits.argmax(axis=1) == y)[~member].mean()
        scores = LossThreshold().score(View(logits=logits[None], labels=y, membership=member[None]))[0]
        audit = audit_scores(scores[member], scores[~member], delta=1e-4)
        print(f"\n{name}: {100 * accuracy:.1f} % accuracy on records that were left out\n{audit}\n")
    print(f"proven: {private.statement.sentence()}")


if __name__ == "__main__":
    main()
