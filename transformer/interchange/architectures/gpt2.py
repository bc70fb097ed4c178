"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm, biases everywhere."""

from __future__ import annotations

import re
from functools import partial
from typing import Any, NamedTuple

from transformer.interchange.architecture import Architecture
from transformer.interchange.architectures import decoders
from transformer.interchange.config import Reader
from transformer.interchange.table import Rule, Table
from transformer.models import decoder
from transformer.network import biases, norms, positions


class Sizes(NamedTuple):
    """What a configuration says of the net."""

    vocab_size: int
    width: int
    hidden_features: int
    depth: int
    heads: int
    length: int
    epsilon: float
    activation: str
    tied: bool
    scanned: bool = False


def check_attention(config: Reader) -> None:
    """Refuse other scores than those of GPT-2."""
    config.only("scale_attn_weights", True)
    config.only("scale_attn_by_inverse_layer_idx", False)
    config.only("reorder_and_upcast_attn", False)


def read(config: Reader) -> Sizes:
    """The sizes of a configuration; refuses what the net does not express."""
    width = config.whole("n_embd", 768)
    check_attention(config)
    config.get("n_ctx", 0)
    for key in ("type", "use_proj", "activation", "proj_to_labels", "first_dropout"):
        config.get(f"summary_{key}", "")
    return Sizes(
        vocab_size=config.whole("vocab_size", 50257),
        width=width,
        hidden_features=config.whole("n_inner", 4 * width),
        depth=config.whole("n_layer", 12),
        heads=config.whole("n_head", 12),
        length=config.whole("n_positions", 1024),
        epsilon=config.positive("layer_norm_epsilon", 1e-5),
        activation=decoders.read_activation(config, "activation_function", "gelu_new"),
        tied=config.flag("tie_word_embeddings", True),
    )


def write(sizes: Sizes) -> dict[str, Any]:
    """config.json of these sizes."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": sizes.vocab_size,
        "n_embd": sizes.width,
        "n_inner": sizes.hidden_features,
        "n_layer": sizes.depth,
        "n_head": sizes.heads,
        "n_positions": sizes.length,
        "layer_norm_epsilon": sizes.epsilon,
        "activation_function": sizes.activation,
        "tie_word_embeddings": sizes.tied,
    }


def block_slots(sizes: Any) -> dict[str, Any]:
    """The slots of a block: attention, MLP and LayerNorm, all with biases."""
    return {
        "make_attention": decoders.attention(sizes, make_bias=biases.zero_init_bias),
        "make_mlp": decoders.mlp(sizes, make_bias=biases.zero_init_bias),
        "make_norm": partial(norms.LayerNorm, epsilon=sizes.epsilon),
    }


def net(sizes: Sizes) -> decoder.Decoder:
    """The decoder: pre-norm blocks of attention and MLP, learned positions."""
    if sizes.width % sizes.heads:
        raise ValueError(
            f"n_head: expected a divisor of n_embd = {sizes.width}, got {sizes.heads}"
        )
    slots = block_slots(sizes)
    return decoders.build(
        sizes,
        slots=lambda layer: slots,
        make_norm=slots["make_norm"],
        make_position=partial(positions.Learned, length=sizes.length),
    )


def body_rules(theirs: str) -> list[Rule]:
    """Rules of positions, blocks and the last norm, at the prefix `theirs`."""
    layer, ours = theirs + "h.{N}.", "stack/layers_{N}/"
    attend = ours + "attention/"
    return [
        Rule(theirs + "wpe.weight", "position/position_LD", "L D"),
        *decoders.affine(theirs + "ln_f", "final_norm"),
        *decoders.affine(layer + "ln_1", ours + "attention_norm"),
        *decoders.affine(layer + "ln_2", ours + "mlp_norm"),
        Rule(
            layer + "attn.c_attn.weight",
            (attend + "w_q_DHK", attend + "w_k_DGK", attend + "w_v_DGK"),
            "D (H K + G K + G K)",
        ),
        Rule(
            layer + "attn.c_attn.bias",
            (attend + "b_q_HK", attend + "b_k_GK", attend + "b_v_GK"),
            "(H K + G K + G K)",
        ),
        Rule(layer + "attn.c_proj.weight", attend + "w_o_HKD", "(H K) D"),
        Rule(layer + "attn.c_proj.bias", attend + "b_o_D", "D"),
        Rule(layer + "mlp.c_fc.weight", ours + "mlp/w_in_DF", "D F"),
        Rule(layer + "mlp.c_fc.bias", ours + "mlp/b_in_F", "F"),
        Rule(layer + "mlp.c_proj.weight", ours + "mlp/w_out_FD", "F D"),
        Rule(layer + "mlp.c_proj.bias", ours + "mlp/b_out_D", "D"),
    ]


def mask_buffers(theirs: str) -> dict[str, str]:
    """Buffers of older files."""
    return {
        re.escape(theirs) + r"h\.\d+\.attn\.(masked_)?bias": "causal masks, made here"
    }


def table(sizes: Sizes) -> Table:
    """The tensors of transformers' files; its Conv1D holds (in, out)."""
    embedding = "transformer.wte.weight"
    return decoders.table(
        [Rule(embedding, "embedding_VD", "V D"), *body_rules("transformer.")],
        sizes.tied,
        embedding=embedding,
        base="transformer.",
        ignored=mask_buffers("transformer."),
    )


ARCHITECTURE = Architecture(
    read=read,
    write=write,
    net=net,
    init=decoder.init_params,
    table=table,
    name=lambda sizes: "GPT2LMHeadModel",
)
