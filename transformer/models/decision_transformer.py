"""The decision transformer: the next action from the return-to-go, the observations and
the actions so far (Chen et al. 2021, arXiv 2106.01345, section 3).

Actions are discrete here; `continuous_control.py` has those of many numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.models import defaults
from transformer.network import embeddings, masks, positions, precision
from transformer.network.block import Make
from transformer.network.precision import einsum_f32

# Return-to-go, observation, action.
TOKENS_PER_STEP = 3
# Two models of the same episodes; the second does not see returns.
MODELS = ("conditioned", "cloning")


def interleave(step_tokens: Sequence[jax.Array]) -> jax.Array:
    """Returns-to-go, observations and actions, (B, T, D) each, as one row in causal
    order, step by step: (B, 3 T, D)."""
    x_BTCD = jnp.stack(step_tokens, axis=2)
    return x_BTCD.reshape(x_BTCD.shape[0], -1, x_BTCD.shape[-1])


class DecisionTransformer(nn.Module):
    """Logits float32 (B, T, V) of the action of each of T steps, from the returns-to-go
    (B, T), the observations (B, T, P) and the actions before it, (B, T) int32 below V.
    The logits of an action do not depend on it."""

    actions: int
    observation_features: int
    width: int
    make_stack: Make

    def setup(self) -> None:
        embed = partial(embeddings.PatchEmbedding, width=self.width)
        self.return_embedding = embed(features=1)
        self.observation_embedding = embed(features=self.observation_features)
        self.action_embedding = embeddings.TokenEmbedding(
            vocab_size=self.actions, width=self.width
        )
        self.embedding_norm = defaults.make_norm()
        self.stack = self.make_stack()
        self.final_norm = defaults.make_norm()
        shape = self.actions, self.width
        self.unembedding_VD = self.param("unembedding_VD", nn.initializers.zeros, shape)

    def __call__(
        self,
        return_to_go_BT: jax.Array,
        observation_BTP: jax.Array,
        action_BT: jax.Array,
    ) -> jax.Array:
        steps = action_BT.shape[1]
        length, time = TOKENS_PER_STEP * steps, masks.single_document(steps)
        step_tokens = (
            self.return_embedding(return_to_go_BT[..., None], time),
            self.observation_embedding(observation_BTP, time),
            self.action_embedding(action_BT, time),
        )
        x_BLD = self.embedding_norm(interleave(step_tokens))
        x_BLD = self.stack(x_BLD, masks.single_document(length))
        # The observation's token predicts the action.
        x_BLD = self.final_norm(x_BLD)[:, 1::TOKENS_PER_STEP]
        return einsum_f32("BLD,VD->BLV", x_BLD, self.unembedding_VD)


def decision_transformer(
    *,
    actions: int,
    observation_features: int,
    depth: int,
    width: int,
    make_attention: defaults.MakeOfWidth | None = None,
    make_mlp: defaults.MakeOfWidth | None = None,
) -> DecisionTransformer:
    """A causal decision transformer with rotary positions.

    make_attention(width=...), make_mlp(width=...): slots of the blocks, the defaults if
    None. ValueError where the default heads do not fill the width.
    """
    make_attention = make_attention or defaults.attention(
        width=width, mask=masks.causal(), rotate=positions.rotary()
    )
    make_stack = defaults.stack(
        depth=depth, width=width, make_attention=make_attention, make_mlp=make_mlp
    )
    return DecisionTransformer(actions, observation_features, width, make_stack)


def init_params(net: DecisionTransformer, key: jax.Array) -> Any:
    """The parameters, a nested dictionary of float32 arrays."""
    zero_BT = jnp.zeros((1, 1))
    observation_BTP = jnp.zeros((1, 1, net.observation_features))
    inputs = zero_BT, observation_BTP, zero_BT.astype(jnp.int32)
    return net.init(key, *inputs)["params"]


def logits(
    net: DecisionTransformer,
    compute_dtype: Any,
    return_scale: float,
    name: str,
    params: Any,
    return_to_go_BT: jax.Array,
    *inputs: jax.Array,
) -> jax.Array:
    """Action logits (B, T, V) of the model `name` of `MODELS`, from the parameters of
    both by name; the others as of the net, with returns divided by `return_scale`."""
    returns_BT = return_to_go_BT / return_scale
    if name == "cloning":
        returns_BT = jnp.zeros_like(returns_BT)
    weights = precision.cast_weights(params[name], compute_dtype)
    action_logits: Any = net.apply({"params": weights}, returns_BT, *inputs)
    return action_logits
