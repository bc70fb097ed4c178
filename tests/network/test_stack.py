"""Stacks: layers that differ, periods that are scanned, and what a scanned stack
refuses."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from formulas import apply_random

from transformer import axes
from transformer.network import attention, block, contract, masks, mlp, norms, stack

SOWN = ["intermediates"]
RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, size=(2, 5, 8)).astype(np.float32)


def test_unrolled_layers_may_differ() -> None:
    def make(block: Any, layer: int) -> Any:
        make_mlp = partial(mlp.MLP, width=8, hidden_features=4 * (layer + 1))
        return block(partial(Identity), make_mlp)

    class Identity(norms.Identity):
        def __call__(self, x_BLD: Any, tokens: Any) -> Any:
            return x_BLD

    _, p = apply_random(
        stack.UnrolledStack(depth=3, make_block=make), X, masks.single_document(5)
    )
    shapes = [p[f"layers_{i}"]["mlp"]["w_in_DF"].shape for i in range(3)]
    assert shapes == [(8, 4), (8, 8), (8, 12)]


def layer_scale(layer: int) -> Any:
    """A mixer that depends on `layer`."""
    return partial(attention.SoftmaxAttention, soft_cap=1.0 + layer)


@pytest.mark.parametrize("differs", [False, True], ids=["equal", "different"])
def test_scanned_requires_equal_blocks(differs: bool) -> None:
    """Blocks that are made anew for each layer are equal unless a value differs."""

    def make(block: Any, layer: int) -> Any:
        make_mixer = layer_scale(layer if differs else 0)
        make_attention = partial(
            attention.Attention, 8, 2, 2, 4, masks.causal(), make_mixer=make_mixer
        )
        return block(make_attention, lambda: mlp.MLP(8, 8), norms.RMSNorm)

    scanned = stack.ScannedStack(depth=3, make_block=make)
    run = partial(jax.eval_shape, scanned.init, jax.random.key(0), X)
    if not differs:
        run(masks.single_document(5))
        return
    with pytest.raises(ValueError, match="blocks that repeat, got 3 of which none"):
        run(masks.single_document(5))


# A layer of its own, two periods of two, and one more.
PERIODIC = "xababa"
WINDOWS = {"x": 5, "a": 2, "b": 3}


def periodic_block(kind_of_block: Any, layer: int) -> Any:
    """Blocks of three windows; the first has another MLP too."""
    kind = PERIODIC[layer]
    mask = masks.causal() & masks.window(WINDOWS[kind] - 1)
    make_mlp = partial(mlp.MLP, width=8, hidden_features=4 if kind == "x" else 6)
    make_attention = partial(attention.Attention, 8, 2, 1, 4, mask)
    return kind_of_block(make_attention, make_mlp, norms.RMSNorm)


def test_scanned_periods_keep_the_contract() -> None:
    """Among others: cached decoding is the whole row, eight devices are one."""
    make = partial(stack.ScannedStack, len(PERIODIC), periodic_block)
    contract.check_stack(make, width=8)


def test_scanned_periods_decode_as_they_read_whole_rows() -> None:
    """One token at a time, windows with caches of their own lengths."""
    tokens = masks.single_document(5)
    scanned = stack.ScannedStack(len(PERIODIC), periodic_block)
    y, p = apply_random(scanned, X, tokens)

    @jax.jit
    def decode(params: Any) -> Any:
        def step(cache: Any, at: Any) -> Any:
            index_BL = jnp.broadcast_to(at, (2, 1))
            one = masks.TokenPositions(index_BL, index_BL, jnp.ones_like(index_BL))
            x_BLD = jax.lax.dynamic_slice_in_dim(jnp.asarray(X), at, 1, axis=1)
            y_BLD, cache = scanned.apply(
                {"params": params}, x_BLD, cache, one, method="decode"
            )
            return cache, y_BLD[:, 0]

        cache = scanned.empty_cache(2, 5, 1, jnp.float32)
        return jax.lax.scan(step, cache, jnp.arange(5))[1].swapaxes(0, 1)

    np.testing.assert_allclose(decode(p), y, rtol=1e-5, atol=1e-5)
    cache = jax.eval_shape(lambda: scanned.empty_cache(2, 5, 1, jnp.float32))
    slots = [[one.k_BGMK.shape[3] for one in section] for section in cache]
    assert slots == [[5], [2, 3], [2]]
    caches = jax.eval_shape(stack.unstack_cache, cache)
    slots = [one.k_BGMK.shape[2] for one in caches]
    assert slots == [5, 2, 3, 2, 3, 2]


def test_scanned_periods_equal_unrolled_layers() -> None:
    """Values, gradients, and what layers sow, in the order of the layers."""
    tokens, depth = masks.single_document(5), len(PERIODIC)
    unrolled = stack.UnrolledStack(depth, periodic_block)
    scanned = stack.ScannedStack(depth, periodic_block)
    _, p = apply_random(unrolled, X, tokens)
    found = stack.sections(PERIODIC)
    assert found == [(0, 1, 1), (1, 2, 2), (5, 1, 1)]

    @partial(jax.jit, static_argnums=0)
    def run(module: Any, params: Any) -> Any:
        def loss(params: Any) -> Any:
            y, sown = module.apply({"params": params}, X, tokens, mutable=SOWN)
            return jnp.sum(jnp.sin(y)), (y, sown)

        return jax.value_and_grad(loss, has_aux=True)(params)

    join = jax.jit(partial(stack.stack_layer_params, cuts=found))
    again = jax.jit(stack.unstack_layer_params)(join(p))
    jax.tree.map(np.testing.assert_array_equal, again, p)
    (_, (y, sown)), grads = run(unrolled, p)
    (_, (y_scanned, sown_scanned)), grads_scanned = run(scanned, join(p))
    np.testing.assert_allclose(y, y_scanned, atol=1e-5)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5),
        join(grads),
        grads_scanned,
    )
    for name in ("stream_BLD", "weights_BHLM"):
        layers = axes.sown_arrays(sown, name)
        assert len(layers) == depth
        np.testing.assert_allclose(
            layers, axes.sown_arrays(sown_scanned, name), atol=1e-5
        )


@pytest.mark.parametrize(
    ("kinds", "found"),
    [
        ("aaaa", [(0, 1, 4)]),
        ("a", [(0, 1, 1)]),
        ("ababab", [(0, 2, 3)]),
        ("aaaaabaaaaabaaaaabaaaaabaa", [(0, 6, 4), (24, 2, 1)]),
        ("xaabaab", [(0, 1, 1), (1, 3, 2)]),
        ("xabb", [(0, 2, 1), (2, 1, 2)]),
        ("abc", [(0, 3, 1)]),
    ],
)
def test_sections_cover_the_layers_in_order(kinds: str, found: Any) -> None:
    assert stack.sections(kinds) == found
    order = [
        section.start + i
        for section in stack.sections(kinds)
        for _ in range(section.count)
        for i in range(section.period)
    ]
    again = "".join(kinds[layer] for layer in order)
    assert again == kinds and stack.repeats(kinds) == (kinds != "abc")


def test_caches_of_a_memory_join_those_of_any_stack() -> None:
    for own, memory in (("a", "b"), (["a"], ["b"]), ([["a"], ["b"]], [["c"], ["d"]])):
        joined = block.join_caches(own, memory)
        assert block.self_caches(joined) == own
    assert (joined[1][0].self_attention, joined[1][0].cross_attention) == ("b", "d")
