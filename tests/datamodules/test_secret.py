import stat

import numpy as np
import pytest

from datamodules.secret import Secret


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


@pytest.mark.parametrize("secret", [Secret.from_text("test"), Secret.from_system()])
def test_file_is_private_and_complete(secret, tmp_path):
    path = tmp_path / "secret"
    secret.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Secret.load(path) == secret


def test_nothing_printed_tells_it(secret):
    assert secret.value.hex() not in f"{secret} {secret!r}" and str(secret) == "Secret(given=True)"
    assert len({Secret.from_system().value for _ in range(10)}) == 10


def test_seal_needs_the_secret(secret):
    assert secret.seal(b"rows") == secret.seal(b"rows") != Secret.from_text("other").seal(b"rows")
