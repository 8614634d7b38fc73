"""Facts of the data in a report: the number of records and persons, in which roles, and a hash of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from palisade.data.split import ROLES

if TYPE_CHECKING:
    from palisade.targets.run import Run


def data_facts(run: Run) -> dict[str, Any]:
    """Plain numbers that depend on nobody's membership.

    Private data are known by a hash that is keyed with the run's secret, so that nobody can test a guess about them;
    public data by the checksum that was published for them.
    """
    data, split = run.dataset, run.dataset.split
    roles = {role: getattr(split, role) for role in ROLES}
    everyone = np.concatenate(list(roles.values()))
    persons = None if split.record_persons is None else len(np.unique(split.record_persons[everyone]))
    return {
        "records": len(everyone),
        "persons": persons,
        "classes": list(data.classes),
        "roles": {role: len(records) for role, records in roles.items()},
        "canaries": len(split.canaries),
        "published": data.published is not None,
        "checksum": data.published or f"hmac-sha256:{(run.folder / 'private' / 'data').read_text()}",
    }
