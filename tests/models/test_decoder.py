"""The decoder: which tokens influence which, its initial parameters, and its slots."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import LENGTH, MODELS, VARIANTS, Case, name_of, random_params

from transformer.models import decoder, defaults
from transformer.network import masks, mlp


@pytest.mark.parametrize("case", VARIANTS, ids=name_of)
def test_influence_is_that_of_the_mask_through_the_layers(case: Case) -> None:
    """d features_i / d embedding_j is 0 exactly where the mask, applied once a layer,
    has no path from i to j (a boolean matrix power): so for j > i in causal models."""
    module = case.make()
    params = random_params(module)
    ids_BL = jnp.arange(LENGTH)[None]
    rng = np.random.default_rng(0)
    direction_D = jnp.asarray(rng.normal(size=32), jnp.float32)

    def features(embedding_VD: jax.Array) -> jax.Array:
        variables = {"params": {**params, "embedding_VD": embedding_VD}}
        x_BLD, _ = module.apply(variables, ids_BL, masks.single_document(LENGTH))
        return x_BLD[0] @ direction_D

    slope_LVD = jax.jit(jax.jacrev(features))(params["embedding_VD"])
    influence = np.abs(np.asarray(slope_LVD[:, :LENGTH])).sum(-1)
    one_layer = case.mask.array(LENGTH) | np.eye(LENGTH, dtype=bool)
    two_layers = one_layer.astype(int) @ one_layer.astype(int) > 0
    assert not np.triu(two_layers, 1)[4:].any()
    np.testing.assert_array_equal(influence > 0, two_layers)


@pytest.mark.parametrize("case", MODELS, ids=name_of)
def test_initial_values_follow_parameter_names(case: Case) -> None:
    params = jax.jit(partial(decoder.init_params, case.make()))(jax.random.key(0))
    shapes = jax.tree.map(jnp.shape, random_params(case.make()))
    assert jax.tree.map(jnp.shape, params) == shapes
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = path[-1].key
        assert leaf.dtype == jnp.float32
        if name.startswith("gain_"):
            assert (leaf == 1).all()
        if name.startswith(("bias_", "b_")):
            assert (leaf == 0).all()
        if name.startswith(("w_", "embedding_")):
            assert 0.015 < leaf.std() < 0.025, name


def test_untied_unembeddings_start_at_zero_and_tied_ones_are_no_parameter() -> None:
    params = jax.jit(partial(decoder.init_params, MODELS[1].make()))(jax.random.key(0))
    assert (params["unembedding_VD"] == 0).all()
    assert "unembedding_VD" not in random_params(MODELS[0].make())


def sizes(net: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter by its path."""
    shapes = jax.eval_shape(partial(decoder.init_params, net), jax.random.key(0))
    leaves = jax.tree_util.tree_flatten_with_path(shapes)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in leaves
    }


def test_default_language_model_is_64_wide_a_block() -> None:
    net = decoder.language_model(depth=3, vocab_size=50)
    shapes = sizes(net)
    assert net.width == 192 and shapes["unembedding_VD"] == (50, 192)
    assert shapes["stack/layers_2/attention/w_q_DHK"] == (192, 3, 64)
    assert shapes["stack/layers_2/mlp/w_in_DF"] == (192, 768)
    assert not any("layers_3" in path or "cross" in path for path in shapes)


def test_default_blocks_start_as_the_identity() -> None:
    """Features are the normalized embeddings, logits 0."""
    net = decoder.language_model(depth=1, vocab_size=9)
    ids_BL = np.arange(9)[None]

    @jax.jit
    def start(key: jax.Array) -> Any:
        params = decoder.init_params(net, key)
        readout: Any = net.apply({"params": params}, ids_BL, masks.single_document(9))
        return params["embedding_VD"], readout[0][0], decoder.logits(readout)

    embedding_VD, features_LD, logits = map(np.asarray, start(jax.random.key(0)))
    rms_V1 = np.sqrt(np.square(embedding_VD).mean(-1, keepdims=True))
    np.testing.assert_allclose(features_LD, embedding_VD / rms_V1, rtol=1e-4)
    assert not logits.any()


def test_slots_are_called_with_the_width_and_leave_the_rest() -> None:
    """A class that lacks only the width, or a finished `defaults` value."""
    default = sizes(decoder.language_model(depth=2, vocab_size=9, width=64))
    gated = partial(mlp.GatedMLP, hidden_features=24)
    local = defaults.attention(width=64, mask=masks.causal() & masks.window(4))
    net = decoder.language_model(
        depth=2, vocab_size=9, width=64, make_mlp=gated, make_attention=local
    )
    shapes = sizes(net)
    for layer in ("stack/layers_0", "stack/layers_1"):
        assert shapes.pop(f"{layer}/mlp/w_gate_DF") == (64, 24)
        assert shapes[f"{layer}/mlp/w_in_DF"] == (64, 24)
        assert shapes[f"{layer}/attention/w_q_DHK"] == (64, 2, 32)
    assert set(shapes) == set(default)


def test_widths_that_heads_do_not_fill_are_refused_when_the_model_is_built() -> None:
    with pytest.raises(ValueError, match="width: expected a multiple of 64, got 96"):
        decoder.language_model(depth=1, vocab_size=9, width=96)
