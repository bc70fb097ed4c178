"""Multi-head attention: queries, keys and values of the tokens, and the function that
mixes the values.

Turner's section 2.1 with the letters of `axes`: A = softmax(Q K^T / sqrt(K)) is the
N x N attention matrix (here L x M), and the output is A V. `dot_product_attention` is
that formula. Two slots:

- a kernel (`SoftmaxAttention.kernel`) is another implementation of the same formula,
  equal to `dot_product_attention` by test: row-blocked, flash, jax's;
- a mixer (`Attention.make_mixer`) is the function itself: softmax attention, linear
  attention, or one with parameters of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from transformer.axes import constrain
from transformer.network import biases, masks, norms, positions, precision
from transformer.network.kv_cache import KVCache, Memory, cache_of, update_cache
from transformer.network.masks import Mask, TokenPositions
from transformer.network.precision import Einsum, einsum_f32

# Same signature and result as `dot_product_attention`; whole rows in order only.
Kernel = Callable[..., jax.Array]
# Makes a module that is called as `SoftmaxAttention` is.
MakeMixer = Callable[[], Any]


def masked_scores(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    *,
    mask: Mask,
    queries: TokenPositions,
    keys: TokenPositions,
    scale: float,
    soft_cap: float | None = None,
    bias: positions.ScoreBias | None = None,
) -> jax.Array:
    """The scores before the softmax, float32 (B, H, L, M), -inf where the mask allows
    no pair.

    soft_cap: scores s become soft_cap * tanh(s / soft_cap) before the mask (Gemma 2,
    arXiv 2408.00118). bias: a function of (queries, keys), added to the scores.
    """
    rows, length, heads, features = q_BLHK.shape
    groups = k_BMGK.shape[2]
    q_BLGRK = q_BLHK.reshape(rows, length, groups, heads // groups, features)
    scores_BGRLM = einsum_f32("BLGRK,BMGK->BGRLM", q_BLGRK, k_BMGK) * scale
    scores_BHLM = scores_BGRLM.reshape(rows, heads, length, -1)
    if soft_cap is not None:
        scores_BHLM = soft_cap * jnp.tanh(scores_BHLM / soft_cap)
    if bias is not None:
        scores_BHLM = scores_BHLM + bias(queries, keys)
    allowed_BHLM = jnp.asarray(mask.allowed_pairs(queries, keys))[:, None]
    return jnp.where(allowed_BHLM, scores_BHLM, -jnp.inf)


def attention_weights(q_BLHK: jax.Array, k_BMGK: jax.Array, **score: Any) -> jax.Array:
    """The attention matrix A: float32 (B, H, L, M). Each row sums to 1, or to 0 where
    the mask allows no key. score: as in `masked_scores`."""
    scores_BHLM = masked_scores(q_BLHK, k_BMGK, **score)
    # A row without an allowed key has maximum -inf; 0 in its place avoids NaN.
    max_BHLM = jnp.max(scores_BHLM, axis=-1, keepdims=True)
    max_BHLM = jnp.where(jnp.isfinite(max_BHLM), max_BHLM, 0.0)
    exp_BHLM = jnp.exp(scores_BHLM - jax.lax.stop_gradient(max_BHLM))
    total_BHLM = exp_BHLM.sum(-1, keepdims=True)
    return exp_BHLM / jnp.where(total_BHLM == 0.0, 1.0, total_BHLM)


def mix_values(attention_BHLM: jax.Array, v_BMGK: jax.Array) -> jax.Array:
    """A V: (B, L, H, K of the values)."""
    rows, heads, length, memory = attention_BHLM.shape
    groups, features = v_BMGK.shape[2:]
    shape = rows, groups, heads // groups, length, memory
    a_BGRLM = attention_BHLM.astype(v_BMGK.dtype).reshape(shape)
    # In the einsum's own order, so that cached values are not transposed.
    y_BGRLK = jnp.einsum("BGRLM,BMGK->BGRLK", a_BGRLM, v_BMGK)
    y_BLGRK = jnp.einsum("BGRLK->BLGRK", y_BGRLK)
    return y_BLGRK.reshape(rows, length, heads, features)


def dot_product_attention(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    *,
    mask: Mask,
    queries: TokenPositions,
    keys: TokenPositions,
    scale: float,
    soft_cap: float | None = None,
    bias: positions.ScoreBias | None = None,
) -> jax.Array:
    """A V with the whole attention matrix in memory: (B, L, H, K of the values).

    Each of the G key/value heads serves H / G query heads (grouped-query attention,
    Ainslie et al. 2023, arXiv 2305.13245; G = 1 is multi-query). Values may have
    another number of features than keys. Other arguments as in `masked_scores`.
    """
    attention_BHLM = attention_weights(
        q_BLHK,
        k_BMGK,
        mask=mask,
        queries=queries,
        keys=keys,
        scale=scale,
        soft_cap=soft_cap,
        bias=bias,
    )
    return mix_values(attention_BHLM, v_BMGK)


def jax_attention(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    *,
    mask: Mask,
    queries: TokenPositions,
    keys: TokenPositions,
    scale: float,
    soft_cap: float | None = None,
    bias: positions.ScoreBias | None = None,
    implementation: Any = None,
) -> jax.Array:
    """`dot_product_attention` by `jax.nn.dot_product_attention`: XLA's, or with
    `implementation="cudnn"` the fused kernel of NVIDIA GPUs.

    The tokens must be whole rows in order. The result is undefined for a query without
    an allowed key (`dot_product_attention` gives 0). Raises ValueError for a soft cap.
    """
    if soft_cap is not None:
        raise ValueError(
            f"attention.jax_attention has no soft cap: expected soft_cap=None, got "
            f"{soft_cap}; use dot_product_attention or another kernel"
        )
    features = v_BMGK.shape[-1]
    if features != k_BMGK.shape[-1]:
        # jax has one number of features for all; zeros change no score and no value.
        wider = max(features, k_BMGK.shape[-1])
        q_BLHK, k_BMGK, v_BMGK = (
            jnp.pad(a, ((0, 0), (0, 0), (0, 0), (0, wider - a.shape[-1])))
            for a in (q_BLHK, k_BMGK, v_BMGK)
        )
    y_BLHK = jax.nn.dot_product_attention(
        q_BLHK,
        k_BMGK,
        v_BMGK,
        bias=None if bias is None else bias(queries, keys).astype(q_BLHK.dtype),
        scale=scale,
        implementation=implementation,
        **masks.to_jax_kwargs(mask, queries, keys),
    )
    return y_BLHK[..., :features] if y_BLHK.shape[-1] != features else y_BLHK


class SoftmaxAttention(nn.Module):
    """Softmax attention, the default mixer. Sows `weights_BHLM` in `intermediates`.

    kernel: implementation for whole rows in order; cached keys use
    `dot_product_attention`. soft_cap, bias: as in `masked_scores`.

    The protocol of a mixer: a call with these arguments gives (B, L, H, value
    features). in_order: queries and keys are whole rows in order (index 0, 1, ...);
    keys from a cache stand in any order, and `mask` excludes the empty slots. Both
    cases must compute the same function. A mixer that cannot use cached keys has an
    attribute `decodes = False`.
    """

    kernel: Kernel = dot_product_attention
    soft_cap: float | None = None
    bias: positions.ScoreBias | None = None

    @nn.compact
    def __call__(
        self,
        q_BLHK: jax.Array,
        k_BMGK: jax.Array,
        v_BMGK: jax.Array,
        *,
        mask: Mask,
        queries: TokenPositions,
        keys: TokenPositions,
        scale: float,
        in_order: bool,
    ) -> jax.Array:
        score: dict[str, Any] = {
            "mask": mask,
            "queries": queries,
            "keys": keys,
            "scale": scale,
            "soft_cap": self.soft_cap,
            "bias": self.bias,
        }
        if self.is_mutable_collection("intermediates"):
            weights_BHLM = attention_weights(q_BLHK, k_BMGK, **score)
            self.sow("intermediates", "weights_BHLM", weights_BHLM)
        # A kernel lays out blocks of known sizes; an exported program may leave some
        # open.
        is_open = not all(isinstance(size, int) for size in q_BLHK.shape)
        kernel = self.kernel if in_order and not is_open else dot_product_attention
        return kernel(q_BLHK, k_BMGK, v_BMGK, **score)


class Attention(nn.Module):
    """Multi-head attention with H query heads and G key/value heads of K features:
    among a row's own tokens (the call), or to a memory (`cross_attend`).

    value_features: features of a value head; `head_features` if None. mask: allowed
    pairs of tokens. make_mixer: how values are mixed. rotate: positions in queries and
    keys. head_norm: norm of each query and key. make_bias: biases of the linear maps.
    einsum: implementation of the linear maps. output_init: of the last map, smaller for
    deep residual streams. score_scale: factor of the scores, 1 / sqrt(K) if None.
    """

    width: int
    heads: int
    kv_heads: int
    head_features: int
    mask: Mask
    value_features: int | None = None
    make_mixer: MakeMixer = SoftmaxAttention
    rotate: positions.Rotate = positions.identity
    head_norm: Callable[..., nn.Module] = norms.Identity
    make_bias: biases.MakeBias = biases.no_bias
    einsum: Einsum = precision.einsum_f32
    weight_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
    output_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
    score_scale: float | None = None

    def setup(self) -> None:
        if self.kv_heads < 1 or self.heads % self.kv_heads:
            raise ValueError(
                f"kv_heads: expected a divisor of heads={self.heads}, "
                f"got {self.kv_heads}"
            )
        q_shape = self.heads, self.head_features
        k_shape = self.kv_heads, self.head_features
        v_shape = self.kv_heads, self._value_features()
        o_shape = self.heads, self._value_features(), self.width
        self.w_q_DHK = self.param("w_q_DHK", self.weight_init, (self.width, *q_shape))
        self.w_k_DGK = self.param("w_k_DGK", self.weight_init, (self.width, *k_shape))
        self.w_v_DGK = self.param("w_v_DGK", self.weight_init, (self.width, *v_shape))
        self.w_o_HKD = self.param("w_o_HKD", self.output_init, o_shape)
        self.b_q_HK = self.make_bias(self, "b_q_HK", q_shape)
        self.b_k_GK = self.make_bias(self, "b_k_GK", k_shape)
        self.b_v_GK = self.make_bias(self, "b_v_GK", v_shape)
        self.b_o_D = self.make_bias(self, "b_o_D", (self.width,))
        self.q_norm = self.head_norm()
        self.k_norm = self.head_norm()
        self.mixer = self.make_mixer()

    def __call__(self, x_BLD: jax.Array, tokens: TokenPositions) -> jax.Array:
        """Self-attention within whole rows, (B, L, D) to (B, L, D)."""
        return self.cross_attend(x_BLD, tokens, Memory(x_BLD, tokens))

    def cross_attend(
        self, x_BLD: jax.Array, tokens: TokenPositions, memory: Memory
    ) -> jax.Array:
        """Cross-attention: queries from x, keys and values from the memory (Vaswani et
        al. 2017, section 3.2.3). Both whole rows."""
        q_BLHK = self._queries(x_BLD, tokens)
        k_BMGK, v_BMGK = self._keys_values(memory)
        y_BLHK = self.mix(
            q_BLHK,
            k_BMGK,
            v_BMGK,
            mask=self.mask,
            queries=tokens,
            keys=memory.tokens,
            in_order=True,
        )
        return self._output(constrain(y_BLHK, "BLHK"))

    def decode(
        self, x_BLD: jax.Array, cache: KVCache, tokens: TokenPositions
    ) -> tuple[jax.Array, KVCache]:
        """The next tokens of each row, which attend to the cache and to each other;
        equal to the whole row at once. At most as many tokens as the cache's `chunk`;
        under a mask that looks ahead (a prefix), that part in one chunk."""
        q_BLHK = self._queries(x_BLD, tokens)
        cache = update_cache(cache, *self._keys_values(Memory(x_BLD, tokens)), tokens)
        return self._attend_cache(q_BLHK, tokens, cache), cache

    def cache_memory(self, memory: Memory) -> KVCache:
        """The memory's keys and values, computed once for all `attend_cached`."""
        return cache_of(*self._keys_values(memory), memory.tokens)

    def attend_cached(
        self, x_BLD: jax.Array, tokens: TokenPositions, cache: KVCache
    ) -> jax.Array:
        """`cross_attend` to a memory from `cache_memory`."""
        return self._attend_cache(self._queries(x_BLD, tokens), tokens, cache)

    def mix(
        self,
        q_BLHK: jax.Array,
        k_BMGK: jax.Array,
        v_BMGK: jax.Array,
        *,
        mask: Mask,
        queries: TokenPositions,
        keys: TokenPositions,
        in_order: bool,
    ) -> jax.Array:
        """The values mixed for each query, (B, L, H, value features): the only call of
        the mixer, for whole rows, cross-attention and cached decoding alike."""
        return self.mixer(
            q_BLHK,
            k_BMGK,
            v_BMGK,
            mask=mask,
            queries=queries,
            keys=keys,
            scale=self._score_scale(),
            in_order=in_order,
        )

    @nn.nowrap
    def empty_cache(self, rows: int, length: int, chunk: int, dtype: Any) -> KVCache:
        """A cache for rows of at most `length` tokens, decoded at most `chunk` at a
        time. A window's cache has only the slots that the window can reach, and rolls.
        ValueError where the mixer cannot decode."""
        mixer = self.make_mixer()
        if not getattr(mixer, "decodes", True):
            name = type(mixer).__name__
            raise ValueError(f"{name} cannot decode from a cache: it has decodes=False")
        lookback = self.mask.max_lookback
        slots = length if lookback is None else min(length, lookback + chunk - 1)
        k_BGMK = jnp.zeros((rows, self.kv_heads, slots, self.head_features), dtype)
        v_BGMK = jnp.zeros((rows, self.kv_heads, slots, self._value_features()), dtype)
        none_BM = jnp.zeros((rows, slots), jnp.int32)
        return KVCache(
            constrain(k_BGMK, "BGMK"),
            constrain(v_BGMK, "BGMK"),
            none_BM,
            none_BM,
            none_BM,
        )

    @nn.nowrap
    def _value_features(self) -> int:
        return self.value_features or self.head_features

    @nn.nowrap
    def _score_scale(self) -> float:
        return self.score_scale or self.head_features**-0.5

    def _linear(self, subscripts: str, x: jax.Array, w: jax.Array) -> jax.Array:
        return precision.linear(subscripts, x, w, einsum=self.einsum)

    def _project(self, subscripts: str, x: jax.Array, w: jax.Array) -> jax.Array:
        """Queries, keys or values before their norm, whose backward pass needs them."""
        return checkpoint_name(self._linear(subscripts, x, w), precision.ATTENTION)

    def _queries(self, x_BLD: jax.Array, tokens: TokenPositions) -> jax.Array:
        q_BLHK = self._project("BLD,DHK->BLHK", x_BLD, self.w_q_DHK) + self.b_q_HK
        return constrain(self.rotate(self.q_norm(q_BLHK), tokens.position_BL), "BLHK")

    def _keys_values(self, memory: Memory) -> tuple[jax.Array, jax.Array]:
        # Keys and values (M) are whole on every device of the mesh axis `context`.
        x_BMD, tokens = memory
        k_BMGK = self._project("BMD,DGK->BMGK", x_BMD, self.w_k_DGK) + self.b_k_GK
        v_BMGK = self._project("BMD,DGK->BMGK", x_BMD, self.w_v_DGK) + self.b_v_GK
        k_BMGK = self.rotate(self.k_norm(k_BMGK), tokens.position_BL)
        return constrain(k_BMGK, "BMGK"), constrain(v_BMGK, "BMGK")

    def _attend_cache(
        self, q_BLHK: jax.Array, tokens: TokenPositions, cache: KVCache
    ) -> jax.Array:
        k_BMGK, v_BMGK = (a.swapaxes(1, 2) for a in (cache.k_BGMK, cache.v_BGMK))
        y_BLHK = self.mix(
            q_BLHK,
            k_BMGK,
            v_BMGK,
            mask=self.mask & masks.padding(),
            queries=tokens,
            keys=cache.tokens,
            in_order=False,
        )
        return self._output(y_BLHK)

    def _output(self, y_BLHK: jax.Array) -> jax.Array:
        return self._linear("BLHK,HKD->BLD", y_BLHK, self.w_o_HKD) + self.b_o_D
