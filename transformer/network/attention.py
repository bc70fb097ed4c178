"""Multi-head attention: scores -> mask -> softmax -> mix.

Turner's section 2.1 with the letters of `axes`: A = softmax(Q K^T / sqrt(K)) is the
N x N attention matrix (here L x M), and each token becomes a mixture A V of values.
`plain` is that formula; other implementations with its signature fit the same slot and
are equal to it by test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.axes import constrain
from transformer.network import biases, masks, norms, positions, precision
from transformer.network.kv_cache import Cache, Memory, filled, stored
from transformer.network.masks import Mask, Tokens
from transformer.network.precision import Product, contract, product

Attend = Callable[..., jax.Array]


def weights(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    *,
    mask: Mask,
    queries: Tokens,
    keys: Tokens,
    scale: float,
    soft_cap: float | None = None,
    bias: positions.Bias | None = None,
) -> jax.Array:
    """The attention matrix A: float32 (B, H, L, M), rows summing to 1, or to 0 where
    the mask allows a query nothing.

    soft_cap: scores s become soft_cap * tanh(s / soft_cap) before the mask (Gemma 2,
    arXiv 2408.00118). bias: added to the scores, from (queries, keys).
    """
    rows, length, heads, features = q_BLHK.shape
    groups = k_BMGK.shape[2]
    q_BLGRK = q_BLHK.reshape(rows, length, groups, heads // groups, features)
    scores_BGRLM = product("BLGRK,BMGK->BGRLM", q_BLGRK, k_BMGK) * scale
    scores_BHLM = scores_BGRLM.reshape(rows, heads, length, -1)
    if soft_cap is not None:
        scores_BHLM = soft_cap * jnp.tanh(scores_BHLM / soft_cap)
    if bias is not None:
        scores_BHLM = scores_BHLM + bias(queries, keys)
    allowed_BHLM = jnp.asarray(mask.allowed(queries, keys))[:, None]
    scores_BHLM = jnp.where(allowed_BHLM, scores_BHLM, -jnp.inf)
    # A row with nothing allowed has maximum -inf; 0 in its place keeps it from NaN.
    peak_BHLM = jnp.max(scores_BHLM, axis=-1, keepdims=True)
    peak_BHLM = jnp.where(jnp.isfinite(peak_BHLM), peak_BHLM, 0.0)
    raised_BHLM = jnp.exp(scores_BHLM - jax.lax.stop_gradient(peak_BHLM))
    total_BHLM = raised_BHLM.sum(-1, keepdims=True)
    return raised_BHLM / jnp.where(total_BHLM == 0.0, 1.0, total_BHLM)


def plain(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    *,
    mask: Mask,
    queries: Tokens,
    keys: Tokens,
    scale: float,
    soft_cap: float | None = None,
    bias: positions.Bias | None = None,
) -> jax.Array:
    """A V, with the whole attention matrix in memory: (B, L, H, K).

    The G key/value heads serve H / G query heads each (grouped-query attention, Ainslie
    et al. 2023, arXiv 2305.13245; G = 1 is multi-query). Arguments as in `weights`.
    """
    attention_BHLM = weights(
        q_BLHK,
        k_BMGK,
        mask=mask,
        queries=queries,
        keys=keys,
        scale=scale,
        soft_cap=soft_cap,
        bias=bias,
    )
    rows, heads, length, keys_seen = attention_BHLM.shape
    groups = v_BMGK.shape[2]
    shape = rows, groups, heads // groups, length, keys_seen
    a_BGRLM = attention_BHLM.astype(v_BMGK.dtype).reshape(shape)
    # In the order of the product itself: a cache of values is then read as it lies.
    y_BGRLK = jnp.einsum("BGRLM,BMGK->BGRLK", a_BGRLM, v_BMGK)
    return jnp.einsum("BGRLK->BLGRK", y_BGRLK).reshape(q_BLHK.shape)


def platform(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    *,
    mask: Mask,
    queries: Tokens,
    keys: Tokens,
    scale: float,
    soft_cap: float | None = None,
    bias: positions.Bias | None = None,
    implementation: Any = None,
) -> jax.Array:
    """`plain` by `jax.nn.dot_product_attention`: XLA's, or with
    `implementation="cudnn"` the fused kernel of NVIDIA GPUs.

    The tokens must be whole rows in order. A query that may see nothing is undefined
    here (there it is 0). Raises ValueError where soft_cap is asked for.
    """
    if soft_cap is not None:
        raise ValueError(
            f"attention.platform has no soft cap: expected soft_cap=None, got "
            f"{soft_cap}; use attention.plain or a blockwise path"
        )
    return jax.nn.dot_product_attention(
        q_BLHK,
        k_BMGK,
        v_BMGK,
        bias=None if bias is None else bias(queries, keys).astype(q_BLHK.dtype),
        scale=scale,
        implementation=implementation,
        **masks.lowered(mask, queries, keys),
    )


class Attention(nn.Module):
    """Multi-head attention with H query heads on G key/value heads of K features: of a
    row's tokens to each other (the call), or to a memory (`read`).

    mask: what may be seen. attend: how it is computed. rotate: positions into queries
    and keys. bias: positions onto scores. head_norm: over each query and key. offset:
    the maps' biases. product: by what the maps are multiplied. output_init: of the last
    map, smaller for deep residual streams.
    """

    width: int
    heads: int
    groups: int
    head_features: int
    mask: Mask
    attend: Attend = plain
    rotate: positions.Rotate = positions.unrotated
    bias: positions.Bias | None = None
    head_norm: Callable[..., nn.Module] = norms.Absent
    soft_cap: float | None = None
    offset: biases.Offset = biases.absent
    product: Product = precision.product
    weight_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
    output_init: nn.initializers.Initializer = nn.initializers.normal(0.02)

    def setup(self) -> None:
        if self.heads % self.groups:
            raise ValueError(
                f"groups: expected a divisor of heads={self.heads}, got {self.groups}"
            )
        q_shape = self.heads, self.head_features
        k_shape = self.groups, self.head_features
        self.w_q_DHK = self.param("w_q_DHK", self.weight_init, (self.width, *q_shape))
        self.w_k_DGK = self.param("w_k_DGK", self.weight_init, (self.width, *k_shape))
        self.w_v_DGK = self.param("w_v_DGK", self.weight_init, (self.width, *k_shape))
        self.w_o_HKD = self.param("w_o_HKD", self.output_init, (*q_shape, self.width))
        self.b_q_HK = self.offset(self, "b_q_HK", q_shape)
        self.b_k_GK = self.offset(self, "b_k_GK", k_shape)
        self.b_v_GK = self.offset(self, "b_v_GK", k_shape)
        self.b_o_D = self.offset(self, "b_o_D", (self.width,))
        self.q_norm = self.head_norm()
        self.k_norm = self.head_norm()

    def __call__(self, x_BLD: jax.Array, tokens: Tokens) -> jax.Array:
        """Self-attention over whole rows: each token mixes the values of those of its
        own row that the mask shows it."""
        return self.read(x_BLD, tokens, Memory(x_BLD, tokens))

    def read(self, x_BLD: jax.Array, tokens: Tokens, memory: Memory) -> jax.Array:
        """Cross-attention: queries from x, keys and values from the memory (Vaswani et
        al. 2017, section 3.2.3)."""
        q_BLHK = self._queries(x_BLD, tokens)
        k_BMGK, v_BMGK = self._keys_values(memory)
        score = self._score(self.mask, tokens, memory.tokens)
        if self.is_mutable_collection("intermediates"):
            self.sow("intermediates", "weights_BHLM", weights(q_BLHK, k_BMGK, **score))
        y_BLHK = self.attend(q_BLHK, k_BMGK, v_BMGK, **score)
        return self._output(constrain(y_BLHK, "BLHK"))

    def extend(
        self, x_BLD: jax.Array, cache: Cache, tokens: Tokens
    ) -> tuple[jax.Array, Cache]:
        """The next tokens of each row, which see the cache and each other: the same
        result as the whole row at once. At most as many as the cache was made for, and
        under a mask that looks ahead (a prefix) all that it looks at in one chunk."""
        q_BLHK = self._queries(x_BLD, tokens)
        cache = stored(cache, *self._keys_values(Memory(x_BLD, tokens)), tokens)
        return self._mixed(q_BLHK, tokens, cache), cache

    def remember(self, memory: Memory) -> Cache:
        """The memory's keys and values, computed once for all that will `recall` it."""
        return filled(*self._keys_values(memory), memory.tokens)

    def recall(self, x_BLD: jax.Array, tokens: Tokens, cache: Cache) -> jax.Array:
        """`read` of what the cache remembers."""
        return self._mixed(self._queries(x_BLD, tokens), tokens, cache)

    @nn.nowrap
    def empty_cache(self, rows: int, length: int, chunk: int, dtype: Any) -> Cache:
        """A cache for rows of up to `length` tokens, extended by at most `chunk` at a
        time. Under a window it holds only what the window can reach, and rolls."""
        reach = self.mask.reach
        slots = length if reach is None else min(length, reach + chunk - 1)
        k_BGMK = jnp.zeros((rows, self.groups, slots, self.head_features), dtype)
        k_BGMK = constrain(k_BGMK, "BGMK")
        none_BM = jnp.zeros((rows, slots), jnp.int32)
        return Cache(k_BGMK, k_BGMK, none_BM, none_BM, none_BM)

    def _score(self, mask: Mask, queries: Tokens, keys: Tokens) -> dict[str, Any]:
        return {
            "mask": mask,
            "queries": queries,
            "keys": keys,
            "scale": self.head_features**-0.5,
            "soft_cap": self.soft_cap,
            "bias": self.bias,
        }

    def _linear(self, subscripts: str, x: jax.Array, w: jax.Array) -> jax.Array:
        return contract(subscripts, x, w, product=self.product)

    def _queries(self, x_BLD: jax.Array, tokens: Tokens) -> jax.Array:
        q_BLHK = self._linear("BLD,DHK->BLHK", x_BLD, self.w_q_DHK) + self.b_q_HK
        return constrain(self.rotate(self.q_norm(q_BLHK), tokens.position_BL), "BLHK")

    def _keys_values(self, memory: Memory) -> tuple[jax.Array, jax.Array]:
        # As what is attended to, M, positions lie whole on every device.
        x_BMD, tokens = memory
        k_BMGK = self._linear("BMD,DGK->BMGK", x_BMD, self.w_k_DGK) + self.b_k_GK
        v_BMGK = self._linear("BMD,DGK->BMGK", x_BMD, self.w_v_DGK) + self.b_v_GK
        k_BMGK = self.rotate(self.k_norm(k_BMGK), tokens.position_BL)
        return constrain(k_BMGK, "BMGK"), constrain(v_BMGK, "BMGK")

    def _mixed(self, q_BLHK: jax.Array, tokens: Tokens, cache: Cache) -> jax.Array:
        score = self._score(self.mask & masks.padding(), tokens, cache.tokens)
        k_BMGK, v_BMGK = (a.swapaxes(1, 2) for a in (cache.k_BGMK, cache.v_BGMK))
        return self._output(plain(q_BLHK, k_BMGK, v_BMGK, **score))

    def _output(self, y_BLHK: jax.Array) -> jax.Array:
        return self._linear("BLHK,HKD->BLD", y_BLHK, self.w_o_HKD) + self.b_o_D
