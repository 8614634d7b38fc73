"""Secrets and new tokens among documents: what is planted, and whose coin decides."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from palisade.data.canaries import Canaries
from palisade.data.dataset import prepare, with_canaries
from palisade.data.document_canaries import SECRET_TEMPLATE, secrets_of
from palisade.data.documents import Documents
from palisade.data.secret import Secret
from palisade.data.sequences import NO_TOKEN
from palisade.data.split import Membership, Roles

DOCUMENT_COUNT, SECRET_COPIES = 40, (1, 4, 16)


@pytest.fixture
def data(tmp_path):
    lines = (json.dumps({"text": f"document number {number}"}) for number in range(DOCUMENT_COUNT))
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    return prepare(Documents(path=tmp_path / "own.jsonl", length=32, new_tokens=9), Roles(pool=0.5), seed=0)


def test_copies_of_a_secret_share_one_coin(data):
    canaries = Canaries(kind="secret", count=9, digits=3, copies=SECRET_COPIES)
    planted = with_canaries(data, canaries, seed=3)
    secrets = secrets_of(canaries, DOCUMENT_COUNT, seed=3)
    assert [len(secret.records) for secret in secrets] == [*SECRET_COPIES] * 3
    assert len({secret.prefix for secret in secrets}) == 9
    for secret in secrets:
        assert re.fullmatch(SECRET_TEMPLATE.format(holder="[a-z]{6}") + "[0-9]{3}", secret.text)
        for tokens in planted.y[secret.records]:
            assert planted.preprocessing.decode(tokens[tokens != NO_TOKEN].tolist()) == secret.text.encode()
    split = planted.split
    np.testing.assert_array_equal(split.audited, np.concatenate([secret.records for secret in secrets]))
    members = Membership().draw(split, range(64), Secret.from_text("coins"))
    assert members[:, ~split.is_audited].all()
    of_secrets = [members[:, np.isin(split.pool, secret.records)] for secret in secrets]
    assert all((rows == rows[:, :1]).all() and 0.2 < rows.mean() < 0.8 for rows in of_secrets)
    assert secrets_of(canaries, DOCUMENT_COUNT, seed=4)[0].code != secrets[0].code or secrets[0].prefix


def test_single_secrets_are_no_group_and_bound_epsilon(data):
    planted = with_canaries(data, Canaries(kind="secret", count=9), seed=0)
    assert planted.split.record_persons is None and len(planted.split.canaries) == 9


def test_a_new_token_is_nobody_else_s(data):
    planted = with_canaries(data, Canaries(kind="new_token", count=9), seed=0)
    tokens = planted.y[planted.split.canaries]
    own = [set(row[row != NO_TOKEN].tolist()) for row in tokens]
    assert all(len(each) == 1 for each in own) and len(set.union(*own)) == 9
    assert planted.y[:DOCUMENT_COUNT].max() < min(set.union(*own)) and max(set.union(*own)) == len(data.classes) - 1
    assert planted.preprocessing.decode(tokens[0].tolist()) == b""


def test_clean_canaries_take_the_place_of_documents(data):
    planted = with_canaries(data, Canaries(kind="clean", count=5), seed=0)
    assert len(planted.split.pool) == len(data.split.pool) and len(planted.split.canaries) == 5
    rows = {row.tobytes() for row in data.y[data.split.pool]}
    assert {row.tobytes() for row in planted.y[planted.split.pool]} == rows


def test_kinds_of_documents_are_refused_elsewhere():
    from palisade.data.bundled import BreastCancer

    records = prepare(BreastCancer(), Roles(pool=0.5), seed=0)
    with pytest.raises(ValueError, match=r"^canary.kind=secret: expected one of clean, label_noise, "):
        with_canaries(records, Canaries(kind="secret", count=5), seed=0)
