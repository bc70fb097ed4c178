"""GLM-4.5 (GLM-4.5 Team 2025, arXiv 2508.06471): layers of a gated MLP, then of a
mixture with a shared expert and the router of DeepSeek-V3; rope of a part of each head.

The layer that predicts one more token (`num_nextn_predict_layers`) is not expressed:
its tensors are left out, with a line that says so, and an export has none.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from transformer.interchange.architecture import Architecture
from transformer.interchange.architectures import decoders, llama, mixtures
from transformer.interchange.config import Reader
from transformer.interchange.rope import Rope, read_partial_rope, write_rope
from transformer.interchange.table import Rule, Table
from transformer.models import decoder
from transformer.network import biases, mlp, norms, stack
from transformer.network.moe import experts, routing

NAME = "Glm4MoeForCausalLM"


class Sizes(NamedTuple):
    """What a configuration says of the net. dense: the first layers, whose MLP has
    `dense_features`. hidden_features: of an expert. shared: experts that all tokens
    use, as one MLP. groups, top_groups: of experts. factor: of the gates. rotated:
    features of a head that turn. biased: queries, keys and values."""

    vocab_size: int
    width: int
    dense: int
    dense_features: int
    hidden_features: int
    experts: int
    experts_per_token: int
    shared: int
    groups: int
    top_groups: int
    normalized: bool
    factor: float
    depth: int
    heads: int
    kv_heads: int
    head_features: int
    rotated: int
    head_norm: bool
    biased: bool
    length: int
    epsilon: float
    activation: str
    rope: Rope
    tied: bool
    scanned: bool = False

    @property
    def kinds(self) -> tuple[bool, ...]:
        """Whether each layer has experts."""
        return tuple(layer >= self.dense for layer in range(self.depth))


def read(config: Reader) -> Sizes:
    """The sizes of a configuration; refuses what the net does not express."""
    width, heads = config.whole("hidden_size"), config.whole("num_attention_heads")
    config.get("output_router_logits", False)
    head = config.whole("head_dim", width // heads)
    rope, share = read_partial_rope(config)
    share = config.number("partial_rotary_factor", 0.5 if share is None else share)
    count = config.whole("n_routed_experts", config.get("num_local_experts", 128))
    config.only("num_local_experts", count)
    for key in ("num_mtp_layers", "num_nextn_predict_layers"):
        config.only(key, 0, 1)
    return Sizes(
        vocab_size=config.whole("vocab_size"),
        width=width,
        dense=config.whole("first_k_dense_replace", 1, least=0),
        dense_features=config.whole("intermediate_size"),
        hidden_features=config.whole("moe_intermediate_size"),
        experts=count,
        experts_per_token=config.whole("num_experts_per_tok", 8),
        shared=config.whole("n_shared_experts", 1),
        groups=config.whole("n_group", 1),
        top_groups=config.whole("topk_group", 1),
        normalized=config.flag("norm_topk_prob", True),
        factor=config.positive("routed_scaling_factor", 1.0),
        depth=config.whole("num_hidden_layers"),
        heads=heads,
        kv_heads=config.whole("num_key_value_heads", heads),
        head_features=head,
        rotated=int(head * share),
        head_norm=config.flag("use_qk_norm", False),
        biased=config.flag("attention_bias", False),
        length=config.whole("max_position_embeddings"),
        epsilon=config.positive("rms_norm_eps", 1e-5),
        activation=decoders.read_activation(config, "hidden_act", "silu"),
        rope=rope,
        tied=config.flag("tie_word_embeddings", False),
    )


def write(sizes: Sizes) -> dict[str, Any]:
    """config.json of these sizes, with both dialects of the rope keys."""
    share = sizes.rotated / sizes.head_features
    rope = write_rope(sizes.rope)
    rope["rope_parameters"]["partial_rotary_factor"] = share
    return {
        **decoders.write_sizes(sizes),
        **rope,
        "architectures": [NAME],
        "model_type": "glm4_moe",
        "partial_rotary_factor": share,
        "first_k_dense_replace": sizes.dense,
        "intermediate_size": sizes.dense_features,
        "moe_intermediate_size": sizes.hidden_features,
        "n_routed_experts": sizes.experts,
        "num_experts_per_tok": sizes.experts_per_token,
        "n_shared_experts": sizes.shared,
        "n_group": sizes.groups,
        "topk_group": sizes.top_groups,
        "norm_topk_prob": sizes.normalized,
        "routed_scaling_factor": sizes.factor,
        "use_qk_norm": sizes.head_norm,
        "attention_bias": sizes.biased,
        "hidden_act": sizes.activation,
        "num_nextn_predict_layers": 0,
    }


def net(
    sizes: Sizes, dispatch: routing.Dispatch = mixtures.DROPLESS
) -> decoder.Decoder:
    """The decoder."""
    make_norm = partial(norms.RMSNorm, epsilon=sizes.epsilon)
    head_norm = partial(norms.HeadRMSNorm, epsilon=sizes.epsilon)
    gates = routing.softmax_gates if sizes.normalized else routing.raw_gates
    make_experts = mixtures.make_experts(
        sizes,
        dispatch=dispatch,
        router=routing.sigmoid_router(groups=sizes.groups, top_groups=sizes.top_groups),
        gates=routing.scale_gates(gates, sizes.factor),
    )
    shared_features = sizes.shared * sizes.hidden_features
    make_dense, make_shared = (
        decoders.mlp(sizes, mlp.GatedMLP, hidden_features=features)
        for features in (sizes.dense_features, shared_features)
    )
    mixed = partial(experts.SharedExperts, make_experts, make_shared)
    make_attention = decoders.attention(
        sizes,
        rotate=sizes.rope.rotate(sizes.rotated),
        head_norm=head_norm if sizes.head_norm else norms.Identity,
        make_bias=llama.QKV_BIAS if sizes.biased else biases.no_bias,
    )

    def slots(layer: int) -> dict[str, Any]:
        return {
            "make_attention": make_attention,
            "make_mlp": mixed if sizes.kinds[layer] else make_dense,
            "make_norm": make_norm,
        }

    return decoders.build(sizes, slots=slots, make_norm=make_norm)


def table(sizes: Sizes) -> Table:
    """The tensors of transformers' files."""
    rules = [*llama.ENDS, *llama.NORMS, *llama.PROJECTIONS, *llama.OUTPUT]
    rules += llama.BIASES if sizes.biased else ()
    rules += llama.HEAD_NORMS if sizes.head_norm else ()
    if not all(sizes.kinds):
        rules += mixtures.gated_rules("mlp", "mlp")
    if any(sizes.kinds):
        correction = llama.LAYER + "mlp.gate.e_score_correction_bias"
        rules += [
            *mixtures.expert_rules(*mixtures.NAMES, ours="mlp/experts/"),
            *mixtures.gated_rules("mlp.shared_experts", "mlp/shared"),
            Rule(correction, llama.BLOCK + "mlp/experts/bias_choice_E", "E"),
        ]
    last = {
        rf"model\.layers\.{sizes.depth}\..*": "a layer that predicts one more token"
    }
    return decoders.table(rules, sizes.tied, left_out=last)


ARCHITECTURE = Architecture(
    read=read,
    write=write,
    net=net,
    mixture=net,
    init=decoder.init_params,
    table=table,
    name=lambda sizes: NAME,
    layers_repeat=lambda sizes: stack.repeats(sizes.kinds),
)
