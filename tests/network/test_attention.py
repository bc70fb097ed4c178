"""Attention equals its formula in numpy, for each kernel, mask, bias and grouping."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import KERNELS, KernelCase, close, name_of

from transformer.network import attention, biases, masks, norms, positions
from transformer.network.kv_cache import update_cache
from transformer.network.masks import Mask, TokenPositions

ROWS, LENGTH, HEADS, FEATURES = 2, 12, 4, 8
SEGMENTS = np.array([[1] * 5 + [2] * 4 + [0] * 3, [1] * 12], np.int32)
POSITIONS = np.array([[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 0, 0], [*range(12)]], np.int32)
PACKED = TokenPositions(np.arange(LENGTH)[None], POSITIONS, SEGMENTS)


class Score(NamedTuple):
    """The arguments of attention besides queries, keys and values."""

    name: str
    mask: Mask = masks.causal()
    tokens: TokenPositions = PACKED
    groups: int = HEADS
    bias: Any = None
    soft_cap: float | None = None


SCORES = [
    Score("causal", tokens=masks.single_document(LENGTH)),
    Score("full", mask=masks.full()),
    Score("window", mask=masks.window(3, 2)),
    Score("causal window", mask=masks.causal() & masks.window(3)),
    Score("prefix", mask=masks.prefix(3) | masks.causal()),
    Score("segments", mask=masks.causal() & masks.segments()),
    Score("padding", mask=masks.padding()),
    Score("strided", mask=masks.strided(3) & masks.causal()),
    Score("Longformer", mask=masks.window(2, 2) | masks.global_tokens(2)),
    Score("sparse", mask=masks.block_sparse(np.tri(3, dtype=int), 4)),
    Score("grouped", groups=2),
    Score("multi-query", mask=masks.causal() & masks.segments(), groups=1),
    Score("ALiBi", bias=positions.alibi(HEADS), groups=2),
    Score("soft-cap", soft_cap=1.5),
    Score(
        "all at once",
        mask=masks.causal() & masks.segments() & masks.window(4),
        bias=positions.alibi(HEADS),
        soft_cap=1.5,
        groups=2,
    ),
]

every_score = pytest.mark.parametrize("score", SCORES, ids=name_of)


def tensors(groups: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = [(ROWS, LENGTH, heads, FEATURES) for heads in (HEADS, groups, groups)]
    return [rng.normal(size=s).astype(np.float32) for s in shapes]


def arguments(score: Score) -> dict[str, Any]:
    return {
        "mask": score.mask,
        "queries": score.tokens,
        "keys": score.tokens,
        "scale": FEATURES**-0.5,
        "soft_cap": score.soft_cap,
        "bias": score.bias,
    }


def allowed_pairs(score: Score) -> np.ndarray:
    allowed_keys = score.mask.allowed_pairs(score.tokens, score.tokens)
    return np.broadcast_to(allowed_keys, (ROWS, LENGTH, LENGTH))


def formula(score: Score, q: Any, k: Any, v: Any) -> tuple[np.ndarray, np.ndarray]:
    """The attention matrices and outputs, one query at a time, in float64."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    repeats = HEADS // score.groups
    allowed_keys = allowed_pairs(score)
    position = np.broadcast_to(score.tokens.position_BL, (ROWS, LENGTH))
    weights = np.zeros((ROWS, HEADS, LENGTH, LENGTH))
    for b, h, i in np.ndindex(ROWS, HEADS, LENGTH):
        scores = k[b, :, h // repeats] @ q[b, i, h] / np.sqrt(FEATURES)
        if score.soft_cap is not None:
            scores = score.soft_cap * np.tanh(scores / score.soft_cap)
        if score.bias is not None:
            scores = scores - 2.0 ** (-8 * (h + 1) / HEADS) * np.abs(
                position[b, i] - position[b]
            )
        exp = np.where(allowed_keys[b, i], np.exp(scores), 0.0)
        weights[b, h, i] = exp / max(exp.sum(), 1e-300)
    v_repeated = np.repeat(v, repeats, axis=2)
    return weights, np.einsum("BHLM,BMHK->BLHK", weights, v_repeated)


@every_score
def test_dot_product_attention_equals_the_formula(score: Score) -> None:
    q, k, v = tensors(score.groups)
    weights, expected = formula(score, q, k, v)
    run = jax.jit(
        lambda q, k, v: (
            attention.attention_weights(q, k, **arguments(score)),
            attention.dot_product_attention(q, k, v, **arguments(score)),
        )
    )
    close((weights, expected), run(q, k, v))


@every_score
def test_weights_sum_to_one_over_allowed_keys(score: Score) -> None:
    q, k, _ = tensors(score.groups)
    weights = jax.jit(partial(attention.attention_weights, **arguments(score)))(q, k)
    allowed_keys = np.broadcast_to(allowed_pairs(score)[:, None], weights.shape)
    weights = np.asarray(weights)
    np.testing.assert_array_equal(weights > 0, allowed_keys)
    np.testing.assert_allclose(weights.sum(-1), allowed_keys.any(-1), atol=1e-6)


@every_score
def test_gradients_are_zero_exactly_where_the_mask_excludes(score: Score) -> None:
    """d output_i / d value_j and d key_j are 0 where the mask excludes (i, j):
    causality, for a causal mask."""
    q, k, v = tensors(score.groups)
    rng = np.random.default_rng(1)
    direction = rng.normal(size=q.shape).astype(np.float32)

    def projected(k: jax.Array, v: jax.Array) -> jax.Array:
        y = attention.dot_product_attention(q, k, v, **arguments(score))
        return jnp.einsum("BLHK,BLHK->LB", y, direction).sum(-1)

    by_k, by_v = jax.jit(jax.jacrev(projected, argnums=(0, 1)))(k, v)
    influence = np.abs(np.stack([by_k, by_v])).sum((-1, -2))
    allowed_keys = np.moveaxis(allowed_pairs(score), 1, 0)
    np.testing.assert_array_equal(influence[1] > 0, allowed_keys)
    assert (influence[0][~allowed_keys] == 0).all() and np.isfinite(influence).all()


def test_a_query_without_allowed_keys_gives_zero_and_no_nan() -> None:
    score = Score("nothing", mask=masks.causal() & masks.prefix(0))
    q, k, v = tensors(HEADS)

    def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        y = attention.dot_product_attention(q, k, v, **arguments(score))
        return jnp.sum((y + 1.0) ** 2)

    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(q, k, v)
    assert float(value) == q.size
    assert all((np.asarray(g) == 0).all() for g in gradients)


@pytest.mark.parametrize("groups", [1, 2])
def test_grouped_heads_equal_repeated_heads(groups: int) -> None:
    q, k, v = tensors(groups)
    run = jax.jit(
        partial(attention.dot_product_attention, **arguments(Score("", groups=groups)))
    )
    repeated = (np.repeat(a, HEADS // groups, axis=2) for a in (k, v))
    close(run(q, k, v), run(q, *repeated), 1e-6)


@pytest.mark.parametrize(
    ("kernel", "score"),
    [(p, s) for p in KERNELS for s in SCORES if s.soft_cap is None or p.soft_cap],
    ids=name_of,
)
def test_kernels_equal_dot_product_attention(kernel: KernelCase, score: Score) -> None:
    """Values and gradients, at the queries with an allowed key."""
    q, k, v = tensors(score.groups)
    allowed_keys = allowed_pairs(score).any(-1)[:, :, None, None]

    def loss(kernel_function: attention.Kernel, q: Any, k: Any, v: Any) -> Any:
        y = jnp.where(allowed_keys, kernel_function(q, k, v, **arguments(score)), 0.0)
        return jnp.sum(jnp.sin(y)), y

    run = jax.jit(
        jax.value_and_grad(loss, argnums=(1, 2, 3), has_aux=True), static_argnums=0
    )
    close(run(attention.dot_product_attention, q, k, v), run(kernel.kernel, q, k, v))


def test_jax_attention_has_no_soft_cap() -> None:
    q, k, v = tensors(HEADS)
    with pytest.raises(ValueError, match="expected soft_cap=None, got 2.0"):
        attention.jax_attention(q, k, v, **arguments(Score("", soft_cap=2.0)))


def test_bfloat16_inputs_have_float32_weights() -> None:
    """bfloat16 in, bfloat16 out; the attention matrix is float32 between them."""
    q, k, v = (a.astype(jnp.bfloat16) for a in tensors(2))
    score = arguments(Score("", groups=2))
    weights = jax.eval_shape(partial(attention.attention_weights, **score), q, k)
    assert weights.dtype == jnp.float32
    got = jax.jit(partial(attention.dot_product_attention, **score))(q, k, v)
    assert got.dtype == jnp.bfloat16
    expected = formula(Score("", groups=2), q, k, v)[1]
    close(expected, np.asarray(got, np.float32), 1e-2)


def make(**settings_of: Any) -> attention.Attention:
    settings = {"width": 16, "heads": 4, "kv_heads": 2, "head_features": FEATURES}
    return attention.Attention(**{**settings, "mask": masks.causal(), **settings_of})


def random_params(module: Any) -> tuple[Any, np.ndarray]:
    x_BLD = np.random.default_rng(1).normal(size=(ROWS, LENGTH, 16)).astype(np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x_BLD, PACKED)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: np.float32(rng.normal(size=s.shape)), shapes)
    return params, x_BLD


def test_attention_module_equals_its_formula() -> None:
    module = make(
        head_norm=norms.HeadRMSNorm,
        rotate=positions.rotary(),
        make_bias=biases.zero_init_bias,
        make_mixer=partial(attention.SoftmaxAttention, soft_cap=2.0),
    )
    params, x_BLD = random_params(module)
    got = jax.jit(module.apply)({"params": params}, x_BLD, PACKED)

    def normal(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * gain

    q, k, v = (
        np.einsum("BLD,DHK->BLHK", x_BLD, params[f"w_{name}"])
        + params[f"b_{name[:1]}_{end}"]
        for name, end in (("q_DHK", "HK"), ("k_DGK", "GK"), ("v_DGK", "GK"))
    )
    rotate = jax.jit(positions.rotary())
    q = rotate(normal(q, params["q_norm"]["gain_K"]), POSITIONS)
    k = rotate(normal(k, params["k_norm"]["gain_K"]), POSITIONS)
    _, expected = formula(Score("", groups=2, soft_cap=2.0), q, k, v)
    expected = np.einsum("BLHK,HKD->BLD", expected, params["w_o_HKD"])
    close(expected + params["b_o_D"], got)


def test_there_is_a_head() -> None:
    with pytest.raises(ValueError, match="expected a divisor of heads=4, got 0"):
        random_params(make(kv_heads=0))


def test_groups_divide_the_heads() -> None:
    with pytest.raises(ValueError, match="expected a divisor of heads=4, got 3"):
        random_params(make(kv_heads=3))


@pytest.mark.parametrize(
    ("mask", "slots"),
    [
        (masks.causal(), 100),
        (masks.window(4), 5 + 3 - 1),
        (masks.causal() & masks.window(9, 9), 10 + 3 - 1),
        (masks.window(500), 100),
        (masks.window(4) | masks.global_tokens(1), 100),
    ],
    ids=repr,
)
def test_cache_has_only_the_slots_that_the_mask_can_reach(
    mask: Mask, slots: int
) -> None:
    cache = make(mask=mask).empty_cache(2, 100, 3, jnp.bfloat16)
    assert cache.k_BGMK.shape == cache.v_BGMK.shape == (2, 2, slots, FEATURES)
    assert cache.k_BGMK.dtype == jnp.bfloat16
    tokens = map(np.asarray, cache.tokens)
    assert all(a.shape == (2, slots) and (a == 0).all() for a in tokens)


def test_padding_is_not_cached() -> None:
    module = make(mask=masks.window(2))
    params, x_BLD = random_params(module)
    index_BL = np.broadcast_to(np.arange(4), (2, 4))
    segment_BL = np.array([[1, 1, 1, 1], [1, 0, 0, 0]])
    _, cache = jax.jit(partial(module.apply, method="decode"))(
        {"params": params},
        x_BLD[:, :4],
        module.empty_cache(2, 100, 4, jnp.float32),
        TokenPositions(index_BL, index_BL, segment_BL),
    )
    cache = jax.tree.map(np.asarray, cache)
    np.testing.assert_array_equal(
        cache.segment_BM, [[1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(cache.index_BM[0], [0, 1, 2, 3, 0, 0])
    assert (cache.k_BGMK[1, :, 1:] == 0).all() and (cache.k_BGMK[:, :, 0] != 0).all()


def test_bfloat16_cache_equals_the_rounded_float32_cache() -> None:
    """For rows of different lengths in a rolling cache, bit for bit."""
    rng = np.random.default_rng(0)
    k_BLGK = rng.normal(size=(2, 4, 2, 8)).astype(np.float32)
    module = make(mask=masks.window(2))
    index_BL = np.broadcast_to(np.arange(4, 8), (2, 4))
    tokens = TokenPositions(index_BL, index_BL, np.array([[1, 1, 1, 1], [1, 0, 0, 0]]))
    update = jax.jit(update_cache)
    wide, narrow = (
        jax.tree.map(
            np.asarray,
            update(module.empty_cache(2, 100, 4, dtype), k_BLGK, -k_BLGK, tokens),
        )
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    for expected, got in zip(wide, narrow, strict=True):
        np.testing.assert_array_equal(expected.astype(got.dtype), got)
    assert narrow.k_BGMK.dtype == jnp.bfloat16 and narrow.k_BGMK[:, :, 4].any()
