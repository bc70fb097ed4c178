"""Embeddings equal their formulas."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from cases import close
from formulas import apply_random

from transformer.network import (
    biases,
    embeddings,
    masks,
    norms,
    positions,
)

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, size=(2, 5, 8)).astype(np.float32)


def test_class_token_precedes_the_embedded_patches() -> None:
    embed = partial(embeddings.PatchEmbedding, features=8, width=6)
    module = embeddings.ClassToken(width=6, make_embed=embed)
    got, p = apply_random(module, X, masks.single_document(6))
    inner = p["PatchEmbedding_0"]
    np.testing.assert_array_equal(got[:, 0], [p["class_D"]] * 2)
    close(X @ inner["w_in_PD"] + inner["b_in_D"], got[:, 1:])


def test_rows_of_ids_and_of_kinds_add() -> None:
    ids_BL, kind_BL = np.array([[4, 0, 2]]), np.array([[0, 1, 1]])
    module = embeddings.AdditiveEmbedding(vocab_size=5, kinds=2, width=6)
    tokens = masks.single_document(3)
    got, p = apply_random(module, embeddings.TypedTokens(ids_BL, kind_BL), tokens)
    close(p["embedding_VD"][ids_BL] + p["kind_AD"][kind_BL], got)
    alone, p = apply_random(module, ids_BL, tokens)
    close(p["embedding_VD"][ids_BL] + p["kind_AD"][0], alone)
    plain = embeddings.AdditiveEmbedding(vocab_size=5, kinds=0, width=6)
    got, p = apply_random(plain, ids_BL, tokens)
    assert p.keys() == {"embedding_VD"}
    close(p["embedding_VD"][ids_BL], got)


def test_the_mask_token_replaces_masked_patches() -> None:
    masked_BL = np.array([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0]], bool)
    embed = partial(embeddings.PatchEmbedding, features=8, width=6)
    module = embeddings.MaskToken(width=6, make_embed=embed)
    inputs: Any = embeddings.MaskedInputs(X, masked_BL)
    got, p = apply_random(module, inputs, masks.single_document(5))
    inner = p["PatchEmbedding_0"]
    patch_BLD = X @ inner["w_in_PD"] + inner["b_in_D"]
    close(np.where(masked_BL[..., None], p["mask_D"], patch_BLD), got)
    whole, _ = apply_random(module, X, masks.single_document(5))
    close(patch_BLD, whole)


def test_positions_after_a_class_token_include_it() -> None:
    content = partial(
        embeddings.ClassToken,
        width=6,
        make_embed=partial(
            embeddings.PatchEmbedding,
            features=8,
            width=6,
            make_bias=biases.no_bias,
        ),
    )
    module = embeddings.PositionedEmbedding(
        make_content=content,
        make_position=partial(positions.LearnedGrid, length=6),
        make_norm=norms.LayerNorm,
    )
    got, p = apply_random(module, X, masks.single_document(6))
    inner: Any = p["content"]["PatchEmbedding_0"]
    assert inner.keys() == {"w_in_PD"}
    class_BLD = np.tile(p["content"]["class_D"], (2, 1, 1))
    x_BLD = np.concatenate([class_BLD, X @ inner["w_in_PD"]], 1)
    x_BLD = x_BLD + p["position"]["position_LD"]
    normal = (x_BLD - x_BLD.mean(-1, keepdims=True)) / np.sqrt(
        x_BLD.var(-1, keepdims=True) + 1e-5
    )
    close(normal * p["norm"]["gain_D"] + p["norm"]["bias_D"], got)


def test_positions_may_begin_at_a_later_row() -> None:
    """As RoBERTa's, after the id of padding; the rows before it count."""
    module = positions.Learned(length=7, offset=2)
    position_BL = np.arange(5)[None]
    got, p = apply_random(module, X, position_BL)
    close(X + p["position_LD"][2:], got)
    with pytest.raises(ValueError, match="at most 5 tokens, got 6"):
        positions.check_length(module, 6)


def test_frames_pass_two_convolutions() -> None:
    """Equal to XLA's; half as many tokens as frames, or an error."""
    embed = embeddings.ConvEmbedding(features=5, width=6, activation=jax.nn.relu)
    raw_BLP = RNG.normal(size=(2, 8, 5)).astype(np.float32)
    tokens = masks.single_document(4)
    params = jax.jit(embed.init)(jax.random.key(1), raw_BLP, tokens)["params"]
    params = jax.tree.map(lambda leaf: np.asarray(leaf) + np.float32(0.1), params)

    def convolution(x_BLP: jax.Array, w_WPD: jax.Array, stride: int) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x_BLP, w_WPD, (stride,), [(1, 1)], dimension_numbers=("NWC", "WIO", "NWC")
        )

    @jax.jit
    def expected(raw_BLP: jax.Array, p: Any) -> jax.Array:
        x_BLD = convolution(raw_BLP, p["w_in_WPD"], 1) + p["b_in_D"][None, None]
        x_BLD = convolution(jax.nn.relu(x_BLD), p["w_out_WDO"], 2)
        return jax.nn.relu(x_BLD + p["b_out_O"][None, None])

    got = jax.jit(embed.apply)({"params": params}, raw_BLP, tokens)
    np.testing.assert_allclose(got, expected(raw_BLP, params), atol=1e-5)
    with pytest.raises(ValueError, match="expected 10 frames for 5 tokens, got 8"):
        embed.apply({"params": params}, raw_BLP, masks.single_document(5))
