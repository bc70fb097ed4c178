"""Decision Transformer (Chen et al. 2021, arXiv 2106.01345) of continuous control: a
GPT-2 of returns-to-go, observations and actions."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp

from transformer.interchange.architecture import Architecture
from transformer.interchange.architectures import decoders, encoders, gpt2
from transformer.interchange.config import Reader
from transformer.interchange.table import Rule, Table
from transformer.models import continuous_control, pooling
from transformer.network import positions, stack
from transformer.network.block import Block

NAME = "DecisionTransformerModel"


class Sizes(NamedTuple):
    """What a configuration says of the net. length: tokens of a row; episode_length:
    steps of an episode. action_tanh: whether actions are from -1 to 1. vocab_size: of a
    table that the file has and no input reads."""

    observation_features: int
    action_features: int
    episode_length: int
    action_tanh: bool
    vocab_size: int
    width: int
    hidden_features: int
    depth: int
    heads: int
    length: int
    epsilon: float
    activation: str
    scanned: bool = False


def read(config: Reader) -> Sizes:
    """The sizes of a configuration; refuses what the net does not express."""
    width = config.whole("hidden_size", 128)
    gpt2.check_attention(config)
    heads = config.whole("n_head", 1)
    if width % heads:
        raise config.error("n_head", f"a divisor of hidden_size = {width}")
    # The steps that the authors' agents see of an episode.
    config.get("max_length", 0)
    return Sizes(
        observation_features=config.whole("state_dim", 17),
        action_features=config.whole("act_dim", 4),
        episode_length=config.whole("max_ep_len", 4096),
        action_tanh=config.flag("action_tanh", True),
        vocab_size=config.whole("vocab_size", 1),
        width=width,
        hidden_features=config.whole("n_inner", 4 * width),
        depth=config.whole("n_layer", 3),
        heads=heads,
        length=config.whole("n_positions", 1024),
        epsilon=config.positive("layer_norm_epsilon", 1e-5),
        activation=decoders.read_activation(config, "activation_function", "relu"),
    )


def write(sizes: Sizes) -> dict[str, Any]:
    """config.json of these sizes."""
    return {
        "architectures": [NAME],
        "model_type": "decision_transformer",
        "state_dim": sizes.observation_features,
        "act_dim": sizes.action_features,
        "max_ep_len": sizes.episode_length,
        "action_tanh": sizes.action_tanh,
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.width,
        "n_inner": sizes.hidden_features,
        "n_layer": sizes.depth,
        "n_head": sizes.heads,
        "n_positions": sizes.length,
        "layer_norm_epsilon": sizes.epsilon,
        "activation_function": sizes.activation,
    }


def net(sizes: Sizes) -> continuous_control.ContinuousDecisionTransformer:
    """The decision transformer with the blocks of GPT-2, whose position vector of
    position 0 is added to every token."""
    slots = gpt2.block_slots(sizes)
    return continuous_control.ContinuousDecisionTransformer(
        action_features=sizes.action_features,
        observation_features=sizes.observation_features,
        length=sizes.episode_length,
        width=sizes.width,
        make_stack=partial(
            stack.ScannedStack if sizes.scanned else stack.UnrolledStack,
            depth=sizes.depth,
            make_block=lambda block, layer: block(**slots),
            block=Block,
        ),
        make_norm=slots["make_norm"],
        make_position=partial(positions.Learned, length=sizes.length),
        action_activation=jnp.tanh if sizes.action_tanh else pooling.linear_activation,
        unused_vocab=sizes.vocab_size,
    )


def table(sizes: Sizes) -> Table:
    """The tensors of transformers' files."""
    rules = [
        Rule("encoder.wte.weight", "embedding_VD", "V D"),
        Rule("embed_timestep.weight", "time_embedding/time_TD", "T D"),
        *decoders.affine("embed_ln", "embedding_norm"),
        *gpt2.body_rules("encoder."),
    ]
    names = {"return": "return", "state": "observation", "action": "action"}
    for theirs, ours in names.items():
        bias: Any = {"bias": f"{ours}_embedding/b_in_D", "bias_layout": "D"}
        rules += encoders.dense(
            f"embed_{theirs}", f"{ours}_embedding/w_in_PD", "D P", **bias
        )
        # A sequence of a linear map and tanh there.
        head = f"predict_{theirs}" + (".0" if theirs == "action" else "")
        bias = {"bias": f"{ours}_head/b_out_P", "bias_layout": "P"}
        rules += encoders.dense(head, f"{ours}_head/w_out_DP", "P D", **bias)
    return Table(tuple(rules), ignored=gpt2.mask_buffers("encoder."))


ARCHITECTURE = Architecture(
    read=read,
    write=write,
    net=net,
    init=continuous_control.init_params,
    table=table,
    name=lambda sizes: NAME,
)
