"""The extract of a hospital's table that models learn from, and patients who are kept aside.

    python examples/hospital/prepare.py <folder of diabetic_data.csv> [patients]

Writes stays.csv, all stays of 3,000 patients (or of as many as are asked for) drawn by lot, and others.csv, those of
10,000 further ones, whom no model ever sees: it is tested on them, and they are the non-members of the last audit.
Codes of admission and discharge become the words of IDs_mapping.csv. Stays that ended in death or in a hospice are left
out, since nobody can return from them.
"""

import io
import sys
from pathlib import Path

import numpy as np
import pandas as pd

OTHER_PATIENTS = 10_000
NO_RETURN = "Expired|Hospice"
ANSWERS_BY_DELAY = {"NO": "no", ">30": "yes", "<30": "yes"}
"""Readmitted after so many days."""


def main(folder: Path, patients: int = 3000) -> None:
    stays = pd.read_csv(next(folder.glob("diabetic_data.csv*")), dtype=str, keep_default_na=False)
    for name, words in code_book((folder / "IDs_mapping.csv").read_text(encoding="utf-8")).items():
        stays[name.removesuffix("_id")] = stays.pop(name).map(words)
    stays = stays[~stays["discharge_disposition"].str.contains(NO_RETURN)]
    stays["readmitted"] = stays["readmitted"].map(ANSWERS_BY_DELAY)
    drawn = np.random.default_rng(0).permutation(stays["patient_nbr"].unique())
    parts = {"stays.csv": drawn[:patients], "others.csv": drawn[patients : patients + OTHER_PATIENTS]}
    for file, chosen in parts.items():
        part = stays[stays["patient_nbr"].isin(chosen)]
        part.to_csv(file, index=False)
        print(f"{file}: {len(part):,} stays of {len(chosen):,} patients")


def code_book(text: str) -> dict[str, dict[str, str]]:
    """The words of every code, by column: three tables in one file, with a line of one comma between them."""
    tables = [pd.read_csv(io.StringIO(part), dtype=str, keep_default_na=False) for part in text.split("\n,\n")]
    return {
        codes.columns[0]: codes.set_index(codes.columns[0])["description"].str.strip().to_dict() for codes in tables
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
