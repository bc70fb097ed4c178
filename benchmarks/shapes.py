"""GPT shapes of the comparison, and their weights as named arrays for both sides."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Shape(NamedTuple):
    """One GPT and its batch: `rows` sequences of `length` tokens. Ours computes the
    readout in `chunks` and attention in blocks of `block` rows."""

    depth: int
    width: int
    heads: int
    length: int
    vocab_size: int
    rows: int
    chunks: int = 1
    block: int = 128
    learning_rate: float = 3e-4

    @property
    def flops(self) -> float:
        """FLOPs of one training step: six for each weight and token, plus the causal
        half of the attention matrix."""
        weights = 12 * self.depth * self.width**2 + self.vocab_size * self.width
        attention = 6 * self.depth * self.length * self.width
        return float(self.rows * self.length * (6 * weights + attention))


SHAPES = {
    "baby": Shape(6, 384, 6, 256, 65, 12),
    "small": Shape(12, 768, 12, 1024, 50304, 1, chunks=2, block=256),
    "tiny": Shape(2, 64, 2, 64, 65, 2),
}


def weights(shape: Shape, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Normal weights of deviation 0.02, norms at 1 and 0, in PyTorch's names and
    layouts (a linear map is outputs x inputs)."""
    random = np.random.default_rng(seed)

    def normal(*size: int) -> np.ndarray:
        return random.normal(0, 0.02, size).astype(np.float32)

    width = shape.width
    ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
    out = {
        "embedding.weight": normal(shape.vocab_size, width),
        "position.weight": normal(shape.length, width),
    }
    for i in range(shape.depth):
        out |= {
            f"blocks.{i}.norm1.weight": ones,
            f"blocks.{i}.norm1.bias": zeros,
            f"blocks.{i}.attention.qkv.weight": normal(3 * width, width),
            f"blocks.{i}.attention.out.weight": normal(width, width),
            f"blocks.{i}.norm2.weight": ones,
            f"blocks.{i}.norm2.bias": zeros,
            f"blocks.{i}.up.weight": normal(4 * width, width),
            f"blocks.{i}.down.weight": normal(width, 4 * width),
        }
    return out | {"norm.weight": ones, "norm.bias": zeros}


def batch(shape: Shape, *, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Random ids (rows, length) and the next ones as targets, int32."""
    random = np.random.default_rng(seed)
    size = shape.rows, shape.length + 1
    ids = random.integers(0, shape.vocab_size, size).astype(np.int32)
    return ids[:, :-1].copy(), ids[:, 1:].copy()
