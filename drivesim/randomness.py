"""Noise and order as pure functions of what they are for: (seed, item, step), never of batch, worker or machine.

Philox 4x64 is counter-based: key and counter give the integers, on any device. Integers become normals by Box-Muller,
which needs no rejection, so that a device version gives the same integers element by element.
"""

import hashlib

import numpy as np
import torch

Key = tuple[int | str, ...]
BLOCK = 1 << 15


def philox(*key: int | str) -> np.random.Philox:
    """The bit generator of ``key``: its words are hashed to Philox' 128-bit key; the counter starts at 0."""
    digest = hashlib.blake2b("\x1f".join(str(part) for part in key).encode(), digest_size=16).digest()
    return np.random.Philox(key=int.from_bytes(digest, "little"))


def generator(*key: int | str) -> np.random.Generator:
    """A numpy generator that belongs to ``key`` alone."""
    return np.random.Generator(philox(*key))


def normal(key: Key, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal float32 noise of ``shape``, a function of ``key``: Box-Muller in float64 on Philox' integers."""
    count = int(np.prod(shape))
    half = (count + 1) // 2
    raw = philox(*key).random_raw(2 * half)
    both = np.empty(2 * half, np.float32)
    for first in range(0, half, BLOCK):  # in the cache: half as long for a large frame, and the same bits
        last = min(half, first + BLOCK)
        radius = np.sqrt(-2.0 * np.log(_open(raw[first:last])))
        angle = 2.0 * np.pi * _open(raw[half + first : half + last])
        both[first:last], both[half + first : half + last] = radius * np.cos(angle), radius * np.sin(angle)
    return torch.from_numpy(both[:count].reshape(shape))


def _open(raw: np.ndarray) -> np.ndarray:
    """Integers to the open interval (0, 1): logarithms stay finite."""
    return ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def uniform(key: Key, shape: tuple[int, ...] = ()) -> torch.Tensor:
    """Uniform float32 in [0, 1) of ``shape``, a function of ``key``."""
    return torch.from_numpy(np.asarray(generator(*key).random(shape), dtype=np.float32))
