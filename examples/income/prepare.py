"""Two files of people, for training and for testing alone, each with a header and a column of age bands.

    python examples/income/prepare.py adult.data adult.test

Writes income.csv and income_test.csv. UCI Adult names no columns, begins its second file with a comment, and ends the
labels in it with a full stop; a file of your own needs the last column alone, by which results are read.
"""

import sys

import pandas as pd

COLUMN_NAMES = (
    *("age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation", "relationship"),
    *("race", "sex", "capital_gain", "capital_loss", "hours_per_week", "native_country", "income"),
)
AGE_BANDS = {"under 30": 0, "30-44": 30, "45-59": 45, "60 and over": 60}
"""The lowest age of each."""


def main(train: str, test: str) -> None:
    for source, file in ((train, "income.csv"), (test, "income_test.csv")):
        people = pd.read_csv(source, names=COLUMN_NAMES, comment="|", skipinitialspace=True, keep_default_na=False)
        people["income"] = people["income"].str.rstrip(".")
        people["age_band"] = pd.cut(people["age"], [*AGE_BANDS.values(), 200], right=False, labels=list(AGE_BANDS))
        people.to_csv(file, index=False)
        print(f"{file}: {len(people):,} people")


if __name__ == "__main__":
    main(*sys.argv[1:])
