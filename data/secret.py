"""The secret of a run: the randomness that an attacker must not know."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from jaxtyping import UInt32

if TYPE_CHECKING:
    import torch

Stream = Callable[[UInt32[np.ndarray, "count"]], object]
"""Overwrites an array with the next words of a keystream."""

_stand_ins: dict[Path, Secret] = {}
SECRET_BYTES = 16
TORCH_STATE_WORDS = 624
TORCH_STATE_OFFSET = 24


@dataclass(frozen=True, repr=False)
class Secret:
    """128 bits that fix membership, initial weights, batches and noise of a run, by counters.

    Whoever has them can recompute every membership bit and all noise, hence no `repr`, no hash, no log
    and a file of mode 0600. Every draw comes from (secret, purpose, model, step), so a model is the
    same alone, in a stack or in another worker, and a resumed run repeats and skips nothing.

    Args:
        value: 16 bytes.
        user_chosen: whether a person chose it (experiments, tests); such a run is not protected against that person.
    """

    value: bytes
    user_chosen: bool

    @classmethod
    def from_system(cls) -> Secret:
        """A fresh secret from the random source of the operating system."""
        return cls(secrets.token_bytes(SECRET_BYTES), user_chosen=False)

    @classmethod
    def from_text(cls, text: str) -> Secret:
        """The secret of a text: whoever knows the text can recompute the whole run."""
        return cls(hashlib.blake2b(text.encode(), digest_size=SECRET_BYTES).digest(), user_chosen=True)

    @classmethod
    def load(cls, path: Path) -> Secret:
        """The secret that `save` wrote, or what holds its place in this process (`standing_in`)."""
        if (stand_in := _stand_ins.get(path.absolute())) is not None:
            return stand_in
        origin, value = path.read_text().split()
        return cls(bytes.fromhex(value), user_chosen=origin == "given")

    def save(self, path: Path) -> None:
        """Writes the secret, readable by its owner alone if the file is new (mode 0600)."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{'given' if self.user_chosen else 'system'} {self.value.hex()}\n")

    def __repr__(self) -> str:
        return f"Secret(user_chosen={self.user_chosen})"

    def numpy(self, purpose: str, model: int = 0, step: int = 0) -> np.random.Generator:
        """A counter-based generator: the key is (secret, purpose, model), the counter is the step."""
        key = int.from_bytes(self.key(purpose, model, 16))
        return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, step]))

    def bits(self, purpose: str, model: int = 0, step: int = 0, *, count: int) -> UInt32[np.ndarray, "count"]:
        """A ChaCha20 keystream (RFC 8439): the key is (secret, purpose, model), the nonce is the step.

        Who sees some of it learns nothing about the rest, unlike with Philox or the Mersenne Twister; it is
        for what a privacy claim rests on, noise and sampling.

        Args:
            purpose: names the use; every use has its own stream.
            model: the model's number in the fleet.
            step: 0 ≤ step < 2^96.
            count: how many 32-bit words; steps stay disjoint up to 2^36.
        """
        words = np.empty(count, dtype="<u4")
        self.stream(purpose, model, step)(words)
        return words

    def stream(self, purpose: str, model: int = 0, step: int = 0) -> Stream:
        """The words of `bits` piece by piece: every call overwrites an array with those that follow."""
        nonce = bytes(4) + step.to_bytes(12, "little")  # the first four bytes count blocks
        cipher = Cipher(algorithms.ChaCha20(self.key(purpose, model, 32), nonce), mode=None).encryptor()
        return lambda words: cipher.update_into(_zeros(words.nbytes), words.view(np.uint8).data)

    def digest(self, purpose: str, model: int, step: int, *, content: bytes) -> bytes:
        """16 bytes from (secret, purpose, model, step) and a content: the key of a stream of what bears that content.

        Args:
            purpose: names the use; every use has its own digests.
            model: the model's number in the fleet.
            step: 0 ≤ step < 2^96.
            content: any.
        """
        key = self.key(purpose, model, 32)
        return hashlib.blake2b(step.to_bytes(12, "little") + content, key=key, digest_size=16).digest()

    def torch(self, purpose: str, model: int = 0, step: int = 0) -> torch.Generator:
        """A CPU generator with a full state from (secret, purpose, model, step).

        `manual_seed` keeps only 32 bits on CPU: few enough to try them all, and to repeat by chance.
        """
        import torch

        generator = torch.Generator()
        state = generator.get_state().numpy()
        words = self.torch_words(purpose, model, step)
        end = TORCH_STATE_OFFSET + 8 * TORCH_STATE_WORDS
        state[TORCH_STATE_OFFSET:end].view(np.uint64)[:] = np.frombuffer(words, dtype=np.uint32)
        generator.set_state(torch.from_numpy(state))
        return generator

    def stage(self, name: str) -> Secret:
        """The secret of one stage of a defense: whatever is drawn there has nothing in common with other stages."""
        return Secret(
            hashlib.blake2b(name.encode(), key=self.value, digest_size=SECRET_BYTES).digest(),
            user_chosen=self.user_chosen,
        )

    def seal(self, content: bytes) -> str:
        """A keyed hash (HMAC-SHA256): names private content without letting anyone test a guess about it."""
        return hmac.new(self.value, content, hashlib.sha256).hexdigest()

    def sealed(self, content: str) -> Secret:
        """A secret of its own for a content: by its keyed hash."""
        return Secret(bytes.fromhex(self.seal(content.encode()))[:SECRET_BYTES], user_chosen=self.user_chosen)

    def key(self, purpose: str, model: int, size: int) -> bytes:
        """The key of all draws for a purpose and a model but those of `torch`; nothing else follows from it.

        Args:
            purpose: names the use.
            model: the model's number in the fleet.
            size: in bytes.
        """
        return _key(self.value, purpose, model, size)

    def torch_words(self, purpose: str, model: int, step: int) -> bytes:
        """The state of the generator that `torch` gives; nothing else follows from it."""
        message = self.value + f"{purpose}/{model}/{step}".encode()
        return hashlib.shake_128(message).digest(4 * TORCH_STATE_WORDS)


@contextmanager
def standing_in(secrets: Mapping[Path, Secret]) -> Iterator[None]:
    """Has other secrets loaded in the place of files, which need not be there, until the block ends."""
    _stand_ins.update((path.absolute(), secret) for path, secret in secrets.items())
    try:
        yield
    finally:
        for path in secrets:
            del _stand_ins[path.absolute()]


@lru_cache(maxsize=4096)
def _key(value: bytes, purpose: str, model: int, size: int) -> bytes:
    return hashlib.blake2b(f"{purpose}/{model}".encode(), key=value, digest_size=size).digest()


@lru_cache(maxsize=64)
def _zeros(size: int) -> bytes:
    """Zeros that a keystream is read off: the same few sizes again and again."""
    return bytes(size)
