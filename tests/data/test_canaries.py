"""Canaries are what their kind says, and nothing but their membership is random."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from palisade.data.bundled import Digits
from palisade.data.canaries import CANARY_KINDS, CHANGED_FEATURES_SHARE, Canaries
from palisade.data.dataset import from_config, prepare, with_canaries
from palisade.data.secret import Secret
from palisade.data.split import Membership, Roles
from palisade.targets.run import Run, identity
from palisade.targets.shipping import ship_run
from palisade.targets.training import load_fleet
from palisade.train import train_run

CLASS_COUNT = 5
TINY_RUN = ["data=digits", "trainer.epochs=1", "fleet.models=3", "fleet.workers=1"]
TEST_SECRET = Secret.from_text("canaries")


def unlike(records: int, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Inputs no two of which are equal, so that each tells where it is from."""
    return np.arange(records * int(np.prod(shape))).reshape(records, *shape).astype(dtype)


class Case:
    """Canaries in small data, with what they were made from."""

    def __init__(self, kind: str, *, count: int = 40, shape=(7,), dtype: type = np.float32, persons=None, seed=0):
        self.x, self.y = unlike(300, shape, dtype), np.arange(300) % CLASS_COUNT
        self.before = Roles(pool=0.5, reference=0.1).draw(300, persons, 0)
        planted = Canaries(kind=kind, count=count).plant(self.x, self.y, self.before, classes=CLASS_COUNT, seed=seed)
        self.all_x, self.all_y, self.split = planted
        self.canaries = self.all_x[300:].reshape(count, -1)
        self.labels = self.all_y[300:]
        self.origins = self.canaries.astype(int) // int(np.prod(shape))
        """The record that each feature of each canary is from."""

    @property
    def bases(self) -> np.ndarray:
        """The record that most of a canary's features are from."""
        return np.array([np.bincount(row).argmax() for row in self.origins])


RECORD_SHAPES = st.sampled_from([((7,), np.float32), ((1, 8, 8), np.float32), ((12,), np.int64), ((250,), np.float64)])


@pytest.mark.parametrize("kind", CANARY_KINDS)
@given(shape=RECORD_SHAPES, count=st.integers(1, 150), seed=st.integers(0, 99), people=st.booleans())
@settings(deadline=None, max_examples=15)
def test_everything_else_stays_as_it_is(kind, shape, count, seed, people):
    persons = np.arange(300) // 2 if people else None
    case = Case(kind, count=count, shape=shape[0], dtype=shape[1], persons=persons, seed=seed)
    assert case.all_x.dtype == case.x.dtype and case.all_x.shape == (300 + count, *shape[0])
    assert np.array_equal(case.all_x[:300], case.x) and np.array_equal(case.all_y[:300], case.y)
    assert case.all_y.dtype == np.int64 and set(case.labels) <= set(range(CLASS_COUNT))
    assert case.split.canaries.tolist() == list(range(300, 300 + count))
    for role in ("validation", "reference", "population", "test"):
        assert np.array_equal(getattr(case.split, role), getattr(case.before, role))
    if kind != "blank":
        assert np.isin(case.origins, case.before.pool).all()
    fixed = np.setdiff1d(case.split.pool, case.split.canaries)
    gone = np.setdiff1d(case.before.pool, fixed)
    assert len(gone) == (count if CANARY_KINDS[kind].replaces_base else 0)
    if people:
        assert len(set(case.split.record_persons[300:]) - set(persons)) == count


def test_clean_canaries_take_the_place_of_their_bases():
    case = Case("clean")
    assert np.array_equal(case.canaries, case.x[case.bases]) and np.array_equal(case.labels, case.y[case.bases])
    assert len(set(case.bases)) == 40 and not np.isin(case.bases, case.split.pool).any()


def test_label_noise_is_always_wrong_and_every_other_class_as_likely():
    case = Case("label_noise", count=150)
    assert np.array_equal(case.canaries, case.x[case.bases]) and not np.isin(case.bases, case.split.pool).any()
    shifts = np.concatenate([(c.labels - c.y[c.bases]) % CLASS_COUNT for c in wrong("label_noise")])
    assert (shifts != 0).all() and chisquare(np.bincount(shifts)[1:]).pvalue > 1e-3


def wrong(kind: str) -> list[Case]:
    return [Case(kind, count=150, shape=(250,), seed=seed) for seed in range(10)]


def test_out_of_distribution_mixes_records_and_labels_at_random():
    case = Case("ood", count=60, shape=(250,))
    assert case.split.pool.tolist() == [*case.before.pool, *case.split.canaries]
    assert min(len(set(row)) for row in case.origins) > 100  # of 150 records in the pool
    assert (case.canaries % 250 == np.arange(250)).all()  # every feature stays in its place
    counts = np.bincount(case.origins.ravel(), minlength=300)[case.before.pool]
    assert chisquare(counts).pvalue > 1e-3
    labels = np.concatenate([Case("ood", count=150, seed=seed).labels for seed in range(10)])
    assert chisquare(np.bincount(labels)).pvalue > 1e-3


@pytest.mark.parametrize(("features", "changed"), [(7, 1), (250, 2), (1000, 10)])
def test_near_duplicates_stand_beside_their_bases_with_a_wrong_label(features, changed):
    case = Case("near_duplicate", count=100, shape=(features,))
    assert max(1, round(CHANGED_FEATURES_SHARE * features)) == changed
    assert np.isin(case.bases, case.split.pool).all() and len(set(case.bases)) == 100
    for row, base in zip(case.origins, case.bases, strict=True):
        assert (row != base).sum() == changed and len(set(row)) == 2
    assert (case.canaries % features == np.arange(features)).all()
    shifts = np.concatenate([(c.labels - c.y[c.bases]) % CLASS_COUNT for c in wrong("near_duplicate")])
    assert (shifts != 0).all() and chisquare(np.bincount(shifts)[1:]).pvalue > 1e-3


def test_blank_canaries_are_long_as_records_and_nearly_orthogonal():
    case = Case("blank", count=100, shape=(400,))
    assert case.split.pool.tolist() == [*case.before.pool, *case.split.canaries]
    rms = np.sqrt(np.square(case.x[case.before.pool], dtype=np.float64).mean())
    assert np.allclose(np.abs(case.canaries), rms)
    directions = case.canaries / np.linalg.norm(case.canaries, axis=1, keepdims=True)
    cosines = (directions @ directions.T)[np.triu_indices(100, k=1)]
    assert np.abs(cosines).max() < 5 / np.sqrt(400) and abs(cosines.mean()) < 0.01
    labels = np.concatenate([Case("blank", count=150, seed=seed).labels for seed in range(10)])
    assert chisquare(np.bincount(labels)).pvalue > 1e-3


def test_blank_canaries_among_words_are_any_words_of_the_pool():
    case = Case("blank", count=100, shape=(12,), dtype=np.int64)
    words = case.x[case.before.pool]
    assert words.min() <= case.canaries.min() and case.canaries.max() <= words.max()
    assert len(np.unique(case.canaries)) > 1000  # of 1,200 drawn among 3,600


@pytest.mark.parametrize("kind", CANARY_KINDS)
def test_the_public_seed_fixes_them(kind):
    one, again, other = Case(kind), Case(kind), Case(kind, seed=1)
    assert np.array_equal(one.all_x, again.all_x) and np.array_equal(one.all_y, again.all_y)
    assert not np.array_equal(one.all_x, other.all_x)


def test_kinds_share_their_bases():
    bases = [Case(kind).bases for kind in ("clean", "label_noise", "near_duplicate")]
    assert np.array_equal(bases[0], bases[1]) and np.array_equal(bases[0], bases[2])


def test_memory_mapped_inputs_are_not_written_to(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, unlike(300, (7,), np.float32))
    mapped, split = np.load(path, mmap_mode="r"), Roles(pool=0.5).draw(300, None, 0)
    x, _, _ = Canaries(kind="near_duplicate", count=9).plant(mapped, np.arange(300) % 2, split, classes=2, seed=0)
    assert x.shape == (309, 7) and np.array_equal(np.load(path), unlike(300, (7,), np.float32))


@pytest.mark.parametrize(
    ("wrong_settings", "message"),
    [
        (
            {"kind": "loud"},
            r"^kind=loud: expected one of clean, label_noise, ood, near_duplicate, blank, secret, new_token; ",
        ),
        ({"kind": "ood", "count": 0}, r"^count=0: expected an integer >= 1; "),
        ({"kind": "ood", "count": 2.5}, r"^count=2.5: "),
        ({"kind": "ood", "count": True}, r"^count=true: "),
        ({"kind": "ood", "count": "many"}, r"^count=many: "),
    ],
)
def test_impossible_canaries(wrong_settings, message):
    with pytest.raises(ValueError, match=message):
        Canaries(**wrong_settings)


@pytest.mark.parametrize("kind", CANARY_KINDS)
def test_more_canaries_than_pool_records_are_refused(kind):
    assert len(Case(kind, count=150).split.canaries) == 150
    with pytest.raises(ValueError, match=r"^canary.count=151"):
        Case(kind, count=151)


def test_a_configuration_plants_them_by_its_seed(compose):
    settings = compose("data=digits", "seed=3", "canary=ood", "canary.count=9")
    plain = prepare(Digits(), Roles(**settings["split"]), seed=3)
    dataset, by_hand = from_config(settings), with_canaries(plain, Canaries(kind="ood", count=9), seed=3)
    assert np.array_equal(dataset.x, by_hand.x) and np.array_equal(dataset.y, by_hand.y)
    assert dataset.x.shape == (1806, 1, 8, 8) and dataset.split.canaries.tolist() == list(range(1797, 1806))
    assert dataset.fingerprint == plain.fingerprint and dataset.name == plain.name


@pytest.mark.parametrize("kind", CANARY_KINDS)
def test_every_kind_has_its_yaml(compose, kind):
    assert compose(f"canary={kind}")["canary"] == {"kind": kind, "count": 500}
    assert compose(f"canary={kind}")["names"]["canary"] == kind


def test_without_canaries_the_configuration_names_the_run_as_before(compose):
    plain = compose(*TINY_RUN)
    assert not plain["canary"]
    older = {key: value for key, value in plain.items() if key != "canary"}
    dataset = from_config(older)
    assert dataset is from_config(plain)
    assert identity(plain, dataset) == identity(older, dataset)
    names = {identity(settings, from_config(settings)) for settings in map(with_canary(compose), CANARY_CHOICES)}
    assert len(names | {identity(plain, dataset)}) == 1 + len(CANARY_CHOICES)


CANARY_CHOICES = ["label_noise canary.count=20", "label_noise canary.count=21", "clean canary.count=20", "ood"]


def with_canary(compose):
    return lambda choice: compose(*TINY_RUN, *f"canary={choice}".split())


@pytest.mark.parametrize("defense", ["none", "dp_sgd"])
def test_a_fleet_is_trained_on_all_but_some_canaries(compose, defense):
    few = ["defense.trainer.epochs=1"] if defense == "dp_sgd" else []
    chosen = compose(*TINY_RUN, f"defense={defense}", *few, "canary=label_noise", "canary.count=20")
    run = Run(Path(train_run(chosen)["folder"]))
    network = "linear" if defense == "dp_sgd" else "mlp"
    assert run.name.startswith(f"{network}-{defense}-label_noise-") and run.config["canary"] == chosen["canary"]
    split, membership = run.dataset.split, run.membership()
    assert len(split.pool) == 1258 and membership.shape == (3, 1258)
    assert membership[:, ~split.is_audited].all()
    assert 0 < membership[:, split.is_audited].mean() < 1
    if defense == "dp_sgd":
        claim = run.statement
        assert claim.public_size == 1238 + 10 and claim.delta == pytest.approx(1248**-1.1)
    assert train_run(chosen)["status"] == "cached"


def test_a_canary_is_learnt_by_the_models_that_it_is_a_member_of(compose):
    settings = compose(
        *TINY_RUN, "split.pool=300", "trainer.epochs=120", "canary=label_noise", "canary.count=60", "secret=x"
    )
    run = Run(Path(train_run(settings)["folder"]))
    fleet, split = load_fleet(run.config, run.dataset, run.folder, run.models()), run.dataset.split
    right = fleet.predict(run.dataset.x[split.canaries]).argmax(axis=-1) == run.dataset.y[split.canaries]
    members = run.membership()[:, split.is_audited]
    assert right[members].mean() > 0.9 and right[~members].mean() < 0.1


def test_no_release_is_trained_on_canaries(compose, tmp_path):
    run = Run(Path(train_run(compose(*TINY_RUN, "canary=ood", "canary.count=5", "guesses=0.2"))["folder"]))
    message = r"^ship=.*-ood-.*: expected a run without canaries, .*; ship another$"
    shipping = compose(f"ship={run.folder}", f"released={tmp_path}/released")
    with pytest.raises(ValueError, match=message):
        ship_run(shipping)
    assert not (run.folder / "private" / "release_secret").exists()


@pytest.mark.parametrize("how", ["complementary", "fixed"])
def test_dependent_memberships_are_refused_before_anything_is_written(compose, tmp_path, how):
    with pytest.raises(ValueError, match=rf"^membership.how={how}"):
        train_run(compose(*TINY_RUN, "canary=ood", f"membership.how={how}"))
    assert not (tmp_path / "runs").exists()


def test_public_size_counts_persons_and_canaries_alike():
    case = Case("label_noise", count=20, persons=np.arange(300) // 2)
    membership = Membership().draw(case.split, range(50), TEST_SECRET)
    people = len(np.unique(case.split.persons))
    assert Membership().public_size(people, 20) == people - 10
    realized = [len(np.unique(case.split.persons[row])) for row in membership]
    assert np.mean(realized) == pytest.approx(people - 10, abs=4 * np.sqrt(5 / 50))


def test_canaries_outside_the_pool_are_refused():
    case = Case("ood")
    with pytest.raises(ValueError, match=r"^split.canaries: 2 are not in the pool; add them to it$"):
        replace(case.split, canaries=case.before.test[:2])
