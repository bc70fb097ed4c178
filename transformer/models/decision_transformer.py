"""The decision transformer: what to do next, from what is still to be gained, what was
seen and what was done (Chen et al. 2021, arXiv 2106.01345, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.models import decoder, defaults
from transformer.network import embeddings, masks, positions
from transformer.network.precision import product

Make = Callable[[], nn.Module]
# Return, observation, action: the tokens of one step.
KINDS = 3
MASK = masks.causal()


class DecisionTransformer(nn.Module):
    """Logits float32 (B, T, V) of the action of each of T steps, from the returns that
    are asked for before each (B, T), what is seen in each (B, T, P) and the actions of
    those before it, (B, T) int32 below V. An action does not see itself."""

    actions: int
    features: int
    width: int
    make_stack: Make

    def setup(self) -> None:
        patches = partial(embeddings.Patches, width=self.width)
        self.asked = patches(features=1)
        self.seen = patches(features=self.features)
        self.done = embeddings.Symbols(vocabulary=self.actions, width=self.width)
        self.embedding_norm = defaults.make_norm()
        self.stack = self.make_stack()
        self.final_norm = defaults.make_norm()
        shape = self.actions, self.width
        self.unembedding_VD = self.param("unembedding_VD", nn.initializers.zeros, shape)

    def __call__(
        self, asked_BT: jax.Array, seen_BTP: jax.Array, done_BT: jax.Array
    ) -> jax.Array:
        rows, steps = done_BT.shape
        places = masks.row(steps)
        kinds = (
            self.asked(asked_BT[..., None], places),
            self.seen(seen_BTP, places),
            self.done(done_BT, places),
        )
        # In the order in which they come about: step by step, each kind in turn.
        x_BLD = jnp.stack(kinds, axis=2).reshape(rows, KINDS * steps, self.width)
        x_BLD = self.stack(self.embedding_norm(x_BLD), masks.row(KINDS * steps))
        seen_BLD = self.final_norm(x_BLD)[:, 1::KINDS]
        return product("BLD,VD->BLV", seen_BLD, self.unembedding_VD)


def transformer(
    *, actions: int, features: int, depth: int, width: int
) -> DecisionTransformer:
    """Of the blocks of `recipe` with rotary positions. ValueError where heads do not
    fill the width."""
    make_attention = defaults.attention_of(
        width=width, mask=MASK, rotate=positions.rotary()
    )
    make_stack = defaults.layers(
        depth=depth, width=width, make_attention=make_attention
    )
    return DecisionTransformer(actions, features, width, make_stack)


def initial(net: DecisionTransformer, key: jax.Array) -> Any:
    """The parameters, a nested dictionary of float32 arrays."""
    one_BT = jnp.zeros((1, 1))
    seen_BTP = jnp.zeros((1, 1, net.features))
    return net.init(key, one_BT, seen_BTP, one_BT.astype(jnp.int32))["params"]


def training_flops(params: Any, *, steps: int, depth: int) -> float:
    """Floating-point operations of one episode's forward and backward pass, maps in and
    out as if of every token."""
    return decoder.training_flops(
        params,
        mask=MASK,
        length=KINDS * steps,
        heads=1,
        head_features=params["unembedding_VD"].shape[1],
        depth=depth,
    )
