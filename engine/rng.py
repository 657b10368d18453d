"""Randomness as a function: the same key gives the same draws, whatever was drawn before.

A key is the run's seed followed by what is being done, e.g. ``(seed, "recover", batch, iteration)``.
There is no random state to save: any iteration of any stage can be replayed alone.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_SEEDING = threading.RLock()  # two runs of one process take turns at torch's global generators


def _entropy(seed: int, *key: int | str) -> list[int]:
    return [seed, *(zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key)]


def generator(seed: int, *key: int | str) -> np.random.Generator:
    """A NumPy generator that is a pure function of ``(seed, *key)``.

    Numbers must be non-negative; words are hashed by CRC-32.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(_entropy(seed, *key))))


@contextmanager
def torch_seeded(seed: int, *key: int | str) -> Iterator[None]:
    """Run a block with torch's global generators seeded by the key.

    For code of libraries that takes no generator: weight initialisation, dropout. The CPU's generator
    is restored afterwards; nothing reads what an accelerator's is left at. Other threads wait meanwhile.
    """
    import torch

    with _SEEDING, torch.random.fork_rng(devices=[]):
        state = np.random.SeedSequence(_entropy(seed, *key)).generate_state(1, np.uint64)
        number = int(state[0]) & (2**63 - 1)
        torch.default_generator.manual_seed(number)  # torch.manual_seed is slow: it notes who called it
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.manual_seed_all(number)
        if torch.backends.mps.is_available():
            torch.mps.manual_seed(number)
        yield
