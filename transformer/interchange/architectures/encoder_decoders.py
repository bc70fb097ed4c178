"""What the encoder-decoders of BART's kind in this package have in common: blocks of
one width with biases, and their names in files (Lewis et al. 2019, arXiv 1910.13461).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from transformer.interchange.architectures import decoders, encoders
from transformer.interchange.config import Reader
from transformer.interchange.table import Rule
from transformer.models import defaults
from transformer.network import attention as attention_
from transformer.network import biases, block, masks, mlp, stack
from transformer.network.block import Make

SIDES = ("encoder", "decoder")
# Their names of a block's attentions, and ours.
SUBLAYERS: Mapping[str, Mapping[str, str]] = {
    "encoder": {"self_attn": "attention"},
    "decoder": {"self_attn": "attention", "encoder_attn": "cross_attention"},
}
# Of training and generation only.
HARMLESS = frozenset(
    """activation_dropout decoder_layerdrop decoder_start_token_id dropout
    encoder_layerdrop init_std max_length num_beams
    """.split()
)


class StackSizes(NamedTuple):
    """What a configuration says of the encoder's or the decoder's blocks."""

    depth: int
    heads: int
    hidden_features: int


def read_stack(config: Reader, side: str, width: int) -> StackSizes:
    """Of `encoder` or `decoder`. ValueError for heads that do not fill the width."""
    heads = config.whole(f"{side}_attention_heads")
    if width % heads:
        raise config.error(f"{side}_attention_heads", f"a divisor of {width}")
    depth = config.whole(f"{side}_layers")
    return StackSizes(depth, heads, config.whole(f"{side}_ffn_dim"))


def write_stacks(sizes: Any) -> dict[str, Any]:
    """The keys of the stacks `sizes.encoder` and `sizes.decoder`."""
    values = {"num_hidden_layers": sizes.encoder.depth}
    for side in SIDES:
        blocks: StackSizes = getattr(sizes, side)
        values |= {
            f"{side}_layers": blocks.depth,
            f"{side}_attention_heads": blocks.heads,
            f"{side}_ffn_dim": blocks.hidden_features,
        }
    return values


def make_stack(
    sizes: Any,
    side: str,
    *,
    encoder_mask: masks.Mask,
    make_bias: biases.MakeBias,
    residual: block.ResidualOrder = block.pre_norm,
) -> Make:
    """The stack of `side` of `sizes` (width, activation, scanned, and the sizes of the
    stacks). encoder_mask: of the encoder's tokens. make_bias: of attention."""
    blocks: StackSizes = getattr(sizes, side)

    def attention(mask: masks.Mask) -> Make:
        return partial(
            attention_.Attention,
            width=sizes.width,
            heads=blocks.heads,
            kv_heads=blocks.heads,
            head_features=sizes.width // blocks.heads,
            mask=mask,
            make_mixer=defaults.ROW_BLOCKED,
            make_bias=make_bias,
        )

    make_mlp = partial(
        mlp.MLP,
        width=sizes.width,
        hidden_features=blocks.hidden_features,
        activation=decoders.ACTIVATIONS[sizes.activation],
        make_bias=biases.zero_init_bias,
    )
    slots: dict[str, Any] = {"make_mlp": make_mlp, "residual": residual}
    if side == "encoder":
        slots["make_attention"] = attention(encoder_mask)
    else:
        slots["make_attention"] = attention(decoders.CAUSAL)
        slots["make_cross_attention"] = attention(encoder_mask)
    return partial(
        stack.ScannedStack if sizes.scanned else stack.UnrolledStack,
        depth=blocks.depth,
        make_block=lambda block, layer: block(**slots),
        block=block.Block if side == "encoder" else block.DecoderBlock,
    )


def stack_rules(side: str, ours: str, *, key_bias: bool) -> list[Rule]:
    """The tensors of the blocks of `side`, whose stack is `ours`. key_bias: whether the
    maps of keys have biases."""
    theirs, ours = f"model.{side}.layers.{{N}}", f"{ours}/layers_{{N}}"
    rules = []
    for name, own in SUBLAYERS[side].items():
        maps = (f"{theirs}.{name}.{one}_proj" for one in ("q", "k", "v", "out"))
        made = encoders.attention_rules(*maps, ours=f"{ours}/{own}")
        rules += [rule for rule in made if key_bias or "k_proj.bias" not in rule.theirs]
        rules += decoders.affine(f"{theirs}.{name}_layer_norm", f"{ours}/{own}_norm")
    return [
        *rules,
        *decoders.affine(f"{theirs}.final_layer_norm", f"{ours}/mlp_norm"),
        *encoders.mlp_rules(f"{theirs}.fc1", f"{theirs}.fc2", ours=f"{ours}/mlp"),
    ]
