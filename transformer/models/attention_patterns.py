"""Causal attention in patterns, for the slot `make_attention` of a decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from transformer.models import defaults
from transformer.network import attention, linear_attention, masks, positions
from transformer.network.masks import Mask


class AttentionPattern(NamedTuple):
    """mask(length): the causal mask of rows of that length. make_mixer: the function
    that mixes values. kernel: its implementation for long rows."""

    mask: Callable[[int], Mask]
    make_mixer: attention.MakeMixer = defaults.ROW_BLOCKED
    kernel: attention.Kernel = defaults.flash_kernel(128)

    def attention(self, width: int, length: int) -> defaults.MakeOfWidth:
        """`defaults.attention` by this pattern, with rotary positions, for rows of
        `length` tokens."""
        return defaults.attention(
            width=width,
            mask=self.mask(length),
            rotate=positions.rotary(),
            make_mixer=self.make_mixer,
        )


def full() -> AttentionPattern:
    """Causal attention to all tokens before, itself included."""
    return AttentionPattern(lambda length: masks.causal())


def window(size: int) -> AttentionPattern:
    """Causal attention to the last `size` tokens, itself included."""
    mask = masks.causal() & masks.window(size - 1)
    return AttentionPattern(lambda length: mask)


def block_sparse(block: int) -> AttentionPattern:
    """Causal attention to the token's own block, the one before, the first, and a
    random one (BigBird, Zaheer et al. 2020, arXiv 2007.14062, section 2)."""

    def mask(length: int) -> Mask:
        count, rng = -(-length // block), np.random.default_rng(0)
        layout = np.eye(count, dtype=int) + np.eye(count, k=-1, dtype=int)
        layout[:, 0] = 1
        layout[np.arange(count), rng.integers(0, np.arange(count) + 1)] = 1
        sparse = masks.block_sparse(np.minimum(layout, 1).tolist(), block)
        return masks.causal() & sparse

    return AttentionPattern(mask)


def strided_window(*, size: int, stride: int, global_tokens: int) -> AttentionPattern:
    """Causal attention to the last `size` tokens, every `stride`-th one (Child et al.
    2019, arXiv 1904.10509, section 4.2), and the first `global_tokens` of the row."""
    near = masks.window(size - 1)
    rule = near | masks.strided(stride) | masks.global_tokens(global_tokens)
    mask = masks.causal() & rule
    return AttentionPattern(lambda length: mask)


def linear() -> AttentionPattern:
    """Causal linear attention (`network/linear_attention.py`)."""
    return AttentionPattern(
        lambda length: masks.causal(),
        linear_attention.LinearAttention,
        linear_attention.linear_attention,
    )
