"""Names of columns that hold identifiers: id, number or code, alone, in the plural or at the end of a word."""

from __future__ import annotations

import re

IDENTIFIER_WORDS = {"id", "number", "code", "nr", "nbr", "ssn", "mrn"}
LAST_IDENTIFIER_WORDS = {"no", "num"}
"""Words that mean numbers at the end of a name alone: `account_no`, but not `no_of_visits`."""
IDENTIFIER_ENDINGS = ("id", "number", "code", "nr", "nbr", "nummer", "numero")
WORDS_ON_ID = {
    *("acid", "aid", "amid", "android", "arid", "avoid", "bid", "candid", "carotid", "covid", "did", "druid", "fluid"),
    *("grid", "hid", "humid", "hybrid", "invalid", "kid", "laid", "lid", "lipid", "liquid", "maid", "mid", "opioid"),
    *("paid", "placid", "prepaid", "raid", "rapid", "rigid", "said", "solid", "squid", "steroid", "thyroid", "typhoid"),
    *("unpaid", "valid", "vivid", "void"),
}
"""Words that end in id and mean none."""


def is_identifier_name(name: str) -> bool:
    """True for such as patientIDs, passengerid, patient_nbr, Kundennr, account_no."""
    words = [word.lower() for word in re.findall(r"[A-Z]+s?(?![a-z])|[A-Z]?[^\W\d_A-Z]+", name)]
    singular = [word.removesuffix("s") for word in words]
    return (
        not IDENTIFIER_WORDS.isdisjoint(singular)
        or any(word.endswith(IDENTIFIER_ENDINGS) and word not in WORDS_ON_ID for word in singular)
        or (len(singular) > 1 and singular[-1] in LAST_IDENTIFIER_WORDS)
    )
