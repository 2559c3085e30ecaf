"""Named random streams, all derived from one run seed.

A stream is named by a path of parts (`stream(seed, "ppo", "rollout", step)`), so adding a consumer never shifts
the numbers that another one draws, and a resumed run draws what the uninterrupted run would have drawn.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def stream_seed(seed: int, *name: object) -> int:
    """A 63-bit seed for the stream called `name` of the run seeded by `seed`."""
    # The separator keeps ("a", "bc") and ("ab", "c") apart. A hash, since seed + 1, + 2 ... would make the streams of
    # neighbouring seeds overlap.
    key = "\x1f".join([str(seed), *map(str, name)]).encode()
    # 63 bits: torch takes a signed 64-bit seed
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1


def numpy_stream(seed: int, *name: object) -> np.random.Generator:
    """A NumPy generator for the stream called `name`."""
    return np.random.default_rng(stream_seed(seed, *name))


def torch_stream(seed: int, *name: object, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator on `device` for the stream called `name`."""
    import torch  # here: the commands that need no model must start fast

    generator = torch.Generator(device=device)
    generator.manual_seed(stream_seed(seed, *name))
    return generator
