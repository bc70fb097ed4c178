"""The diffusion transformer: predict what corruption took from a row, given its time
and class (DiT, Peebles and Xie 2022, arXiv 2212.09748).

Noisy patches to velocities, or masked tokens to logits: `make_embed` and the number of
output features are all that differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transformer.axes import replicate
from transformer.models import defaults
from transformer.network import (
    biases,
    block,
    embeddings,
    masks,
    mlp,
    norms,
    positions,
    precision,
)
from transformer.network.block import Make
from transformer.network.precision import linear


def add_time_embedding(embedding_BLJ: jax.Array, t_B: jax.Array) -> jax.Array:
    """Timestep embedding (sinusoidal, then an MLP) plus the class or text embedding
    (section 3.2), through a SiLU. Call it in a module, which owns the MLP."""
    features = embedding_BLJ.shape[-1]
    zero_BLJ = jnp.zeros_like(embedding_BLJ)
    wave_BLJ = positions.SinusoidalPositions()(zero_BLJ, 1000 * t_B[:, None])
    time_mlp = mlp.MLP(
        width=features,
        hidden_features=2 * features,
        activation=mlp.silu,
        weight_init=defaults.fan_in_init(),
        output_init=defaults.fan_in_init(),
    )
    return nn.silu(time_mlp(wave_BLJ) + embedding_BLJ)


class ClassTimeConditioning(nn.Module):
    """Time and class of a row as J features. Label `classes` is the null label of
    classifier-free guidance."""

    classes: int
    features: int

    @nn.compact
    def __call__(self, t_B: jax.Array, label_B: jax.Array) -> block.Conditioning:
        shape = self.classes + 1, self.features
        embedding_VJ = self.param("embedding_VJ", nn.initializers.normal(1.0), shape)
        class_BLJ = replicate(embedding_VJ)[label_B][:, None]
        return block.Conditioning(condition_BLJ=add_time_embedding(class_BLJ, t_B))


class TimestepConditioning(nn.Module):
    """The condition of the DiT paper's code: a timestep from 0 to 999 as cosines and
    sines of `waves` features, through an MLP with a SiLU, plus the class; through a
    SiLU. Label `classes` is the null label of classifier-free guidance."""

    classes: int
    features: int
    waves: int = 256
    theta: float = 10_000.0

    @nn.compact
    def __call__(self, t_B: jax.Array, label_B: jax.Array) -> block.Conditioning:
        half, init = self.waves // 2, nn.initializers.normal(0.02)
        # Exponents in float32, as theirs: their rounding moves the angle of a late
        # timestep by 1e-4. The last frequency is 1 / theta.
        exponent_P = np.float32(-math.log(self.theta)) * np.arange(half, dtype="f")
        exponent_P = (exponent_P / np.float32(half - 1)).astype(np.float64)
        frequency_P = jnp.asarray(np.exp(exponent_P), jnp.float32)
        angle_BLP = t_B.astype(jnp.float32)[:, None, None] * frequency_P[None, None]
        wave_BLP = jnp.concatenate([jnp.cos(angle_BLP), jnp.sin(angle_BLP)], axis=-1)
        square = self.features, self.features
        w_in_PJ = self.param("w_in_PJ", init, (self.waves, self.features))
        b_in_J = biases.zero_init_bias(self, "b_in_J", square[:1])
        w_out_JO = self.param("w_out_JO", init, square)
        b_out_O = biases.zero_init_bias(self, "b_out_O", square[:1])
        shape = self.classes + 1, self.features
        embedding_VJ = self.param("embedding_VJ", init, shape)
        h_BLJ = linear("BLP,PJ->BLJ", wave_BLP.astype(w_in_PJ.dtype), w_in_PJ) + b_in_J
        time_BLJ = linear("BLJ,JO->BLO", nn.silu(h_BLJ), w_out_JO) + b_out_O
        class_BLJ = replicate(embedding_VJ)[label_B][:, None]
        return block.Conditioning(condition_BLJ=nn.silu(time_BLJ + class_BLJ))


class DiT(nn.Module):
    """embed -> conditioned blocks -> adaptive norm -> linear map, zero at first:
    float32 (B, L, P) of `output_features` P, of rows at times t_B, from 0 to 1 where
    the condition is a `ClassTimeConditioning`.

    make_condition: a module called as (t_B, label), where `label` is what rows are
    conditioned on, such as classes; it returns the blocks' `Conditioning`.
    """

    output_features: int
    width: int
    make_condition: Make
    make_embed: Make
    make_stack: Make

    def setup(self) -> None:
        self.condition = self.make_condition()
        self.embed = self.make_embed()
        self.stack = self.make_stack()
        self.final_norm = norms.AdaptiveNorm(self.width, self.width)
        shape = self.width, self.output_features
        self.w_out_DP = self.param("w_out_DP", nn.initializers.zeros, shape)
        self.b_out_P = biases.zero_init_bias(self, "b_out_P", (self.output_features,))

    def __call__(
        self, x: jax.Array, t_B: jax.Array, label: Any, tokens: masks.TokenPositions
    ) -> jax.Array:
        conditioning = self.condition(t_B, label)
        x_BLD = self.stack(self.embed(x, tokens), tokens, conditioning)
        x_BLD = self.final_norm(x_BLD, conditioning.condition_BLJ)
        out_BLP = linear("BLD,DP->BLP", x_BLD, self.w_out_DP) + self.b_out_P
        return out_BLP.astype(jnp.float32)


def attention(
    *,
    width: int,
    mask: masks.Mask,
    rotate: positions.Rotate = positions.identity,
) -> Make:
    """`defaults.attention` with an output map that does not start at zero, because the
    gates of adaLN-Zero do."""
    output_init = defaults.fan_in_init(in_axis=(0, 1), out_axis=2)
    return defaults.attention(
        width=width, mask=mask, rotate=rotate, output_init=output_init
    )


def stack(
    *,
    depth: int,
    width: int,
    make_attention: defaults.MakeOfWidth,
    make_mlp: defaults.MakeOfWidth | None = None,
    make_cross_attention: defaults.MakeOfWidth | None = None,
) -> Make:
    """`defaults.stack` of adaLN-Zero blocks under a condition of `width` features.
    make_mlp: if None, `defaults.mlp` whose output map does not start at zero."""
    nonzero = defaults.mlp(width=width, output_init=defaults.fan_in_init())
    return defaults.stack(
        depth=depth,
        width=width,
        make_attention=make_attention,
        make_mlp=make_mlp or nonzero,
        make_cross_attention=make_cross_attention,
        make_norm=partial(norms.AdaLNZero, width, width),
        residual=block.adaln_zero,
    )


def dit(
    *,
    make_embed: Callable[..., nn.Module],
    grid: tuple[int, ...],
    output_features: int,
    classes: int,
    depth: int,
    width: int,
    make_attention: defaults.MakeOfWidth | None = None,
    make_mlp: defaults.MakeOfWidth | None = None,
) -> DiT:
    """A DiT of tokens on a `grid`, with rotary positions of as many dimensions.

    make_embed(width=...) embeds a row. make_attention(width=...), make_mlp(width=...):
    slots of the blocks, `attention` and the MLP of `stack` if None. ValueError where
    the default heads do not fill the width.
    """
    make_attention = make_attention or attention(
        width=width, mask=masks.full(), rotate=positions.axial(grid)
    )
    return DiT(
        output_features=output_features,
        width=width,
        make_condition=partial(ClassTimeConditioning, classes, width),
        make_embed=partial(make_embed, width=width),
        make_stack=stack(
            depth=depth, width=width, make_attention=make_attention, make_mlp=make_mlp
        ),
    )


def patch_dit(
    *,
    patch_features: int,
    grid: tuple[int, ...],
    classes: int,
    depth: int,
    width: int,
    **slots: Any,
) -> DiT:
    """A `dit` of raw patches (B, L, P), P `patch_features`, such as velocities; slots
    as there."""
    make_embed = partial(embeddings.PatchEmbedding, features=patch_features)
    sizes: Any = {"output_features": patch_features, "grid": grid, "classes": classes}
    return dit(make_embed=make_embed, depth=depth, width=width, **sizes, **slots)


def token_dit(
    *,
    vocab_size: int,
    grid: tuple[int, ...],
    classes: int,
    depth: int,
    width: int,
    **slots: Any,
) -> DiT:
    """A `dit` of token ids (B, L) to logits (B, L, V); slots as there."""
    make_embed = partial(embeddings.TokenEmbedding, vocab_size=vocab_size)
    sizes: Any = {"output_features": vocab_size, "grid": grid, "classes": classes}
    return dit(make_embed=make_embed, depth=depth, width=width, **sizes, **slots)


def init_params(net: DiT, key: jax.Array, *, like: Any) -> Any:
    """The parameters for rows of the shape and dtype of `like`."""
    x = jnp.zeros(like.shape, like.dtype)
    t_B = jnp.zeros(like.shape[0])
    label_B, tokens = t_B.astype(jnp.int32), masks.single_document(like.shape[1])
    return net.init(key, x, t_B, label_B, tokens)["params"]


def predict(
    net: DiT,
    params: Any,
    label: Any,
    x: jax.Array,
    t_B: jax.Array,
    *,
    compute_dtype: Any = jnp.float32,
) -> Any:
    """The prediction (B, L, P) for rows `x` at times t_B under the condition `label`,
    in the argument order of `generation.process_sampler`."""
    weights = precision.cast_weights(params, compute_dtype)
    tokens = masks.single_document(x.shape[1])
    return net.apply({"params": weights}, x, t_B, label, tokens)
