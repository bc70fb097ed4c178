"""The diffusion transformer: shut at first and not for ever, and what it follows."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import drawn

from transformer.axes import leaf_name
from transformer.models import dit
from transformer.network import embeddings, masks, precision
from transformer.network.masks import row

CLASSES, PIXELS, LENGTH, WIDTH = 3, 5, 6, 32
KEY = jax.random.key(0)
LIKE = jax.ShapeDtypeStruct((1, LENGTH, PIXELS), jnp.float32)


def model(depth: int = 2) -> dit.Denoiser:
    return dit.transformer(
        make_embed=partial(embeddings.Patches, features=PIXELS),
        places=(2, 3),
        features=PIXELS,
        classes=CLASSES,
        depth=depth,
        width=WIDTH,
    )


NET = model()


def initial(net: dit.Denoiser, key: jax.Array) -> Any:
    return dit.initial(net, key, like=LIKE)


@pytest.fixture(scope="module")
def params() -> Any:
    """Drawn, so that no gate is shut."""
    return drawn(NET, initial=initial)


@jax.jit
def said(params: Any, x_BLP: jax.Array, t_B: jax.Array, label_B: jax.Array) -> Any:
    return NET.apply({"params": params}, x_BLP, t_B, label_B, row(LENGTH))


def given(seed: int = 0) -> tuple[jax.Array, jax.Array, jax.Array]:
    x_BLP = jax.random.normal(jax.random.key(seed), (2, LENGTH, PIXELS))
    return x_BLP, jnp.asarray([0.2, 0.7]), jnp.asarray([0, CLASSES])


def moved(first: Any, second: Any) -> list[bool]:
    """Which rows differ."""
    return (np.abs(np.asarray(first - second)).max((1, 2)) > 1e-4).tolist()


def test_a_row_follows_its_own_time_class_and_tokens(params: Any) -> None:
    x_BLP, t_B, label_B = given()
    base = said(params, x_BLP, t_B, label_B)
    assert moved(base, said(params, x_BLP, t_B.at[0].set(0.21), label_B)) == [1, 0]
    assert moved(base, said(params, x_BLP, t_B, label_B.at[1].set(1))) == [0, 1]
    changed = said(params, x_BLP.at[1, 5].add(1.0), t_B, label_B)
    assert moved(base, changed) == [0, 1]
    apart = np.abs(np.asarray(changed - base))[1].max(-1)
    assert (apart > 1e-4).all(), "every token sees every other"


def test_places_matter(params: Any) -> None:
    """Rotary positions are all that tells one token from another."""
    x_BLP, t_B, label_B = given()
    turned = said(params, x_BLP[:, ::-1], t_B, label_B)[:, ::-1]
    shifted = said(params, jnp.roll(x_BLP, 1, axis=1), t_B, label_B)
    base = said(params, x_BLP, t_B, label_B)
    assert moved(base, turned) == [1, 1]
    assert moved(base, jnp.roll(shifted, -1, axis=1)) == [1, 1]


def test_it_is_shut_at_first_and_opens() -> None:
    """Nothing is said and each block is the identity; yet two steps reach every
    weight: no two zeros stand behind each other for good."""
    params = jax.jit(partial(initial, NET))(KEY)
    x_BLP, t_B, label_B = given()
    assert not np.asarray(said(params, x_BLP, t_B, label_B)).any()

    @jax.jit
    def slopes(params: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            return jnp.square(said(params, x_BLP, t_B, label_B) - x_BLP).mean()

        return jax.grad(loss)(params)

    for _ in range(3):
        params = jax.tree.map(lambda p, g: p - 0.5 * g, params, slopes(params))
    for path, slope in jax.tree_util.tree_flatten_with_path(slopes(params))[0]:
        assert np.asarray(slope).any(), jax.tree_util.keystr(path)


def test_narrow_weights_say_nearly_the_same_in_float32(params: Any) -> None:
    wide = said(params, *given())
    narrow = said(precision.cast(params, "bfloat16"), *given())
    assert narrow.dtype == jnp.float32
    apart = float(jnp.abs(narrow - wide).max() / jnp.abs(wide).max())
    assert 0 < apart < 0.1


def test_operations_are_counted_a_token_and_not_the_condition() -> None:
    params = jax.eval_shape(partial(initial, NET), KEY)
    block = WIDTH * WIDTH * (4 + 2 * 4)
    weights = 2 * block + 2 * PIXELS * WIDTH
    scores = 12 * 2 * WIDTH * LENGTH * LENGTH
    counted = dit.training_flops(params, length=LENGTH, depth=2)
    assert counted == 6 * weights * LENGTH + scores
    names = [leaf_name(p) for p, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    assert names.count("w_JD") == 2 * 2 * 3 + 2


def test_heads_fill_the_width() -> None:
    with pytest.raises(ValueError, match="multiple of 32, got 48"):
        dit.transformer(
            make_embed=partial(embeddings.Patches, features=PIXELS),
            places=(2, 3),
            features=PIXELS,
            classes=CLASSES,
            depth=1,
            width=48,
        )
    assert masks.everything().count(LENGTH) == LENGTH * LENGTH
