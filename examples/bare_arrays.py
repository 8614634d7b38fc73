"""Attacks on bare arrays: sixteen random forests, each trained on its own half of the records, and who was in it.

    python examples/bare_arrays.py

Nothing here was trained by this project: an attack takes what models answered (probabilities, logits or labels) for
every record, and which model was trained on which. Each model is the target once and a shadow for the others.
"""

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

from palisade.attacks import LiRA, LossThreshold, View
from palisade.evaluation import audit_scores


def main() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    membership = np.random.default_rng(0).random((16, len(y))) < 0.5  # (models, records)
    for depth in (2, None):
        answers = [
            RandomForestClassifier(50, max_depth=depth, random_state=k).fit(x[inside], y[inside]).predict_proba(x)
            for k, inside in enumerate(membership)
        ]
        view = View(probabilities=np.stack(answers), labels=y, membership=membership)
        for attack in (LossThreshold(), LiRA()):
            scores = attack.score(view)[0]  # of the first model; higher means more likely a member
            known = ~np.isnan(scores)  # some records lack a shadow that was trained on them, or one that was not
            audit = audit_scores(scores[known & membership[0]], scores[known & ~membership[0]])
            print(f"depth {depth}, {attack.name}: AUC {audit.auc.value:.3f} [{audit.auc.low:.3f}–{audit.auc.high:.3f}]")
    print(f"\nThe last one in full:\n{audit}")


if __name__ == "__main__":
    main()
