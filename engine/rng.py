"""Random generators that are pure functions of a key, independent of earlier draws.

A key is the run's seed followed by what is being done, e.g. ``(seed, "recover", batch, iteration)``.
There is no random state to save: any iteration of any stage can be replayed alone.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_SEEDING = threading.RLock()  # torch's global generators are shared by all runs of this process


def _entropy(seed: int, *key: int | str) -> list[int]:
    return [seed, *(zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key)]


def generator(seed: int, *key: int | str) -> np.random.Generator:
    """Return a NumPy generator that is a pure function of ``(seed, *key)``.

    Numbers must be non-negative; strings are hashed by CRC-32.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(_entropy(seed, *key))))


@contextmanager
def torch_seeded(seed: int, *key: int | str) -> Iterator[None]:
    """Run a block with torch's global generators seeded by ``(seed, *key)``.

    For library code that takes no generator: weight initialisation, dropout. The CPU's generator is restored
    afterwards; an accelerator's is not, because nothing depends on its state. Other threads that enter such a
    block wait.
    """
    import torch

    with _SEEDING, torch.random.fork_rng(devices=[]):
        state = np.random.SeedSequence(_entropy(seed, *key)).generate_state(1, np.uint64)
        number = int(state[0]) & (2**63 - 1)
        torch.default_generator.manual_seed(number)  # torch.manual_seed is slow: it records its caller
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.manual_seed_all(number)
        if torch.backends.mps.is_available():
            torch.mps.manual_seed(number)
        yield
