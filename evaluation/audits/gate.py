"""The gate of a pipeline for a model that is there already."""

from __future__ import annotations

from evaluation.audits.audited import Audited
from evaluation.audits.flags import masked, shared_records, ties
from evaluation.findings import tpr_at
from evaluation.limit import Limit, found_text, upper


def judge(found: Audited, limit: Limit) -> tuple[str, bool]:
    """A line, and whether the model is known to keep the limit.

    What cannot be measured does not pass: an FPR that takes more records, attacks that were all skipped, and answers or
    records behind which attacks look weaker than they are.
    """
    rows = [found.get(tpr_at(limit.at), attack) for attack in found.attacks]
    doubts = [flag.name for check in (shared_records, ties, masked) for flag in check(found)]
    if not rows:
        objection = "every attack was skipped, so nothing was measured"
    elif any(row.high is None for row in rows):
        objection = f"{100 * limit.at:g} % FPR cannot be resolved: it takes {1 / limit.at:.0f} non-members"
    elif upper(highest := max(rows, key=upper)) > limit.most:
        objection = f"{found_text(highest)} may be more"
    elif doubts:
        objection = f"the audit is flagged: {', '.join(doubts)}"
    else:
        return f"gate: {limit}\nkept: {found_text(highest)}", True
    return f"gate: {limit}\nEXCEEDED: {objection}", False
