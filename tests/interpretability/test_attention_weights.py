"""Attention weights of all layers from what a model sows."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from cases import random_params
from kinds import init_vit, sentences, seq2seq, vit

from transformer.interpretability import attention_weights
from transformer.network import masks, stack


@pytest.mark.parametrize("module", ["attention", "cross_attention"])
def test_layers_are_in_numeric_order(module: str) -> None:
    matrices = np.random.default_rng(0).random((11, 3, 2, 5, 5)).astype(np.float32)
    layers = {
        f"layers_{n}": {module: {"weights_BHLM": (a,)}} for n, a in enumerate(matrices)
    }
    stream = {"stream_BLD": (np.zeros((3, 5, 8)),)}
    found = {
        "attention": attention_weights.self_attention_weights,
        "cross_attention": attention_weights.cross_attention_weights,
    }[module]({"encoder": {"stack": {**layers, **stream}}})
    np.testing.assert_array_equal(found, matrices)


def test_scanned_layers_equal_unrolled_layers() -> None:
    raw = np.random.default_rng(1).normal(size=(2, 8, 6)).astype(np.float32)
    module = vit()
    params = random_params(module, init_params=init_vit)
    body = jax.jit(stack.stack_layer_params)(params["encoder"]["stack"])
    scanned = {**params, "encoder": {**params["encoder"], "stack": body}}
    found = []
    for net, weights in ((module, params), (vit(stack=stack.ScannedStack), scanned)):
        apply = jax.jit(partial(net.apply, mutable="intermediates"))
        _, kept = apply({"params": weights}, raw, masks.single_document(9))
        kept = jax.device_get(kept["intermediates"])
        layers = attention_weights.self_attention_weights(kept)
        found.append(np.asarray(layers))
    assert [len(layers) for layers in found] == [2, 2]
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    first, second = found[0]
    assert np.abs(first - second).max() > 1e-3


def intermediates() -> Any:
    """Zeros in the shapes of what an encoder-decoder sows."""
    batch, net = sentences(0), seq2seq()
    source, target = masks.single_document(12), masks.single_document(9)
    inputs = batch["source_BL"], source, batch["ids_BL"], target

    def apply() -> Any:
        variables = net.init(jax.random.key(0), *inputs)
        params = {"params": variables["params"]}
        return net.apply(params, *inputs, mutable="intermediates")[1]["intermediates"]

    return jax.tree.map(lambda leaf: np.zeros(leaf.shape), jax.eval_shape(apply))


def test_self_attention_excludes_cross_attention_and_refuses_two_stacks() -> None:
    kept = intermediates()
    own = attention_weights.self_attention_weights(kept["decoder"])
    assert [a.shape[-2:] for a in own] == [(9, 9), (9, 9)]
    cross = attention_weights.cross_attention_weights(kept["decoder"])
    assert [a.shape[-2:] for a in cross] == [(9, 12), (9, 12)]
    with pytest.raises(ValueError, match="layers of one shape"):
        attention_weights.self_attention_weights(kept)


def test_attention_that_sows_no_weights_is_refused() -> None:
    message = "expected cross_attention modules that sow weights_BHLM, got none"
    with pytest.raises(ValueError, match=message):
        attention_weights.cross_attention_weights(intermediates()["encoder"])
