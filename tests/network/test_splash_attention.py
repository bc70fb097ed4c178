"""The Pallas kernel for TPUs, interpreted, equals `dot_product_attention` in values and
gradients, for masks of every kind, packed and padded rows, and on a mesh."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import close

from transformer import axes
from transformer.network import attention, masks, precision
from transformer.network.kernels import splash_attention
from transformer.training import flops

splash = partial(splash_attention.splash_attention, block=128, interpret=True)
# Two documents and padding in each row, 200 tokens: not a multiple of a block.
SEGMENTS = np.repeat([[1, 2, 0], [1, 2, 2]], [90, 70, 40], axis=1).astype(np.int32)


def heads(rows: int = 2, length: int = 200) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    shapes = [(rows, length, 4, 16), (rows, length, 2, 16), (rows, length, 2, 16)]
    return tuple(rng.normal(size=s).astype(np.float32) for s in shapes)


def with_gradients(attend: Any, segment_BL: Any, **settings: Any) -> Any:
    index_BL = np.broadcast_to(np.arange(segment_BL.shape[1]), segment_BL.shape)
    tokens = masks.TokenPositions(index_BL, index_BL, segment_BL)
    # What a padded query sees has no meaning.
    real_BL11 = (segment_BL != 0)[:, :, None, None]

    def loss(q: Any, k: Any, v: Any) -> Any:
        y = attend(q, k, v, queries=tokens, keys=tokens, scale=0.3, **settings)
        y = jnp.where(real_BL11, y, 0)
        return jnp.sum(y * jnp.cos(jnp.arange(y.size).reshape(y.shape))), y

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))


@pytest.mark.parametrize(
    "settings",
    [
        {"mask": masks.causal() & masks.segments()},
        {"mask": masks.causal() & masks.window(70), "soft_cap": 2.0},
        {"mask": masks.strided(3) & masks.padding()},
    ],
    ids=["causal in documents", "window with a cap", "pattern without padding"],
)
def test_splash_attention_equals_dot_product_attention(settings: Any) -> None:
    arrays = heads()
    expected = with_gradients(attention.dot_product_attention, SEGMENTS, **settings)
    got = with_gradients(splash, SEGMENTS, **settings)
    close(expected(*arrays), got(*arrays), 2e-5)


def test_splash_attention_on_a_mesh_equals_one_device() -> None:
    """Rows over data, heads over tensor."""
    arrays, ones = heads(4, 128), np.ones((4, 128), np.int32)
    mask = masks.causal() & masks.segments()
    expected = with_gradients(attention.dot_product_attention, ones, mask=mask)(*arrays)
    mesh = axes.make_mesh(data=4, tensor=2)
    with jax.set_mesh(mesh):
        names = "q_BLHK", "k_BMGK", "v_BMGK"
        batch = dict(zip(names, arrays, strict=True))
        places = axes.shardings(mesh, batch, role="activation")
        spread = jax.device_put(batch, places)
        got = with_gradients(splash, ones, mask=mask)(*(spread[n] for n in names))
        assert got[0][1].sharding.spec[0] == "data"
    close(expected, got, 2e-5)


@pytest.mark.parametrize("rows", [1, 2])
def test_products_of_the_computed_blocks_are_counted(rows: int) -> None:
    """Of a causal row of three blocks six of nine are computed: two products forward,
    and seven backward, in which the scores are computed twice more."""
    q, k, v = heads(rows, 384)
    tokens = masks.single_document(384)
    options: Any = {"queries": tokens, "keys": tokens, "scale": 1.0}

    def loss(q: Any, k: Any, v: Any) -> Any:
        return jnp.sum(splash(q, k, v, mask=masks.causal(), **options))

    each = rows * 4 * 6 * (2 * 128 * 128 * 16)  # Rows, heads, blocks.
    forward = jax.make_jaxpr(loss)(q, k, v).jaxpr
    assert flops.matmul_flops(forward) == 2 * each
    # By all operands: JAX 0.12 drops the kernel of what is not asked for.
    both = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v).jaxpr
    assert flops.matmul_flops(both, kernels_alone=True) == 9 * each


@pytest.mark.parametrize("saved, products", [((), 11), ((precision.ATTENTION,), 9)])
def test_what_the_backward_pass_needs_is_saved_by_name(
    saved: tuple[str, ...], products: int
) -> None:
    """Products of blocks, as above: two more where the forward pass is repeated."""
    q, k, v = heads(1, 384)
    tokens = masks.single_document(384)
    options: Any = {"queries": tokens, "keys": tokens, "scale": 1.0}

    @partial(
        jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(*saved)
    )
    def loss(q: Any, k: Any, v: Any) -> Any:
        return jnp.sum(jnp.sin(splash(q, k, v, mask=masks.causal(), **options)))

    each = 4 * 6 * (2 * 128 * 128 * 16)
    by_all = jax.value_and_grad(loss, argnums=(0, 1, 2))
    both = jax.make_jaxpr(by_all)(q, k, v).jaxpr
    assert flops.matmul_flops(both, kernels_alone=True) == products * each


def test_what_the_kernel_cannot_compute_is_named() -> None:
    either = masks.segments() | masks.global_tokens(2)
    assert "within an alternative" in splash_attention.reason_against(either)
    assert not splash_attention.reason_against(masks.causal() & masks.segments())
    tokens = masks.single_document(128)
    options: Any = {"queries": tokens, "keys": tokens, "scale": 1.0, "bias": jnp.add}
    with pytest.raises(ValueError, match="got a bias of the scores"):
        splash(*heads(1, 128), mask=masks.causal(), **options)
    with jax.set_mesh(axes.make_mesh(context=8)):
        assert "context" in splash_attention.reason_against(masks.causal())
