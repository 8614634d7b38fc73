import stat
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import chisquare

from palisade.data import secret as module
from palisade.data.secret import Secret


@pytest.fixture
def secret():
    return Secret.from_text("test")


def test_draws_depend_on_purpose_model_and_step_only(secret):
    keys = [("noise", 0, 0), ("noise", 0, 1), ("noise", 1, 0), ("batches", 0, 0)]
    draws = [secret.numpy(*key).integers(2**63) for key in keys]
    assert len(set(draws)) == len(keys)
    assert [secret.numpy(*key).integers(2**63) for key in reversed(keys)] == draws[::-1]
    assert Secret.from_text("other").numpy(*keys[0]).integers(2**63) != draws[0]


def test_torch_draws_depend_on_the_same(secret):
    import torch

    keys = [("noise", 0, 0), ("noise", 0, 1), ("noise", 1, 0), ("batches", 0, 0)]
    draws = [torch.randn(4, generator=secret.torch(*key)) for key in keys]
    assert len({tuple(draw.tolist()) for draw in draws}) == len(keys)
    assert torch.equal(draws[1], torch.randn(4, generator=secret.torch("noise", 0, 1)))
    assert torch.randn(100_000, generator=secret.torch("noise")).var().item() == pytest.approx(1, abs=0.02)


def test_steps_of_one_stream_do_not_overlap(secret):
    first, second = (secret.numpy("noise", 0, step).integers(2**63, size=10_000) for step in (0, 1))
    assert not np.intersect1d(first, second).size


@pytest.mark.parametrize(
    ("step", "keystream"),
    [  # RFC 8439, appendix A.1, vectors 1 and 5: a key of zeros, block 0
        (0, "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"),
        (2 << 88, "c2c64d378cd536374ae204b9ef933fcd1a8b2288b3dfa49672ab765b54ee27c7"),
    ],
)
def test_bits_are_the_published_keystream(secret, monkeypatch, step, keystream):
    monkeypatch.setattr(module, "_key", lambda *_: bytes(32))
    assert secret.bits("noise", 0, step, count=8).tobytes().hex() == keystream


def test_bits_depend_on_purpose_model_and_step_only(secret):
    keys = [("noise", 0, 0), ("noise", 0, 1), ("noise", 1, 0), ("batches", 0, 0), ("noise", 0, 2**32)]
    draws = [secret.bits(*key, count=20_000) for key in keys]
    draws.append(Secret.from_text("other").bits(*keys[0], count=20_000))
    assert np.abs(np.corrcoef(draws) - np.eye(len(draws))).max() < 5 / np.sqrt(20_000)
    blocks = np.concatenate(draws).reshape(-1, 4)  # 128 bits each: a repeat means overlapping streams
    assert len(np.unique(blocks, axis=0)) == len(blocks)
    assert np.array_equal(secret.bits(*keys[1], count=100), draws[1][:100])
    with pytest.raises(OverflowError):
        secret.bits("noise", 0, -1, count=1)


def test_a_stream_is_the_same_words_in_pieces_of_any_length(secret):
    stream, pieces = secret.stream("noise", 3, 5), [np.empty(count, dtype=np.uint32) for count in (1, 0, 17, 82)]
    for piece in pieces:
        stream(piece)
    np.testing.assert_array_equal(np.concatenate(pieces), secret.bits("noise", 3, 5, count=100))


def test_bits_are_uniform(secret):
    bits = secret.bits("noise", count=2**20)
    assert bits.dtype == np.uint32 and bits.shape == (2**20,)
    for shift in (0, 8, 16, 24):
        assert chisquare(np.bincount(bits >> shift & 255, minlength=256)).pvalue > 1e-4


def test_import_stays_light():
    code = "import sys, palisade.data.secret; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("secret", [Secret.from_text("test"), Secret.from_system()])
def test_file_is_private_and_complete(secret, tmp_path):
    path = tmp_path / "secret"
    secret.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Secret.load(path) == secret


def test_nothing_printed_tells_it(secret):
    assert secret.value.hex() not in f"{secret} {secret!r}" and str(secret) == "Secret(user_chosen=True)"
    assert len({Secret.from_system().value for _ in range(10)}) == 10


def test_seal_needs_the_secret(secret):
    assert secret.seal(b"rows") == secret.seal(b"rows") != Secret.from_text("other").seal(b"rows")
