"""The gate of a pipeline for a model that is there already."""

from __future__ import annotations

from palisade.evaluation.audits.audited import Audited, tied
from palisade.evaluation.audits.flags import inverted, masked, shared_records
from palisade.evaluation.limit import Limit, tpr_text, upper
from palisade.evaluation.result import TIED, tpr_at


def judge(result: Audited, limit: Limit) -> tuple[str, bool]:
    """A line, and whether the model is known to keep the limit.

    What cannot be measured does not pass: an FPR that takes more records, attacks that were all skipped or whose scores
    all tie at the threshold, and answers or records behind which attacks look weaker than they are.
    """
    split = [attack for attack in result.attacks if tied(result, attack) <= TIED]  # others reach a smaller FPR only
    rows = [result.get(tpr_at(limit.at), attack=attack) for attack in split]
    doubts = [flag.name for check in (shared_records, masked) for flag in check(result)]
    if result.attacks and not rows:
        objection = "the scores of every attack tie at the threshold, so that their TPR is that of a smaller FPR"
    elif not rows:
        objection = "every attack was skipped, so nothing was measured"
    elif any(row.high is None for row in rows):
        objection = f"{100 * limit.at:g} % FPR cannot be resolved: it takes {1 / limit.at:.0f} non-members"
    elif upper(highest := max(rows, key=upper)) > limit.most:
        objection = f"{tpr_text(highest)} may be more"
    elif len(list(inverted(result))) == len(result.attacks):
        objection = "members rank below non-members in every attack; are the two files swapped?"
    elif doubts:
        objection = f"the audit is flagged: {', '.join(doubts)}"
    else:
        return f"gate: {limit}\nkept: {tpr_text(highest)}", True
    return f"gate: {limit}\nEXCEEDED: {objection}", False
