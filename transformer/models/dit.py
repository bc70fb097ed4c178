"""The diffusion transformer: what a row was before it was hidden, at a time and of a
class (DiT, Peebles and Xie 2022, arXiv 2212.09748).

Noisy patches in and velocities out, or hidden symbols in and logits out: the slot
`make_embed` and the number of features read out are all that differs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.axes import whole
from transformer.models import decoder, defaults
from transformer.network import biases, block, masks, mlp, norms, positions, stack
from transformer.network.precision import contract

Make = Callable[[], nn.Module]
# Maps of the condition, which each row goes through once and not each token.
CONDITIONAL = ("condition", "w_JD")


def timed(told_BLJ: jax.Array, t_B: jax.Array) -> jax.Array:
    """What is told of a row, and when: sines and cosines of the time through an MLP,
    plus that (section 3.2). Called in a module, whose parameters the MLP's are."""
    features = told_BLJ.shape[-1]
    wave_BLJ = positions.Sinusoidal()(jnp.zeros_like(told_BLJ), 1000 * t_B[:, None])
    time = mlp.MLP(
        width=features,
        hidden=2 * features,
        activation=mlp.silu,
        weight_init=defaults.SCALED(),
        output_init=defaults.SCALED(),
    )
    return nn.silu(time(wave_BLJ) + told_BLJ)


class Condition(nn.Module):
    """Time and class as J features, one vector for the whole row: the class is a row of
    a table, where the number `classes` itself stands for none in particular."""

    classes: int
    features: int

    @nn.compact
    def __call__(self, t_B: jax.Array, label_B: jax.Array) -> block.Given:
        shape = self.classes + 1, self.features
        embedding_VJ = self.param("embedding_VJ", nn.initializers.normal(1.0), shape)
        class_BLJ = whole(embedding_VJ)[label_B][:, None]
        return block.Given(condition_BLJ=timed(class_BLJ, t_B))


class Denoiser(nn.Module):
    """embed -> blocks under the condition -> adaptive norm -> readout, zero at first:
    float32 (B, L, P) of `features` P, of rows at times t_B from 0 to 1.

    The slot `make_condition` is called with the times and what the rows are told, such
    as their classes; it gives what the blocks look at, a condition and maybe a memory.
    """

    features: int
    width: int
    make_condition: Make
    make_embed: Make
    make_stack: Make

    def setup(self) -> None:
        self.condition = self.make_condition()
        self.embed = self.make_embed()
        self.stack = self.make_stack()
        self.final_norm = norms.AdaptiveNorm(self.width, self.width)
        shape = self.width, self.features
        self.w_out_DP = self.param("w_out_DP", nn.initializers.zeros, shape)
        self.b_out_P = biases.learned(self, "b_out_P", (self.features,))

    def __call__(
        self, x: jax.Array, t_B: jax.Array, told: Any, tokens: masks.Tokens
    ) -> jax.Array:
        given = self.condition(t_B, told)
        x_BLD = self.stack(self.embed(x, tokens), tokens, given)
        x_BLD = self.final_norm(x_BLD, given.condition_BLJ)
        said_BLP = contract("BLD,DP->BLP", x_BLD, self.w_out_DP) + self.b_out_P
        return said_BLP.astype(jnp.float32)


def open_maps(width: int) -> tuple[Callable[..., Any], Make]:
    """(attention, MLP) as `recipe` makes them, but with maps into the stream that do
    not start at zero: each is shut at first by its gate instead (adaLN-Zero)."""
    output_init = defaults.SCALED(in_axis=(0, 1), out_axis=2)
    return (
        partial(defaults.attention_of, width=width, output_init=output_init),
        defaults.mlp_of(width=width, output_init=defaults.SCALED()),
    )


def transformer(
    *,
    make_embed: Callable[..., nn.Module],
    places: tuple[int, ...],
    features: int,
    classes: int,
    depth: int,
    width: int,
) -> Denoiser:
    """Of tokens on a grid of `places`: rotary positions of as many dimensions, in the
    blocks of `recipe`; each is shut at first by its gate (adaLN-Zero).

    make_embed(width=...) embeds a row. ValueError where heads do not fill the width.
    """
    attend, make_mlp = open_maps(width)
    make_attention = attend(mask=masks.everything(), rotate=positions.axial(places))
    make_stack = partial(
        stack.Unrolled,
        depth=depth,
        make_block=lambda block_, layer: block_(
            make_attention=make_attention,
            make_mlp=make_mlp,
            make_norm=partial(norms.GatedAdaptiveNorm, width, width),
            residual=block.adaptive,
        ),
    )
    return Denoiser(
        features=features,
        width=width,
        make_condition=partial(Condition, classes, width),
        make_embed=partial(make_embed, width=width),
        make_stack=make_stack,
    )


def initial(net: Denoiser, key: jax.Array, *, like: Any) -> Any:
    """The parameters for rows of the shape and dtype of `like`."""
    x = jnp.zeros(like.shape, like.dtype)
    none_B = jnp.zeros(like.shape[0])
    tokens = masks.row(like.shape[1])
    return net.init(key, x, none_B, none_B.astype(jnp.int32), tokens)["params"]


def training_flops(params: Any, *, length: int, depth: int) -> float:
    """Floating-point operations of one row's forward and backward pass, as
    `decoder.training_flops` counts them, without the condition's, which are few."""
    width = params["w_out_DP"].shape[0]

    def without(tree: Any) -> Any:
        kept = {name: of for name, of in tree.items() if name not in CONDITIONAL}
        return {
            n: without(of) if isinstance(of, dict) else of for n, of in kept.items()
        }

    return decoder.training_flops(
        without(params),
        mask=masks.everything(),
        length=length,
        heads=width // defaults.HEAD_FEATURES,
        head_features=defaults.HEAD_FEATURES,
        depth=depth,
    )
