"""The decision transformer of continuous control: observations, actions and returns are
vectors of numbers, and each is predicted (Chen et al. 2021, arXiv 2106.01345, and the
authors' code for gym)."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.models import decision_transformer, pooling
from transformer.network import biases, embeddings, masks, positions
from transformer.network.block import Make
from transformer.network.masks import TokenPositions
from transformer.network.mlp import Activation
from transformer.network.norms import LayerNorm
from transformer.network.precision import linear

TOKENS_PER_STEP = decision_transformer.TOKENS_PER_STEP


class Predictions(NamedTuple):
    """float32, for each of T steps: the next observation (B, T, P), the action of the
    step (B, T, P of actions) and the next return-to-go (B, T, 1)."""

    observation_BTP: jax.Array
    action_BTP: jax.Array
    return_BTP: jax.Array


class LinearHead(nn.Module):
    """A linear map to P features and an activation, float32."""

    features: int
    activation: Activation = pooling.linear_activation

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        init = nn.initializers.normal(0.02)
        shape = x_BLD.shape[-1], self.features
        w_out_DP = self.param("w_out_DP", init, shape)
        b_out_P = biases.zero_init_bias(self, "b_out_P", (self.features,))
        out_BLP = linear("BLD,DP->BLP", x_BLD, w_out_DP) + b_out_P
        return self.activation(out_BLP.astype(jnp.float32))


class TimeEmbedding(nn.Module):
    """One learned vector for each step of an episode; NaN for steps from `length` on
    and before 0, of which it has none."""

    length: int
    width: int

    @nn.compact
    def __call__(self, position_BT: jax.Array) -> jax.Array:
        init = nn.initializers.normal(0.02)
        time_TD = self.param("time_TD", init, (self.length, self.width))
        # A negative index would count from the end.
        beyond_BT = jnp.where(position_BT < 0, self.length, position_BT)
        return time_TD.at[beyond_BT].get(mode="fill", fill_value=jnp.nan)


class ContinuousDecisionTransformer(nn.Module):
    """`Predictions` from returns-to-go (B, T), observations (B, T, P), actions (B, T,
    P) and the steps: their `position_BL` is the number of the step in its episode, and
    padding is segment 0. The action of a step is predicted from what precedes it.

    length: steps of the longest episode. make_position: of the tokens of a row, three a
    step, which all have position 0, because time is embedded; vectors that are added
    all the same (the GPT-2 of transformers). unused_vocab: rows of a table of tokens
    that files have and no input reads, 0 for none.
    """

    action_features: int
    observation_features: int
    length: int
    width: int
    make_stack: Make
    make_norm: Make = LayerNorm
    make_position: Make = positions.NoPositions
    action_activation: Activation = jnp.tanh
    unused_vocab: int = 0

    def setup(self) -> None:
        def embed(features: int) -> nn.Module:
            return embeddings.PatchEmbedding(features, self.width)

        self.return_embedding = embed(1)
        self.observation_embedding = embed(self.observation_features)
        self.action_embedding = embed(self.action_features)
        self.time_embedding = TimeEmbedding(self.length, self.width)
        self.embedding_norm = LayerNorm()
        self.position = self.make_position()
        self.stack = self.make_stack()
        self.final_norm = self.make_norm()
        self.observation_head = LinearHead(self.observation_features)
        self.action_head = LinearHead(self.action_features, self.action_activation)
        self.return_head = LinearHead(1)
        if self.unused_vocab:
            shape = self.unused_vocab, self.width
            self.param("embedding_VD", nn.initializers.normal(0.02), shape)

    def __call__(
        self,
        return_to_go_BT: jax.Array,
        observation_BTP: jax.Array,
        action_BTP: jax.Array,
        steps: TokenPositions,
    ) -> Predictions:
        inputs = return_to_go_BT, observation_BTP, action_BTP
        x_BLD = self.features(*inputs, steps)
        x_BTCD = x_BLD.reshape(x_BLD.shape[0], -1, TOKENS_PER_STEP, self.width)
        # After the observation the action, after the action what comes of it.
        at_observation_BTD, at_action_BTD = x_BTCD[:, :, 1], x_BTCD[:, :, 2]
        return Predictions(
            observation_BTP=self.observation_head(at_action_BTD),
            action_BTP=self.action_head(at_observation_BTD),
            return_BTP=self.return_head(at_action_BTD),
        )

    def features(
        self,
        return_to_go_BT: jax.Array,
        observation_BTP: jax.Array,
        action_BTP: jax.Array,
        steps: TokenPositions,
    ) -> jax.Array:
        """The features (B, 3 T, D) of all tokens."""
        time_BTD = self.time_embedding(steps.position_BL)
        step_tokens = (
            self.return_embedding(return_to_go_BT[..., None], steps) + time_BTD,
            self.observation_embedding(observation_BTP, steps) + time_BTD,
            self.action_embedding(action_BTP, steps) + time_BTD,
        )
        x_BLD = self.embedding_norm(decision_transformer.interleave(step_tokens))
        segment_BT1 = jnp.asarray(steps.segment_BL)[..., None]
        segment_BL = decision_transformer.interleave([segment_BT1] * TOKENS_PER_STEP)
        tokens = masks.single_document(x_BLD.shape[1])
        tokens = tokens._replace(
            position_BL=jnp.zeros_like(tokens.position_BL),
            segment_BL=segment_BL[..., 0],
        )
        x_BLD = self.stack(self.position(x_BLD, tokens.position_BL), tokens)
        return self.final_norm(x_BLD)


def init_params(net: ContinuousDecisionTransformer, key: jax.Array) -> Any:
    """The parameters, a nested dictionary of float32 arrays."""
    observation_BTP = jnp.zeros((1, 1, net.observation_features))
    action_BTP = jnp.zeros((1, 1, net.action_features))
    steps = masks.single_document(1)
    return net.init(key, jnp.zeros((1, 1)), observation_BTP, action_BTP, steps)[
        "params"
    ]
