"""What the decoders of this package have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from transformer.interchange.config import Reader
from transformer.interchange.rope import Rope
from transformer.interchange.table import Rule, Table
from transformer.models import decoder, defaults
from transformer.network import attention as attention_
from transformer.network import masks, positions, precision, stack
from transformer.network import mlp as mlp_
from transformer.network.block import Block, Make

# Kinds of layers: a window, all keys.
LOCAL, GLOBAL = "sliding_attention", "full_attention"
CAUSAL = decoder.CAUSAL_IN_DOCUMENT
ACTIVATIONS: Mapping[str, mlp_.Activation] = {
    "gelu": mlp_.exact_gelu,
    "gelu_new": mlp_.gelu,
    "gelu_pytorch_tanh": mlp_.gelu,
    "gelu_fast": mlp_.gelu,
    "relu": mlp_.relu,
    "silu": mlp_.silu,
    "swish": mlp_.silu,
}


def read_activation(config: Reader, key: str, default: str) -> str:
    """The name of an activation that is expressed here."""
    config.choice(key, ACTIVATIONS, default)
    return config.get(key, default)


def window(size: int | None) -> masks.Mask:
    """The causal mask of `size` keys, the token itself included; all if None."""
    return CAUSAL if size is None else CAUSAL & masks.window(size - 1)


def read_layers(config: Reader, depth: int, *, period: int) -> tuple[str, ...]:
    """The kind of each layer, `LOCAL` or `GLOBAL`; the last of each `period` is global
    where they are not listed."""
    every = [GLOBAL if (i + 1) % period == 0 else LOCAL for i in range(depth)]
    layers = config.get("layer_types", every)
    known = isinstance(layers, list) and all(x in (LOCAL, GLOBAL) for x in layers)
    if not known or len(layers) != depth:
        raise config.error("layer_types", f"{depth} of {LOCAL}, {GLOBAL}")
    return tuple(layers)


def build(
    sizes: Any,
    *,
    slots: Callable[[int], dict[str, Any]],
    make_norm: Make,
    block: Any = Block,
    soft_cap: float | None = None,
    **options: Any,
) -> decoder.Decoder:
    """A decoder of `sizes` (vocab_size, width, depth, tied, scanned). slots(layer): of
    its block. soft_cap: of the logits. options: of `Decoder`."""
    unembed: Any = decoder.tied_unembedding
    if not sizes.tied:
        unembed = decoder.untied_unembedding
    if soft_cap is not None:
        unembed = decoder.with_transform(unembed, precision.SoftCap(soft_cap))
    return decoder.Decoder(
        vocab_size=sizes.vocab_size,
        width=sizes.width,
        make_stack=partial(
            stack.ScannedStack if sizes.scanned else stack.UnrolledStack,
            depth=sizes.depth,
            make_block=lambda block, layer: block(**slots(layer)),
            block=block,
        ),
        make_norm=make_norm,
        unembed=unembed,
        **options,
    )


def position(rope: Rope) -> Make:
    """The slot `make_position` of a decoder with this rope: of rows of up to its limit,
    if it has one."""
    if rope.limit is None:
        return positions.NoPositions
    return partial(positions.NoPositionsUpTo, length=rope.limit)


def attention(sizes: Any, **options: Any) -> Make:
    """Attention of `sizes`: width, heads, and kv_heads and head_features where it has
    them, else as many key heads, which fill the width. options: of `Attention`; by
    default causal, by the default kernel."""
    return partial(
        attention_.Attention,
        width=sizes.width,
        heads=sizes.heads,
        kv_heads=getattr(sizes, "kv_heads", sizes.heads),
        head_features=getattr(sizes, "head_features", sizes.width // sizes.heads),
        **{"mask": CAUSAL, "make_mixer": defaults.ROW_BLOCKED, **options},
    )


def mlp(sizes: Any, kind: Any = mlp_.MLP, **options: Any) -> Make:
    """An MLP of `sizes`: width, hidden_features, activation. kind: its class. options:
    of that."""
    return partial(
        kind,
        width=sizes.width,
        activation=ACTIVATIONS[sizes.activation],
        **{"hidden_features": sizes.hidden_features, **options},
    )


def write_sizes(sizes: Any) -> dict[str, Any]:
    """The keys of a configuration that Llama and its relatives share."""
    return {
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_features,
        "max_position_embeddings": sizes.length,
        "rms_norm_eps": sizes.epsilon,
        "tie_word_embeddings": sizes.tied,
    }


def table(
    rules: Sequence[Rule],
    tied: bool,
    *,
    embedding: str = "model.embed_tokens.weight",
    readout: str = "lm_head.weight",
    base: str = "model.",
    **options: Any,
) -> Table:
    """`rules` and that of the unembedding `readout`, unless it is tied to `embedding`:
    files of tied models may hold it again. base: the prefix of what is not the readout,
    which files of the class without it leave out (GPT-2 as published). options: of
    `Table`."""
    own = () if tied else (Rule(readout, "unembedding_VD", "V D"),)
    copies = {readout: embedding} if tied else {}
    return Table((*rules, *own), tied=copies, aliases=_prefix(rules, base), **options)


def _prefix(rules: Sequence[Rule], base: str) -> dict[str, str]:
    """The alias that puts `base` before names that begin as those behind it do."""
    named = (rule.theirs for rule in rules if rule.theirs.startswith(base))
    first = sorted({name.removeprefix(base).split(".")[0] for name in named})
    return {rf"^({'|'.join(first)})\.": rf"{base}\1."} if first else {}


def affine(theirs: str, ours: str) -> list[Rule]:
    """Rules of a LayerNorm's weight and bias."""
    return [
        Rule(f"{theirs}.weight", f"{ours}/gain_D", "D"),
        Rule(f"{theirs}.bias", f"{ours}/bias_D", "D"),
    ]
