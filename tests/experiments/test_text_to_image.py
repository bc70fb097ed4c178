"""Drawings that follow a name."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from test_match import TINY, trained

from experiments import text_to_image

RNG = np.random.default_rng(0)


def test_drawings_follow_the_name_and_no_name_is_a_name() -> None:
    made = text_to_image.experiment(
        **TINY, names_depth=1, batch_size=16, steps=20, dtype="float32"
    )
    params = trained(made, 20, 0.8)
    model = made.report.args[0]
    texts = ["red apple", "red apple", "blue heart"]
    draw = partial(model.images, params, texts, steps=2)
    first, again = draw(jax.random.key(0)), draw(jax.random.key(0))
    assert first.shape == (3, 32, 32, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    x_BLP = jnp.broadcast_to(
        jax.random.normal(jax.random.key(2), (1, 16, 192)), (3, 16, 192)
    )
    rows = model.of.encoder_rows(["red apple", "blue heart", ""])
    text = rows["ids_BL"], rows["segment_BL"]
    opened = jax.tree.map(lambda a: a + 0.05 * RNG.normal(size=a.shape), params)

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def slopes(params: Any) -> Any:
        said = model.predict(params, text, x_BLP, jnp.full(3, 0.5))
        return said.sum(), said

    slope, said = jax.device_get(slopes(opened))
    for leaf in jax.tree.leaves(slope["stack"]["layers_0"]["cross_attention"]):
        assert leaf.any(), "each block reads the text"
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(said[one] - said[other]).max() > 1e-3
    batch = {name: jnp.asarray(a) for name, a in rows.items()}
    forgotten = model.forgotten(batch, jax.random.key(0), 1.0)
    for array, kept in zip(forgotten, rows.values(), strict=True):
        np.testing.assert_array_equal(array, kept[[2, 2, 2]])
