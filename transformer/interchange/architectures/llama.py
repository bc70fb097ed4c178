"""Llama and the decoders that differ from it by a few values: Mistral (a window), Qwen
2 (biases of queries, keys and values), Qwen 3 (QK-norm), SmolLM.

Touvron et al. 2023, arXiv 2302.13971; Jiang et al. 2023, arXiv 2310.06825; Yang et al.
2024, arXiv 2407.10671 and 2025, arXiv 2505.09388.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from transformer.interchange.architecture import Architecture
from transformer.interchange.config import Reader
from transformer.interchange.rope import Rope, read_rope, write_rope
from transformer.interchange.table import Rule, Table
from transformer.models import decoder, defaults
from transformer.network import attention, biases, masks, mlp, norms, stack
from transformer.network.block import Block

NAMES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
ACTIVATIONS = {"silu": mlp.silu}


class Sizes(NamedTuple):
    """What a configuration says of the net. window: keys that a token sees, itself
    included, or None. scanned: one stack of equal layers (`stack.ScannedStack`)."""

    model_type: str
    vocab_size: int
    width: int
    hidden_features: int
    depth: int
    heads: int
    kv_heads: int
    head_features: int
    length: int
    epsilon: float
    rope: Rope
    tied: bool
    window: int | None
    scanned: bool = False


def read(config: Reader) -> Sizes:
    """The sizes of a configuration; refuses what the net does not express."""
    kind = config.get("model_type")
    width, heads = config.whole("hidden_size"), config.whole("num_attention_heads")
    config.choice("hidden_act", ACTIVATIONS, "silu")
    config.only("attention_bias", False)
    config.only("mlp_bias", False)
    config.only("pretraining_tp", 1)
    depth = config.whole("num_hidden_layers")
    length = config.whole("max_position_embeddings", 2048)
    config.only("layer_types", ["full_attention"] * depth)
    default_head = 128 if kind == "qwen3" else width // heads
    return Sizes(
        model_type=kind,
        vocab_size=config.whole("vocab_size"),
        width=width,
        hidden_features=config.whole("intermediate_size"),
        depth=depth,
        heads=heads,
        kv_heads=config.whole("num_key_value_heads", heads),
        head_features=config.whole("head_dim", default_head),
        length=length,
        epsilon=config.number("rms_norm_eps", 1e-6),
        rope=read_rope(config),
        tied=config.flag("tie_word_embeddings", False),
        window=_read_window(config, kind),
    )


def _read_window(config: Reader, kind: str) -> int | None:
    """Mistral's window. Qwen's is off unless `use_sliding_window`, and then of some
    layers only, which is refused."""
    if kind.startswith("qwen"):
        config.only("use_sliding_window", False)
        config.get("sliding_window", 0), config.get("max_window_layers", 0)
        return None
    if kind == "llama":
        config.only("sliding_window")
        return None
    return config.whole("sliding_window", 2**31 - 1) % (2**31 - 1) or None


def write(sizes: Sizes) -> dict[str, Any]:
    """config.json of these sizes, with both dialects of the rope keys."""
    config = {
        "architectures": [NAMES[sizes.model_type]],
        "model_type": sizes.model_type,
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.width,
        "intermediate_size": sizes.hidden_features,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_features,
        "hidden_act": "silu",
        "max_position_embeddings": sizes.length,
        "rms_norm_eps": sizes.epsilon,
        "tie_word_embeddings": sizes.tied,
        **write_rope(sizes.rope),
    }
    if sizes.model_type == "mistral":
        config["sliding_window"] = sizes.window
    return config


def net(sizes: Sizes) -> decoder.Decoder:
    """The decoder: pre-norm blocks of rotary attention and a gated MLP."""
    mask = masks.causal() & masks.segments()
    if sizes.window is not None:
        mask = mask & masks.window(sizes.window - 1)
    has_bias = sizes.model_type == "qwen2"
    make_norm = partial(norms.RMSNorm, epsilon=sizes.epsilon)
    slots: dict[str, Any] = {
        "make_attention": partial(
            attention.Attention,
            width=sizes.width,
            heads=sizes.heads,
            kv_heads=sizes.kv_heads,
            head_features=sizes.head_features,
            mask=mask,
            rotate=sizes.rope.rotate(),
            make_mixer=defaults.ROW_BLOCKED,
            head_norm=partial(norms.HeadRMSNorm, epsilon=sizes.epsilon)
            if sizes.model_type == "qwen3"
            else norms.Identity,
            make_bias=biases.zero_init_bias_of("b_q_HK", "b_k_GK", "b_v_GK")
            if has_bias
            else biases.no_bias,
        ),
        "make_mlp": partial(
            mlp.GatedMLP, width=sizes.width, hidden_features=sizes.hidden_features
        ),
        "make_norm": make_norm,
    }
    return decoder.Decoder(
        vocab_size=sizes.vocab_size,
        width=sizes.width,
        make_stack=partial(
            stack.ScannedStack if sizes.scanned else stack.UnrolledStack,
            depth=sizes.depth,
            make_block=lambda block, layer: block(**slots),
            block=Block,
        ),
        make_norm=make_norm,
        unembed=decoder.tied_embedding if sizes.tied else decoder.untied_embedding,
    )


def table(sizes: Sizes) -> Table:
    """The tensors of transformers' files."""
    theirs, ours = "model.layers.{N}.", "stack/layers_{N}/"
    attend, ours_attend = theirs + "self_attn.", ours + "attention/"
    rules = [
        Rule("model.embed_tokens.weight", "embedding_VD", "V D"),
        Rule("model.norm.weight", "final_norm/gain_D", "D"),
        Rule(theirs + "input_layernorm.weight", ours + "attention_norm/gain_D", "D"),
        Rule(theirs + "post_attention_layernorm.weight", ours + "mlp_norm/gain_D", "D"),
        Rule(attend + "q_proj.weight", ours_attend + "w_q_DHK", "(H K) D"),
        Rule(attend + "k_proj.weight", ours_attend + "w_k_DGK", "(G K) D"),
        Rule(attend + "v_proj.weight", ours_attend + "w_v_DGK", "(G K) D"),
        Rule(attend + "o_proj.weight", ours_attend + "w_o_HKD", "D (H K)"),
        Rule(theirs + "mlp.gate_proj.weight", ours + "mlp/w_gate_DF", "F D"),
        Rule(theirs + "mlp.up_proj.weight", ours + "mlp/w_in_DF", "F D"),
        Rule(theirs + "mlp.down_proj.weight", ours + "mlp/w_out_FD", "D F"),
    ]
    if sizes.model_type == "qwen2":
        rules += [
            Rule(attend + "q_proj.bias", ours_attend + "b_q_HK", "(H K)"),
            Rule(attend + "k_proj.bias", ours_attend + "b_k_GK", "(G K)"),
            Rule(attend + "v_proj.bias", ours_attend + "b_v_GK", "(G K)"),
        ]
    if sizes.model_type == "qwen3":
        rules += [
            Rule(attend + "q_norm.weight", ours_attend + "q_norm/gain_K", "K"),
            Rule(attend + "k_norm.weight", ours_attend + "k_norm/gain_K", "K"),
        ]
    if not sizes.tied:
        rules.append(Rule("lm_head.weight", "unembedding_VD", "V D"))
    return Table(
        tuple(rules),
        ignored={
            r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq": "computed here"
        },
        tied={"lm_head.weight": "model.embed_tokens.weight"} if sizes.tied else {},
    )


ARCHITECTURE = Architecture(
    read=read,
    write=write,
    net=net,
    init=decoder.init_params,
    table=table,
    name=lambda sizes: NAMES[sizes.model_type],
)
