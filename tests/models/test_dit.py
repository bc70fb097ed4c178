"""The diffusion transformer: what an output depends on, and adaLN-Zero at first."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import random_params

from transformer.models import dit
from transformer.network import embeddings, precision
from transformer.network.masks import single_document

CLASSES, PIXELS, LENGTH, WIDTH = 3, 5, 6, 32
KEY = jax.random.key(0)
LIKE = jax.ShapeDtypeStruct((1, LENGTH, PIXELS), jnp.float32)


def model(depth: int = 2, width: int = WIDTH) -> dit.DiT:
    return dit.dit(
        make_embed=partial(embeddings.PatchEmbedding, features=PIXELS),
        grid=(2, 3),
        output_features=PIXELS,
        classes=CLASSES,
        depth=depth,
        width=width,
    )


NET = model()
init_params = partial(dit.init_params, like=LIKE)


@pytest.fixture(scope="module")
def params() -> Any:
    """Random, so that no gate is zero."""
    return random_params(NET, init_params=init_params)


@jax.jit
def predict(params: Any, x_BLP: jax.Array, t_B: jax.Array, label_B: jax.Array) -> Any:
    return NET.apply({"params": params}, x_BLP, t_B, label_B, single_document(LENGTH))


def inputs(seed: int = 0) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(x_BLP, t_B, label_B) of two rows, the second with the null label."""
    x_BLP = jax.random.normal(jax.random.key(seed), (2, LENGTH, PIXELS))
    return x_BLP, jnp.asarray([0.2, 0.7]), jnp.asarray([0, CLASSES])


def differs(first: Any, second: Any) -> list[bool]:
    """Which rows differ."""
    return (np.abs(np.asarray(first - second)).max((1, 2)) > 1e-4).tolist()


def test_a_row_depends_on_its_own_time_class_and_tokens(params: Any) -> None:
    x_BLP, t_B, label_B = inputs()
    base = predict(params, x_BLP, t_B, label_B)
    assert differs(base, predict(params, x_BLP, t_B.at[0].set(0.21), label_B)) == [1, 0]
    assert differs(base, predict(params, x_BLP, t_B, label_B.at[1].set(1))) == [0, 1]
    changed = predict(params, x_BLP.at[1, 5].add(1.0), t_B, label_B)
    assert differs(base, changed) == [0, 1]
    difference = np.abs(np.asarray(changed - base))[1].max(-1)
    assert (difference > 1e-4).all(), "every token attends to every other"


def test_outputs_depend_on_positions(params: Any) -> None:
    """Through rotary positions alone: neither reversal nor a shift commutes."""
    x_BLP, t_B, label_B = inputs()
    reversed_ = predict(params, x_BLP[:, ::-1], t_B, label_B)[:, ::-1]
    shifted = predict(params, jnp.roll(x_BLP, 1, axis=1), t_B, label_B)
    base = predict(params, x_BLP, t_B, label_B)
    assert differs(base, reversed_) == [1, 1]
    assert differs(base, jnp.roll(shifted, -1, axis=1)) == [1, 1]


def test_outputs_start_at_zero_and_gradients_reach_every_weight() -> None:
    """At first the output is 0 and each block the identity; after three steps no
    gradient is zero: no two zero-initialized maps follow each other."""
    params = jax.jit(partial(init_params, NET))(KEY)
    x_BLP, t_B, label_B = inputs()
    assert not np.asarray(predict(params, x_BLP, t_B, label_B)).any()

    @jax.jit
    def descend(params: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            return jnp.square(predict(params, x_BLP, t_B, label_B) - x_BLP).mean()

        slopes = jax.grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.5 * g, params, slopes), slopes

    for _ in range(4):
        params, slopes = descend(params)
    for path, slope in jax.tree_util.tree_flatten_with_path(slopes)[0]:
        assert np.asarray(slope).any(), jax.tree_util.keystr(path)


def test_bfloat16_weights_give_nearly_the_same_float32_output(params: Any) -> None:
    expected = predict(params, *inputs())
    got = predict(precision.cast_weights(params, "bfloat16"), *inputs())
    assert got.dtype == jnp.float32
    error = float(jnp.abs(got - expected).max() / jnp.abs(expected).max())
    assert 0 < error < 0.1


def test_widths_that_heads_do_not_fill_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32, got 48"):
        model(depth=1, width=48)
