"""Pooling with parameters equals its formulas."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from cases import close
from formulas import apply_random, layer_norm

from transformer.models import pooling
from transformer.network import attention, biases, masks, mlp

RNG = np.random.default_rng(0)
X: Any = RNG.normal(size=(2, 5, 8)).astype(np.float32)
SEGMENT_BL = jnp.asarray([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
TOKENS = masks.packed(SEGMENT_BL, jnp.arange(5)[None])


def test_single_tokens_that_are_pooled() -> None:
    close(np.stack([X[0, 2], X[1, 4]]), pooling.last_token(X, TOKENS))
    close(X[:, 4], pooling.end_of_row(X, TOKENS))
    close(X[:, 4], pooling.last_token(X, masks.single_document(5)))


def test_dense_pooling_equals_its_formula() -> None:
    got, p = apply_random(pooling.DensePooling(features=6, width=8), X, TOKENS)
    close(np.tanh(X[:, 0] @ p["w_DO"] + p["b_O"]), got)
    module = pooling.DensePooling(
        features=6,
        width=8,
        pool=pooling.last_token,
        activation=pooling.linear_activation,
        make_bias=biases.no_bias,
    )
    got, p = apply_random(module, X, TOKENS)
    close(np.stack([X[0, 2], X[1, 4]]) @ p["w_DO"], got)


def test_attention_pooling_equals_its_formula() -> None:
    """And leaves out padding where the mask of its attention says so."""
    module = pooling.AttentionPooling(
        width=8,
        make_attention=partial(
            attention.Attention,
            width=8,
            heads=2,
            kv_heads=2,
            head_features=3,
            mask=masks.padding(),
        ),
        make_mlp=partial(mlp.MLP, width=8, hidden_features=4, activation=mlp.relu),
    )
    got, p = apply_random(module, X, TOKENS)
    a = p["attention"]
    q_HK = np.einsum("D,DHK->HK", p["query_D"], a["w_q_DHK"])
    expected = []
    for x_MD in (X[0, :3], X[1]):
        k_MHK, v_MHK = (np.einsum("MD,DHK->MHK", x_MD, a[f"w_{n}_DGK"]) for n in "kv")
        weight_HM = np.exp(np.einsum("HK,MHK->HM", q_HK, k_MHK) / np.sqrt(3))
        weight_HM /= weight_HM.sum(1, keepdims=True)
        y_D = np.einsum("HM,MHK,HKD->D", weight_HM, v_MHK, a["w_o_HKD"])
        h_D = layer_norm(y_D, p["norm"]["gain_D"], p["norm"]["bias_D"], 1e-5)
        h_F = np.maximum(h_D @ p["mlp"]["w_in_DF"], 0)
        expected.append(y_D + h_F @ p["mlp"]["w_out_FD"])
    close(np.stack(expected), got, 1e-4)
