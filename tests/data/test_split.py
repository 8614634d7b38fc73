from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palisade.data.secret import Secret
from palisade.data.split import SPLIT_ROLES, Membership, Roles, Split

TEST_SECRET = Secret.from_text("test")


@st.composite
def roles_and_data(draw):
    weights = draw(st.lists(st.integers(0, 5), min_size=4, max_size=4))
    total = weights[0] + 1 + sum(weights[1:]) + 2
    shares = {"pool": (weights[0] + 1) / total} | {
        role: weight / total for role, weight in zip(SPLIT_ROLES[1:4], weights[1:], strict=True)
    }
    count = draw(st.integers(60, 200))
    persons = draw(st.none() | st.lists(st.integers(0, 59), min_size=count, max_size=count))
    if persons is not None:
        persons = np.array([*range(60), *persons[60:]])
    return Roles(**shares), count, persons, draw(st.integers(0, 2**32))


@given(roles_and_data())
@settings(deadline=None, max_examples=50)
def test_roles_are_disjoint_complete_and_of_the_right_size(case):
    roles, count, persons, seed = case
    split = roles.draw(count, persons, seed)
    parts = [getattr(split, role) for role in SPLIT_ROLES]
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    units = np.arange(count) if persons is None else persons
    owners = [set(units[part].tolist()) for part in parts]
    assert sum(map(len, owners)) == len(set(units.tolist()))
    for role, part, owner in zip(SPLIT_ROLES[:4], parts, owners, strict=False):
        assert part.dtype == np.int64 and (np.diff(part) > 0).all()
        assert abs(len(owner) - getattr(roles, role) * len(set(units.tolist()))) < 1


@given(roles_and_data())
@settings(deadline=None, max_examples=25)
def test_a_seed_fixes_the_split_and_the_pool_ignores_the_other_roles(case):
    roles, count, persons, seed = case
    split, again = roles.draw(count, persons, seed), roles.draw(count, persons, seed)
    alone = Roles(pool=roles.pool).draw(count, persons, seed)
    for role in SPLIT_ROLES:
        assert np.array_equal(getattr(split, role), getattr(again, role))
    assert np.array_equal(split.pool, alone.pool)


def test_seeds_differ():
    assert not np.array_equal(Roles().draw(100, None, 0).pool, Roles().draw(100, None, 1).pool)


def test_every_record_gets_every_role_equally_often():
    pools = np.zeros(20)
    for seed in range(1000):
        pools[Roles(pool=0.7).draw(20, None, seed).pool] += 1
    assert np.abs(pools / 1000 - 0.7).max() < 0.06  # four standard deviations


def test_counts_are_exact_beside_shares():
    split = Roles(pool=4000, validation=0.05, reference=101).draw(5010, None, 0)
    assert [len(getattr(split, role)) for role in SPLIT_ROLES] == [4000, 251, 101, 0, 658]


def test_test_records_may_be_limited():
    split = Roles(pool=0.5, test=10).draw(100, None, 0)
    assert (len(split.pool), len(split.test)) == (50, 10)


@given(roles_and_data())
@settings(deadline=None, max_examples=25)
def test_the_published_test_part_stays_and_the_rest_is_dealt_as_if_alone(case):
    roles, count, _, seed = case
    test = np.random.default_rng(seed).permutation(count)[: count // 4]
    rest = np.setdiff1d(np.arange(count), test)
    split = replace(roles, test="published").draw(count, None, seed, test)
    assert split.test.tolist() == sorted(test.tolist())
    alone = roles.draw(len(rest), None, seed)
    for role in SPLIT_ROLES[:4]:
        assert np.array_equal(getattr(split, role), rest[getattr(alone, role)])


def test_everything_but_the_published_test_part_may_be_the_pool():
    split = Roles(pool=1, test="published").draw(100, None, 0, np.arange(80, 100))
    assert split.pool.tolist() == list(range(80)) and split.test.tolist() == list(range(80, 100))
    few = Roles(pool=10, test="published").draw(100, None, 0, np.arange(80, 100))
    assert (len(few.pool), len(few.test)) == (10, 20)


def test_persons_of_the_published_test_part_are_in_no_other_role():
    persons = np.arange(100) // 2
    split = Roles(pool=0.5, test="published").draw(100, persons, 0, np.arange(80, 100))
    assert len(split.pool) == 40
    with pytest.raises(ValueError, match=r"^split: \d+ persons have two roles"):
        Roles(pool=1, test="published").draw(100, persons, 0, np.arange(79, 100))


def test_a_published_test_part_changes_nothing_unless_asked_for():
    asked, not_asked = Roles().draw(100, None, 0, np.arange(20)), Roles().draw(100, None, 0)
    assert all(np.array_equal(getattr(asked, role), getattr(not_asked, role)) for role in SPLIT_ROLES)
    with pytest.raises(ValueError, match=r"^split.test=published"):
        Roles(test="published").draw(100, None, 0)


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"pool": -0.1}, r"^pool=-0.1: expected a number >= 0; "),
        ({"reference": 1.5}, r"^reference=1.5: expected a share from 0 to 1, or a count"),
        ({"test": float("nan")}, r"^test=nan: expected a finite number >= 0, or published, or null; "),
        ({"test": "all"}, r"^test=all: expected a number >= 0, or published, or null; "),
        ({"pool": "most"}, r"^pool=most: "),
        ({"pool": 0.7, "reference": 0.4}, r"^pool=0.7: expected shares of a sum <= 1, not 1.1; lower one$"),
    ],
)
def test_impossible_roles(roles, message):
    with pytest.raises(ValueError, match=message):
        Roles(**roles)


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"pool": 0}, r"^split.pool=0: expected at least 1 of 100 records; choose more than 0.005$"),
        ({"pool": 1.0}, r"^split.pool=1: expected to leave some of 100 records for test; lower it$"),
        ({"pool": 5000}, r"^split.pool=5000: expected at most 100 records together, not 5000; lower one of them$"),
        (
            {"pool": 90, "reference": 0.2},
            r"^split.pool=90, split.reference=0.2: expected at most 100 records together, not 110; ",
        ),
        ({"reference": 0.001}, r"^split.reference=0.001: expected at least 1 of 100 records; choose more than 0.005$"),
        ({"test": 0}, r"^split.pool=0.7: expected to leave some of 100 records for test; lower it$"),
    ],
)
def test_too_few_records(roles, message):
    with pytest.raises(ValueError, match=message):
        Roles(**roles).draw(100, None, 0)


def test_persons_are_counted_as_persons():
    with pytest.raises(ValueError, match=r"^split.pool=50"):
        Roles(pool=50).draw(100, np.arange(100) % 10, 0)


def test_what_needs_an_empty_role_says_the_share():
    split = Roles(validation=0.1).draw(100, None, 0)
    split.require("validation", who="defense=early_stopping")
    message = (
        r"^split.reference=0: expected reference records, which defense=distillation needs; set split.reference=0.1$"
    )
    with pytest.raises(ValueError, match=message):
        split.require("reference", who="defense=distillation")


def split_of(**roles):
    empty = {role: np.array([], dtype=np.int64) for role in SPLIT_ROLES}
    return Split(**empty | {role: np.array(v) if role in SPLIT_ROLES else v for role, v in roles.items()})


def test_overlap_is_refused():
    with pytest.raises(ValueError, match=r"^split: 2 records have two roles; roles must be disjoint$"):
        split_of(pool=[1, 2, 3], test=[3, 2])
    with pytest.raises(ValueError, match=r"^split: 1 persons have two roles; keep a person's records together$"):
        split_of(pool=[0, 1], test=[2], record_persons=np.array([7, 8, 8]))


RECORDS_SPLIT = Roles(pool=0.8).draw(500, None, 0)
PERSONS_SPLIT = Roles(pool=0.8).draw(500, np.random.default_rng(0).integers(0, 83, 500), 0)


@pytest.mark.parametrize("how", ["bernoulli", "complementary", "fixed"])
@given(models=st.lists(st.integers(0, 40), min_size=1, max_size=6), people=st.booleans())
@settings(deadline=None, max_examples=25)
def test_a_row_is_the_same_whatever_else_is_asked(how, models, people):
    membership, split = Membership(how=how), PERSONS_SPLIT if people else RECORDS_SPLIT
    rows = membership.draw(split, models, TEST_SECRET)
    assert rows.shape == (len(models), len(split.pool)) and rows.dtype == bool
    for model, row in zip(models, rows, strict=True):
        assert np.array_equal(row, membership.draw(split, [model], TEST_SECRET)[0])
        if people:
            assert all(len(set(row[split.persons == person])) == 1 for person in split.persons)


def test_bernoulli_rows_are_independent_coins():
    rows = Membership(share=0.3).draw(RECORDS_SPLIT, range(400), TEST_SECRET)
    assert rows.mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / rows.size))
    sizes = rows.sum(axis=1)
    assert sizes.var() == pytest.approx(0.21 * 400, rel=0.3)  # binomial, not of one fixed size
    assert np.abs(np.corrcoef(rows[:, :40].T) - np.eye(40)).max() < 0.25
    assert not np.array_equal(rows, Membership(share=0.3).draw(RECORDS_SPLIT, range(400), Secret.from_text("other")))


def test_complementary_pairs_halve_the_pool():
    membership = Membership(how="complementary")
    rows = membership.draw(RECORDS_SPLIT, range(6), TEST_SECRET)
    assert np.array_equal(rows[0::2], ~rows[1::2])
    assert not np.array_equal(rows[0], rows[2])
    assert membership.groups([0, 1, 2, 3, 5]).tolist() == [0, 0, 1, 1, 2]
    assert Membership().groups([0, 1, 4]).tolist() == [0, 1, 4]


def test_fixed_members_are_one_set():
    membership = Membership(how="fixed", share=0.31)
    rows = membership.draw(RECORDS_SPLIT, [0, 7], TEST_SECRET)
    assert np.array_equal(rows[0], rows[1]) and rows[0].sum() == membership.public_size(400) == 124
    assert Membership(how="fixed", share=1).draw(RECORDS_SPLIT, [0], TEST_SECRET).all()


def test_public_size_is_known_beforehand():
    assert Membership().public_size(4000) == 2000
    assert Membership(share=0.3).public_size(401) == 120


def with_canaries(split, count):
    return replace(split, canaries=split.pool[:count])


@given(count=st.integers(1, 399), share=st.floats(0.1, 0.9), people=st.booleans())
@settings(deadline=None, max_examples=25)
def test_only_the_membership_of_canaries_is_random(count, share, people):
    plain = (
        replace(PERSONS_SPLIT, record_persons=np.arange(500)) if people else RECORDS_SPLIT
    )  # a canary is a person of its own
    count = min(count, len(plain.pool))
    split, membership = with_canaries(plain, count), Membership(share=share)
    assert split.audited.tolist() == split.canaries.tolist() and split.is_audited.sum() == count
    rows = membership.draw(split, range(3), TEST_SECRET)
    assert rows.shape == (3, len(split.pool)) and rows[:, ~split.is_audited].all()
    coins = [TEST_SECRET.numpy("membership", model).random(count) < share for model in range(3)]
    assert np.array_equal(rows[:, split.is_audited], coins)
    assert membership.public_size(len(split.pool), count) == len(split.pool) - count + round(share * count)


def test_canaries_are_independent_fair_coins():
    split = with_canaries(RECORDS_SPLIT, 40)
    rows = Membership().draw(split, range(400), TEST_SECRET)[:, split.is_audited]
    assert rows.mean() == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / rows.size))
    assert np.abs(np.corrcoef(rows.T) - np.eye(40)).max() < 0.25


def test_without_canaries_the_whole_pool_is_audited():
    assert (
        np.array_equal(RECORDS_SPLIT.audited, RECORDS_SPLIT.pool)
        and RECORDS_SPLIT.is_audited.all()
        and not len(RECORDS_SPLIT.canaries)
    )
    coins = [TEST_SECRET.numpy("membership", model).random(400) < 0.5 for model in (0, 3)]
    assert np.array_equal(Membership().draw(RECORDS_SPLIT, [0, 3], TEST_SECRET), coins)


@pytest.mark.parametrize("how", ["complementary", "fixed"])
def test_canaries_need_independent_memberships(how):
    message = rf"^membership.how={how}: expected bernoulli, since .*; set it, or canary=none$"
    with pytest.raises(ValueError, match=message):
        Membership(how=how).draw(with_canaries(RECORDS_SPLIT, 3), [0], TEST_SECRET)
    with pytest.raises(ValueError, match=message):
        Membership(how=how).public_size(400, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"how": "half"}, r"^how=half: expected one of bernoulli, complementary, fixed; "),
        ({"share": 0}, r"^share=0: expected a number > 0 and <= 1; "),
        ({"share": 1}, r"^share=1: expected a number < 1 unless how=fixed; "),
        (
            {"how": "complementary", "share": 0.4},
            r"^share=0.4: expected 0.5, since complementary ",
        ),
    ],
)
def test_impossible_memberships(settings, message):
    with pytest.raises(ValueError, match=message):
        Membership(**settings)
