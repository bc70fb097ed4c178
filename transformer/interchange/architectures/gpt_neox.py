"""GPT-NeoX and Pythia (Black et al. 2022, arXiv 2204.06745; Biderman et al. 2023, arXiv
2304.01373): attention and MLP side by side, rotary positions of a part of each head."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from transformer.interchange.architecture import Architecture
from transformer.interchange.architectures import decoders
from transformer.interchange.config import Reader
from transformer.interchange.rope import Rope, read_partial_rope, write_rope
from transformer.interchange.table import Rule, Table
from transformer.models import decoder
from transformer.network import biases, norms
from transformer.network.block import Block, ParallelBlock


class Sizes(NamedTuple):
    """What a configuration says of the net. rotated: features of a head that turn."""

    vocab_size: int
    width: int
    hidden_features: int
    depth: int
    heads: int
    rotated: int
    length: int
    epsilon: float
    activation: str
    rope: Rope
    parallel: bool
    tied: bool
    scanned: bool = False


def read(config: Reader) -> Sizes:
    """The sizes of a configuration; refuses what the net does not express."""
    width, heads = config.whole("hidden_size"), config.whole("num_attention_heads")
    if width % heads:
        raise config.error("num_attention_heads", f"a divisor of {width}")
    config.only("attention_bias", True)
    config.only("hidden_dropout", 0, 0.0)
    share = config.number("rotary_pct", 0.25)
    rope, inner = read_partial_rope(config)
    share = inner or share
    theta = config.number("rotary_emb_base", rope.theta)
    return Sizes(
        vocab_size=config.whole("vocab_size"),
        width=width,
        hidden_features=config.whole("intermediate_size"),
        depth=config.whole("num_hidden_layers"),
        heads=heads,
        rotated=int(width // heads * share),
        length=config.whole("max_position_embeddings", 2048),
        epsilon=config.positive("layer_norm_eps", 1e-5),
        activation=decoders.read_activation(config, "hidden_act", "gelu"),
        rope=rope._replace(theta=theta),
        parallel=config.flag("use_parallel_residual", True),
        tied=config.flag("tie_word_embeddings", False),
    )


def write(sizes: Sizes) -> dict[str, Any]:
    """config.json of these sizes."""
    share = sizes.rotated / (sizes.width // sizes.heads)
    rope = write_rope(sizes.rope)
    rope["rope_parameters"]["partial_rotary_factor"] = share
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.width,
        "intermediate_size": sizes.hidden_features,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.heads,
        "rotary_pct": share,
        "rotary_emb_base": sizes.rope.theta,
        "max_position_embeddings": sizes.length,
        "layer_norm_eps": sizes.epsilon,
        "hidden_act": sizes.activation,
        "use_parallel_residual": sizes.parallel,
        "tie_word_embeddings": sizes.tied,
        **rope,
    }


def net(sizes: Sizes) -> decoder.Decoder:
    """The decoder."""
    make_norm = partial(norms.LayerNorm, epsilon=sizes.epsilon)
    slots: dict[str, Any] = {
        "make_attention": decoders.attention(
            sizes,
            rotate=sizes.rope.rotate(sizes.rotated),
            make_bias=biases.zero_init_bias,
        ),
        "make_mlp": decoders.mlp(sizes, make_bias=biases.zero_init_bias),
        "make_norm": make_norm,
    }
    return decoders.build(
        sizes,
        slots=lambda layer: slots,
        make_norm=make_norm,
        block=ParallelBlock if sizes.parallel else Block,
    )


def table(sizes: Sizes) -> Table:
    """The tensors of transformers' files: queries, keys and values of a head stand
    together."""
    theirs, ours = "gpt_neox.layers.{N}.", "stack/layers_{N}/"
    attend, maps = ours + "attention/", theirs + "attention."
    rules = [
        Rule("gpt_neox.embed_in.weight", "embedding_VD", "V D"),
        *decoders.affine("gpt_neox.final_layer_norm", "final_norm"),
        *decoders.affine(theirs + "input_layernorm", ours + "attention_norm"),
        *decoders.affine(theirs + "post_attention_layernorm", ours + "mlp_norm"),
        Rule(
            maps + "query_key_value.weight",
            (attend + "w_q_DHK", attend + "w_k_DGK", attend + "w_v_DGK"),
            "(h 3 K) D",
            "D h K",
        ),
        Rule(
            maps + "query_key_value.bias",
            (attend + "b_q_HK", attend + "b_k_GK", attend + "b_v_GK"),
            "(h 3 K)",
            "h K",
        ),
        Rule(maps + "dense.weight", attend + "w_o_HKD", "D (H K)"),
        Rule(maps + "dense.bias", attend + "b_o_D", "D"),
        Rule(theirs + "mlp.dense_h_to_4h.weight", ours + "mlp/w_in_DF", "F D"),
        Rule(theirs + "mlp.dense_h_to_4h.bias", ours + "mlp/b_in_F", "F"),
        Rule(theirs + "mlp.dense_4h_to_h.weight", ours + "mlp/w_out_FD", "D F"),
        Rule(theirs + "mlp.dense_4h_to_h.bias", ours + "mlp/b_out_D", "D"),
    ]
    computed = r"gpt_neox\.layers\.\d+\.attention\."
    return decoders.table(
        rules,
        sizes.tied,
        embedding="gpt_neox.embed_in.weight",
        readout="embed_out.weight",
        base="gpt_neox.",
        ignored={
            computed + r"(masked_)?bias": "causal masks, made here",
            computed + r"rotary_emb\.inv_freq": "computed here",
        },
    )


ARCHITECTURE = Architecture(
    read=read,
    write=write,
    net=net,
    init=decoder.init_params,
    table=table,
    name=lambda sizes: "GPTNeoXForCausalLM",
)
