"""T5's learned bias of the scores: one number for each head and bucket of distances,
shared by all layers of a stack (Raffel et al. 2020, arXiv 1910.10683, section 2.1)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transformer.network.masks import TokenPositions
from transformer.network.stack import REMAT, UnrolledStack


def bucket_of_distance(
    buckets: int, max_distance: int, *, bidirectional: bool
) -> np.ndarray:
    """int32: the bucket of each key minus query, from -max_distance to max_distance.

    Half of the buckets are of one distance each, the others grow in equal ratios up to
    `max_distance`. bidirectional: half of them all are of keys behind the query;
    otherwise those are in bucket 0. In float32, as the published models.
    """
    distance = np.arange(-max_distance, max_distance + 1)
    if bidirectional:
        buckets //= 2
        first, distance = buckets * (distance > 0), np.abs(distance)
    else:
        first, distance = 0, np.maximum(-distance, 0)
    exact = buckets // 2
    ratio = np.maximum(distance, 1).astype(np.float32) / np.float32(exact)
    share = np.log(ratio) / np.float32(np.log(max_distance / exact))
    wide = exact + (share * np.float32(buckets - exact)).astype(np.int32)
    wide = np.minimum(wide, buckets - 1)
    return (first + np.where(distance < exact, distance, wide)).astype(np.int32)


class RelativeBias(nn.Module):
    """A `positions.ScoreBias` with the parameter bias_CH (buckets, heads): from
    (queries, keys) to float32 (B, H, L, M). Kernels that have no gradient of a bias
    cannot have it: use `attention.dot_product_attention`."""

    heads: int
    buckets: int = 32
    max_distance: int = 128
    bidirectional: bool = True
    bias_init: nn.initializers.Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, queries: TokenPositions, keys: TokenPositions) -> jax.Array:
        bias_CH = self.param("bias_CH", self.bias_init, (self.buckets, self.heads))
        bucket = jnp.asarray(
            bucket_of_distance(
                self.buckets, self.max_distance, bidirectional=self.bidirectional
            )
        )
        distance_BLM = keys.position_BL[:, None] - queries.position_BL[:, :, None]
        limit = self.max_distance
        place_BLM = jnp.clip(distance_BLM, -limit, limit) + limit
        bias_BLMH = bias_CH.astype(jnp.float32)[bucket[place_BLM]]
        return jnp.moveaxis(bias_BLMH, -1, 1)


class SharedBiasStack(UnrolledStack):
    """An `UnrolledStack` with one module of `make_bias` for all layers: make_block is
    called with the keyword `bias` too, None where only a cache is made. `remat` must be
    none."""

    make_block: Callable[..., Any]
    make_bias: Callable[[], Any] | None = None

    def setup(self) -> None:
        if self.make_bias is None:
            raise ValueError("SharedBiasStack: expected make_bias, got None")
        if self.remat is not REMAT["none"]:
            raise ValueError(
                "SharedBiasStack: expected remat none, for blocks share a module, got "
                f"{self.remat}"
            )
        self.bias = self.make_bias()
        make = partial(self.make_block, bias=self.bias)
        self.layers = [make(self.block, i) for i in range(self.depth)]

    @nn.nowrap
    def empty_cache(self, *arguments: Any) -> list[Any]:
        """As `UnrolledStack`."""
        make = partial(self.make_block, bias=None)
        blocks = [make(self.block, i) for i in range(self.depth)]
        return [block.empty_cache(*arguments) for block in blocks]
