"""Names written from patches."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from test_match import TINY, trained

from experiments import caption
from transformer.generation import captions

RNG = np.random.default_rng(0)


def test_captions_are_what_the_whole_model_finds_likeliest() -> None:
    made = caption.experiment(
        **TINY, written_depth=1, batch_size=16, steps=20, dtype="float32"
    )
    params = trained(made, 20, 0.8)
    model = made.show.args[0]
    held = {name: a[:3] for name, a in model.of.data.validation.items()}
    raw_BLP = model.of.raw(held["image"])
    namer = model.namer._replace(length=6)
    opened = [0.1 * RNG.normal(size=a.shape) for a in jax.tree.leaves(params)]
    opened = jax.tree.unflatten(jax.tree.structure(params), opened)
    params = jax.tree.map(jnp.add, params, opened)
    said = captions.named(namer, params, raw_BLP, batch_size=4)
    assert len(said) == 3
    ids_BL = np.asarray(
        jax.jit(partial(captions.written, namer))(params, raw_BLP).ids_BL
    )
    assert (ids_BL[:, 0] == model.of.symbols.end).all() and len(np.unique(ids_BL)) > 3
    batch = {"raw_BLP": raw_BLP, "tokens_BL": ids_BL[:, :-1]}
    batch["segment_BL"] = np.ones_like(batch["tokens_BL"])
    x_BLD, w_VD = jax.jit(model.apply)(params, batch)
    best_BL = np.asarray(x_BLD @ w_VD.T).argmax(-1)
    for row, best in zip(ids_BL, best_BL, strict=True):
        ends = np.flatnonzero(row[1:] == model.of.symbols.end)
        size = ends[0] + 1 if len(ends) else len(best)
        np.testing.assert_array_equal(row[1 : 1 + size], best[:size])
    words, shares = model.attention(params, held["image"][:1], ["red apple"])[0]
    assert words == ["red", "apple"] and shares.shape == (2, 4, 4)
    np.testing.assert_allclose(shares.sum((1, 2)), 1, rtol=1e-4)


def test_what_is_hidden_is_never_where_writing_starts() -> None:
    made = caption.experiment(**TINY, written_depth=1, dtype="float32")
    model, ids_BL = made.show.args[0], jnp.arange(2000).reshape(200, 10) % 250
    own = model.of.symbols.vocabulary
    seen_BL = np.asarray(model.hidden(ids_BL, jax.random.key(0), 0.3))
    hidden_BL = seen_BL == own
    np.testing.assert_array_equal(seen_BL[~hidden_BL], ids_BL[~hidden_BL])
    assert not hidden_BL[:, 0].any() and 0.25 < hidden_BL[:, 1:].mean() < 0.35
    assert not (model.hidden(ids_BL, jax.random.key(0), 0.0) == own).any()
