"""Roles of records, and membership: which model is trained on which record of the pool."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Bool, Int64
from pydantic import Field

from palisade.data.secret import Secret
from palisade.fields import CheckedFields, NonNegative

SPLIT_ROLES = ("pool", "validation", "reference", "population", "test")
PUBLISHED_TEST = "published"


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """The records of each role, as sorted indices; no record and no person has two roles.

    A record with two roles ruins what is measured: a "non-member" that a defense was tuned on looks like a member.

    Args:
        pool: may be trained on; which model trains on which of them is decided by `Membership`.
        validation: a defense may choose epochs or settings by them.
        reference: records that a defense may train on without noise, public ones or not.
        population: the attacker's own non-members.
        test: utility only.
        record_persons: the person of every record of the data set, or None if records are the unit of privacy.
        canaries: pool records made to be vulnerable. If there are any, only their membership is random, and only
            they are attacked; all other pool records are trained on.

    Raises:
        ValueError: if two roles share a record or a person, or a canary is not in the pool.
    """

    pool: Int64[np.ndarray, " pool"]
    validation: Int64[np.ndarray, " validation"]
    reference: Int64[np.ndarray, " reference"]
    population: Int64[np.ndarray, " population"]
    test: Int64[np.ndarray, " test"]
    record_persons: Int64[np.ndarray, " records"] | None = None
    canaries: Int64[np.ndarray, " canaries"] = field(default_factory=lambda: np.array([], dtype=np.int64))

    def __post_init__(self) -> None:
        for name in (*SPLIT_ROLES, "canaries"):
            object.__setattr__(self, name, np.sort(np.asarray(getattr(self, name), dtype=np.int64)))
        if outside := len(np.setdiff1d(self.canaries, self.pool)):
            raise ValueError(f"split.canaries: {outside} are not in the pool; add them to it")
        members = [getattr(self, role) for role in SPLIT_ROLES]
        if _repeats(members):
            raise ValueError(f"split: {_repeats(members)} records have two roles; roles must be disjoint")
        if self.record_persons is not None:
            persons = [np.unique(self.record_persons[records]) for records in members]
            if _repeats(persons):
                raise ValueError(f"split: {_repeats(persons)} persons have two roles; keep a person's records together")

    @property
    def persons(self) -> Int64[np.ndarray, " pool"] | None:
        """The person of each pool record, or None."""
        return None if self.record_persons is None else self.record_persons[self.pool]

    @property
    def audited(self) -> Int64[np.ndarray, " audited"]:
        """The records whose membership is random: the canaries if there are any, else the whole pool."""
        return self.canaries if len(self.canaries) else self.pool

    @property
    def is_audited(self) -> Bool[np.ndarray, " pool"]:
        """Pool records that are audited."""
        return np.isin(self.pool, self.audited)

    def require(self, role: str, *, who: str) -> None:
        """Raises ValueError if `role` is empty, with the share that `who` (such as `defense=distillation`) needs."""
        if not len(getattr(self, role)):
            raise ValueError(f"split.{role}=0: expected {role} records, which {who} needs; set split.{role}=0.1")


def _repeats(groups: Sequence[np.ndarray]) -> int:
    indices = np.concatenate(groups)
    return len(indices) - len(np.unique(indices))


@dataclass(frozen=True, kw_only=True)
class Roles(CheckedFields):
    """Size of each role: a share of the data (at most 1) or a count (whole, above 1).

    Shares and counts are of persons when the data names persons, otherwise of records. The pool is the same
    whatever the other roles are, and the roles of two runs with one `seed` agree.

    Args:
        pool: what the models of a fleet are trained on.
        validation: see `Split`.
        reference: see `Split`.
        population: see `Split`.
        test: None takes the rest; `published` takes the records that the publisher set apart for testing, and the
            shares of the other roles are then of the remaining ones.

    Raises:
        ValueError: if a value is neither a share nor a count, or if shares exceed 1.
    """

    pool: NonNegative = 0.7
    validation: NonNegative = 0
    reference: NonNegative = 0
    population: NonNegative = 0
    test: NonNegative | Literal["published"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for role, value in self._stated_sizes():
            if value > 1 and value % 1:
                raise ValueError(f"{role}={value}: expected a share from 0 to 1, or a count >= 2; choose e.g. 0.1")
        shares = [value for _, value in self._stated_sizes() if value <= 1]
        if sum(shares) > 1 + 1e-9:
            raise ValueError(f"pool={self.pool:g}: expected shares of a sum <= 1, not {sum(shares):g}; lower one")

    def draw(
        self,
        records: int,
        persons: Int64[np.ndarray, " records"] | None,
        seed: int,
        published_test: Int64[np.ndarray, " test"] | None = None,
        reference: Int64[np.ndarray, " reference"] | None = None,
        test: Int64[np.ndarray, " test"] | None = None,
    ) -> Split:
        """Deals the records out by the public `seed`; all records of one person get one role.

        Args:
            records: how many there are.
            persons: the person of each record, or None.
            seed: public; it decides nothing that an attacker must not know.
            published_test: the records that the publisher set apart for testing, if it did.
            reference: the public records of a file of their own, if there is one; all others are dealt out.
            test: the records of a file of their own for testing, likewise.

        Raises:
            ValueError: if the data has too few records, or if a role that was asked for gets none.
        """
        apart: dict[str, np.ndarray] = {}
        if reference is not None:
            if self.reference:
                raise ValueError(f"split.reference={self.reference:g}: expected 0 beside data.reference; remove one")
            apart["reference"] = reference
        if test is not None:
            if self.test is not None:
                raise ValueError(f"split.test={self.test}: expected null beside data.test; remove one")
            apart["test"] = test
        if self.test == PUBLISHED_TEST:
            if published_test is None:
                raise ValueError(
                    f"split.test={PUBLISHED_TEST}: expected data with test records of their own; set split.test=null"
                )
            apart["test"] = published_test
        rest = np.setdiff1d(np.arange(records), np.concatenate([*apart.values(), np.array([], dtype=np.int64)]))
        dealt = self._deal(rest, None if persons is None else persons[rest], seed, tests="test" not in apart)
        return Split(**{**dealt, **apart}, record_persons=persons)

    def _deal(
        self,
        records: Int64[np.ndarray, " records"],
        persons: Int64[np.ndarray, " records"] | None,
        seed: int,
        *,
        tests: bool,
    ) -> dict[str, Int64[np.ndarray, "_"]]:
        """The records of each role; some must be left for testing if `tests`."""
        units, unit = (len(records), np.arange(len(records))) if persons is None else _persons(persons)
        noun = "records" if persons is None else "persons"
        wanted = {role: value * units if value <= 1 else value for role, value in self._stated_sizes()}
        if sum(wanted.values()) > units + 0.5:
            asked = ", ".join(f"split.{role}={value:g}" for role, value in self._stated_sizes() if value)
            total = sum(wanted.values())
            raise ValueError(f"{asked}: expected at most {units} {noun} together, not {total:g}; lower one of them")
        wanted.setdefault("test", units - sum(wanted.values()) if tests else 0)

        # Whole numbers from cumulated shares: a share is off by less than one, a count not at all.
        ends = [math.floor(total + 0.5) for total in np.cumsum([wanted[role] for role in SPLIT_ROLES])]
        order = np.random.default_rng([seed, *b"roles"]).permutation(units)
        role_of_unit = np.full(units, -1, dtype=np.int8)
        for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            role_of_unit[order[start:end]] = number
            if end == start and (SPLIT_ROLES[number] != "test" or tests):
                self._check_wanted(SPLIT_ROLES[number], units, noun)
        role = role_of_unit[unit]
        return {name: records[role == number] for number, name in enumerate(SPLIT_ROLES)}

    def _stated_sizes(self) -> list[tuple[str, float]]:
        values = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return [(role, value) for role, value in values if value is not None and value != PUBLISHED_TEST]

    def _check_wanted(self, role: str, units: int, noun: str) -> None:
        """Raises ValueError if a role that got no record was asked for."""
        if role == "test":
            raise ValueError(f"split.pool={self.pool:g}: expected to leave some of {units} {noun} for test; lower it")
        if role == "pool" or getattr(self, role):
            share = getattr(self, role)
            least = f"{0.5 / units:.2g}"
            raise ValueError(f"split.{role}={share:g}: expected at least 1 of {units} {noun}; choose more than {least}")


@dataclass(frozen=True, kw_only=True)
class Membership(CheckedFields):
    """Membership of pool records in each model; the secret that every attack is after.

    Independent fair coins are the default: in fleets with equal numbers of members and non-members per record,
    leaving the target out reveals something about the target, and scores are biased low.

    Args:
        how: `bernoulli`: each record (or person) is a member of each model with probability `share`.
            `complementary`: models 2j and 2j + 1 split the pool between them.
            `fixed`: all models have the same members, the classical split.
        share: p in (0, 1); ½ for `complementary`. With `fixed`, 1 puts the whole pool into every model.

    Raises:
        ValueError: for an unknown `how` or a share outside its range.
    """

    how: Literal["bernoulli", "complementary", "fixed"] = "bernoulli"
    share: Annotated[float, Field(gt=0, le=1)] = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.how == "complementary" and self.share != 0.5:
            raise ValueError(f"share={self.share:g}: expected 0.5, since complementary models halve the pool; set it")
        if self.share == 1 and self.how != "fixed":
            raise ValueError(f"share={self.share:g}: expected a number < 1 unless how=fixed; choose e.g. 0.5")

    def draw(self, split: Split, models: Sequence[int], secret: Secret) -> Bool[np.ndarray, "models pool"]:
        """The members of the models asked for; a row depends on the secret and the model's own index only.

        Raises:
            ValueError: if there are canaries whose memberships would not be independent.
        """
        self._check_canaries(len(split.canaries))
        audited, persons = split.is_audited, split.persons
        units, unit = (len(split.audited), slice(None)) if persons is None else _persons(persons[audited])
        drawn = [self._row(units, model, secret) for model in models]
        rows = np.ones((len(models), len(split.pool)), dtype=bool)
        rows[:, audited] = np.array(drawn, dtype=bool).reshape(len(models), units)[:, unit]
        return rows

    def public_size(self, pool: int, canaries: int = 0) -> int:
        """N = round(p · pool): known to everybody beforehand, unlike the number of a model's members.

        Args:
            pool: how many records the pool has, or persons where they are the unit.
            canaries: how many of them are canaries; the others then count in full.

        Raises:
            ValueError: if there are canaries whose memberships would not be independent.
        """
        self._check_canaries(canaries)
        audited = canaries or pool
        return pool - audited + round(self.share * audited)

    def groups(self, models: Sequence[int]) -> Int64[np.ndarray, " models"]:
        """Groups of models that are left out together: complementary models determine each other's membership."""
        indices = np.asarray(models, dtype=np.int64)
        return indices // 2 if self.how == "complementary" else indices

    def _check_canaries(self, canaries: int) -> None:
        if canaries and self.how != "bernoulli":
            raise ValueError(
                f"membership.how={self.how}: expected bernoulli, since canaries need independent coins; set it, or"
                " canary=none"
            )

    def _row(self, units: int, model: int, secret: Secret) -> Bool[np.ndarray, " units"]:
        if self.how == "fixed":
            drawn = secret.numpy("membership").permutation(units)
            return drawn < round(self.share * units)
        if self.how == "complementary":
            first = secret.numpy("membership", model - model % 2).random(units) < self.share
            return first ^ bool(model % 2)
        return secret.numpy("membership", model).random(units) < self.share


def _persons(persons: Int64[np.ndarray, " records"]) -> tuple[int, Int64[np.ndarray, " records"]]:
    distinct, person = np.unique(persons, return_inverse=True)
    return len(distinct), person
