"""Token-level RMIA: which words does the model know better than models are expected to?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from palisade.attacks.parts.base import Attack
from palisade.attacks.parts.blocks import in_blocks
from palisade.attacks.parts.expected_confidence import expected_online, log_ratio
from palisade.attacks.parts.threat import ThreatModel
from palisade.attacks.parts.view import View


class TokenRMIA(Attack):
    """Score: mean over the tokens of log p_t(θ) − log p̄_t, with p̄_t = ½(mean_IN + mean_OUT) at every token.

    After InfoRMIA (Tao & Shokri 2025, "(Token-Level) InfoRMIA"), which adds the divergence between the expected and the
    target's law over the vocabulary at each place. That takes whole laws, which are never stored. Gained over RMIA: it
    needs no population and has no ties, and it can be read word by word: which ones were learnt by heart. It does not
    find more: on simulated fleets its AUC was that of RMIA (0.893 and 0.896), with fewer members at 1 % FPR (13 and
    17 %).
    """

    name = "token_rmia"
    idea = "Compares, word by word, how sure the model is with how sure models are of it on average."
    threat = ThreatModel(outputs="probabilities", shadows="online", tokens=("log_probabilities",))

    def _score(self, view: View) -> Float[np.ndarray, "models records"]:
        tokens = view.tokens
        assert tokens is not None

        def score(block: slice) -> Float[np.ndarray, "models block"]:
            texts = tokens.about(block)
            log_p = np.where(texts.mask, texts.log_probabilities, 0.0).astype(np.float64)
            best = log_p.max(axis=0)  # the ratio stays as it is, and no token's probabilities all vanish
            left_out, total = view.left_out_of(block), np.zeros(log_p.shape[:2])
            for place in range(log_p.shape[2]):
                own = log_p[:, :, place] - best[:, place]
                ratio = log_ratio(own, expected_online(np.exp(own), view.membership[:, block], view.others, left_out))
                total += np.where(texts.mask[:, place], ratio, 0.0)
            return total / texts.lengths

        return in_blocks((tokens.models, tokens.records), tokens.blocks(), score)
