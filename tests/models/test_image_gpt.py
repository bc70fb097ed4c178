"""The pixel decoder: causal in raster order, conditioned on the class."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from cases import random_params

from transformer.models import image_gpt

SIDE, GRAYS, CLASSES = 4, 3, 2


def test_a_pixel_depends_on_the_class_and_on_earlier_pixels_only() -> None:
    net = image_gpt.image_gpt(side=SIDE, vocab_size=GRAYS + CLASSES, depth=1, width=32)
    run = partial(image_gpt.predict, net, random_params(net), pixel_tokens=GRAYS)
    rng = np.random.default_rng(0)
    ids_BL = jnp.asarray(rng.integers(0, GRAYS, (1, SIDE * SIDE)), jnp.int32)
    label_B, t_B = jnp.zeros(1, jnp.int32), jnp.zeros(1)
    base = jax.jit(run)(label_B, ids_BL, t_B)
    changed_BL = ids_BL.at[0, 6].set((ids_BL[0, 6] + 1) % GRAYS)
    changed = jax.jit(run)(label_B, changed_BL, t_B)
    difference_L = np.abs(np.asarray(changed - base))[0].max(-1)
    assert difference_L[:7].max() < 1e-5 < difference_L[7:].min()
    other = jax.jit(run)(label_B + 1, ids_BL, t_B)
    assert (np.abs(np.asarray(other - base))[0].max(-1) > 1e-5).all()
