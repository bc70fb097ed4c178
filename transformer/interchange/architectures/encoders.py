"""What the encoders of this package have in common."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.interchange.architectures import decoders
from transformer.interchange.config import Reader
from transformer.interchange.table import Rule
from transformer.models import defaults
from transformer.network import (
    attention,
    biases,
    embeddings,
    masks,
    mlp,
    norms,
    stack,
)
from transformer.network.block import Block, Make, ResidualOrder, pre_norm

ACTIVATIONS = {**decoders.ACTIVATIONS, "quick_gelu": mlp.quick_gelu}
CLASSIFIER = "ForSequenceClassification"
# False of an encoder whose file has no pooler: a key of ours. One of the name of
# transformers' argument, add_pooling_layer, would keep that from being heard.
POOLER = "has_pooler"
# Letters of tables: axes of one entry.
ONE = {"o": 1, "p": 1}


class BlockSizes(NamedTuple):
    """What a configuration says of the blocks."""

    width: int
    hidden_features: int
    depth: int
    heads: int
    epsilon: float
    activation: str


class ImageSizes(NamedTuple):
    """Square images of `side` pixels in square patches of `patch` pixels. Pixels at the
    right and at the bottom that fill no patch are not read (SigLIP, 384 of 14)."""

    side: int
    patch: int
    channels: int

    @property
    def patches(self) -> int:
        """The number of patches of an image."""
        return (self.side // self.patch) ** 2

    @property
    def patched_side(self) -> int:
        """The pixels of a side that patches cover."""
        return self.side - self.side % self.patch

    @property
    def features(self) -> int:
        """The features of a raw patch."""
        return self.patch**2 * self.channels

    def letters(self) -> dict[str, int]:
        """The sizes of the letters in `patch_rules`."""
        return {"c": self.channels, "y": self.patch, "x": self.patch, **ONE}


def read_blocks(
    config: Reader,
    *,
    epsilon: float,
    activation: str = "gelu",
    hidden_features: int | None = None,
) -> BlockSizes:
    """The blocks of a configuration; epsilon, activation: where it has none.
    hidden_features: of the MLP, `intermediate_size` if None."""
    width, heads = config.whole("hidden_size"), config.whole("num_attention_heads")
    if width % heads:
        raise config.error("num_attention_heads", f"a divisor of {width}")
    config.choice("hidden_act", ACTIVATIONS, activation)
    if hidden_features is None:
        hidden_features = config.whole("intermediate_size")
    return BlockSizes(
        width=width,
        hidden_features=hidden_features,
        depth=config.whole("num_hidden_layers"),
        heads=heads,
        epsilon=config.positive("layer_norm_eps", epsilon),
        activation=config.get("hidden_act", activation),
    )


def write_blocks(blocks: BlockSizes) -> dict[str, Any]:
    """The keys that `read_blocks` reads."""
    return {
        "hidden_size": blocks.width,
        "intermediate_size": blocks.hidden_features,
        "num_hidden_layers": blocks.depth,
        "num_attention_heads": blocks.heads,
        "layer_norm_eps": blocks.epsilon,
        "hidden_act": blocks.activation,
    }


def read_image(config: Reader) -> ImageSizes:
    """The images of a configuration. ValueError where no patch is in them."""
    side, patch = config.whole("image_size"), config.whole("patch_size")
    if side < patch:
        raise config.error("image_size", f"at least patch_size = {patch}")
    return ImageSizes(side, patch, config.whole("num_channels", 3))


def write_image(image: ImageSizes) -> dict[str, Any]:
    """The keys that `read_image` reads."""
    return {
        "image_size": image.side,
        "patch_size": image.patch,
        "num_channels": image.channels,
    }


def read_labels(config: Reader) -> tuple[str, ...]:
    """The names of the classes, by their numbers."""
    names = config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    numbers = [str(i) for i in range(len(names) if isinstance(names, dict) else 0)]
    if not numbers or sorted(names) != sorted(numbers):
        raise config.error("id2label", "an object of 0, 1, ... and names")
    return tuple(str(names[number]) for number in numbers)


def read_text_labels(config: Reader, head: str) -> tuple[str, ...]:
    """The names of the classes of a classifier of texts; none for another head.
    ValueError for a regression, and where several classes hold at once."""
    if head != CLASSIFIER:
        return ()
    config.only("problem_type", "single_label_classification")
    labels = read_labels(config)
    if len(labels) < 2:
        raise config.error("id2label", "two classes or more")
    return labels


def write_labels(labels: tuple[str, ...]) -> dict[str, Any]:
    """The keys that `read_labels` reads."""
    return {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }


def read_class(config: Reader, classes: Mapping[str, Any], default: str) -> Any:
    """What `classes` has for the class that `architectures` names."""
    named = config.get("architectures", [default])
    known = isinstance(named, list) and len(named) == 1 and named[0] in list(classes)
    if not known:
        raise config.error("architectures", f"one of {', '.join(classes)}")
    return classes[named[0]]


def has_pooler(names: Collection[str]) -> bool:
    """Whether tensors of these names have a pooler, in any dialect."""
    return any(re.search(r"(^|\.)pooler\.dense\.", name) for name in names)


def pooler_notes(class_name: str) -> tuple[str, ...]:
    """What is to be known of an encoder without its pooler."""
    return (
        f"no pooler, as in the file: {class_name} of transformers adds one of random "
        "weights (pooler.dense), unless it is loaded with add_pooling_layer=False",
    )


def block_norm(blocks: BlockSizes) -> Make:
    """The LayerNorm of the blocks."""
    return partial(norms.LayerNorm, epsilon=blocks.epsilon)


def make_attention(
    blocks: BlockSizes,
    mask: masks.Mask,
    make_bias: biases.MakeBias = biases.zero_init_bias,
) -> Make:
    """Attention of the blocks, with biases."""
    return partial(
        attention.Attention,
        width=blocks.width,
        heads=blocks.heads,
        kv_heads=blocks.heads,
        head_features=blocks.width // blocks.heads,
        mask=mask,
        make_mixer=defaults.ROW_BLOCKED,
        make_bias=make_bias,
    )


def make_mlp(blocks: BlockSizes) -> Make:
    """The MLP of the blocks, with biases."""
    return partial(
        mlp.MLP,
        width=blocks.width,
        hidden_features=blocks.hidden_features,
        activation=ACTIVATIONS[blocks.activation],
        make_bias=biases.zero_init_bias,
    )


def make_stack(
    blocks: BlockSizes,
    *,
    mask: masks.Mask,
    scanned: bool,
    residual: ResidualOrder = pre_norm,
    make_norm: Make | None = None,
    make_bias: biases.MakeBias = biases.zero_init_bias,
) -> Make:
    """A stack of equal blocks. make_norm: `block_norm` if None. make_bias: of the maps
    of attention."""
    slots: dict[str, Any] = {
        "make_attention": make_attention(blocks, mask, make_bias),
        "make_mlp": make_mlp(blocks),
        "make_norm": make_norm or block_norm(blocks),
        "residual": residual,
    }
    return partial(
        stack.ScannedStack if scanned else stack.UnrolledStack,
        depth=blocks.depth,
        make_block=lambda block, layer: block(**slots),
        block=Block,
    )


def make_patches(
    image: ImageSizes, width: int, make_bias: biases.MakeBias = biases.zero_init_bias
) -> Make:
    """The embedding of raw patches."""
    return partial(
        embeddings.PatchEmbedding,
        features=image.features,
        width=width,
        make_bias=make_bias,
    )


def empty_image(encoder: Any) -> tuple[jax.Array, masks.TokenPositions]:
    """The raw patches of one image and the positions of all tokens, the class token
    included, to initialize an unbound encoder with."""
    embed, registers = _position_embedding(encoder)
    length, inner = embed.make_position().length, embed.make_content()
    patches = length - isinstance(inner, embeddings.ClassToken)
    while not isinstance(inner, embeddings.PatchEmbedding):
        inner = inner.make_embed()
    tokens = masks.single_document(length + registers)
    return jnp.zeros((1, patches, inner.features)), tokens


def _position_embedding(encoder: Any) -> tuple[Any, int]:
    """The embedding with positions of an encoder of images, and how many tokens are
    beside its own."""
    embed = encoder.make_embed()
    if isinstance(embed, embeddings.RegisterTokens):
        return embed.make_embed(), embed.count
    return embed, 0


def image_length(encoder: Any) -> int:
    """The tokens of a row of an unbound encoder of images or videos."""
    embed, registers = _position_embedding(encoder)
    return embed.make_position().length + registers


def init_text(net: nn.Module, key: Any) -> Any:
    """The parameters of a net of (ids, tokens)."""
    ids_BL = jnp.zeros((1, 1), jnp.int32)
    return net.init(key, ids_BL, masks.single_document(1))["params"]


def affine(theirs: str, ours: str) -> list[Rule]:
    """Rules of a LayerNorm's weight and bias."""
    return decoders.affine(theirs, ours)


def dense(
    theirs: str, weight: str, layout: str, *, bias: str, bias_layout: str
) -> list[Rule]:
    """Rules of a map's weight and bias."""
    return [
        Rule(f"{theirs}.weight", weight, layout),
        Rule(f"{theirs}.bias", bias, bias_layout),
    ]


def attention_rules(query: str, key: str, value: str, out: str, *, ours: str) -> Any:
    """Rules of the four maps of attention at `ours`."""
    return [
        Rule(f"{query}.weight", f"{ours}/w_q_DHK", "(H K) D"),
        Rule(f"{query}.bias", f"{ours}/b_q_HK", "(H K)"),
        Rule(f"{key}.weight", f"{ours}/w_k_DGK", "(G K) D"),
        Rule(f"{key}.bias", f"{ours}/b_k_GK", "(G K)"),
        Rule(f"{value}.weight", f"{ours}/w_v_DGK", "(G K) D"),
        Rule(f"{value}.bias", f"{ours}/b_v_GK", "(G K)"),
        Rule(f"{out}.weight", f"{ours}/w_o_HKD", "D (H K)"),
        Rule(f"{out}.bias", f"{ours}/b_o_D", "D"),
    ]


def mlp_rules(first: str, second: str, *, ours: str) -> list[Rule]:
    """Rules of the two maps of an MLP at `ours`."""
    return [
        Rule(f"{first}.weight", f"{ours}/w_in_DF", "F D"),
        Rule(f"{first}.bias", f"{ours}/b_in_F", "F"),
        Rule(f"{second}.weight", f"{ours}/w_out_FD", "D F"),
        Rule(f"{second}.bias", f"{ours}/b_out_D", "D"),
    ]


def classifier_rules(pool: str, readout: str) -> list[Rule]:
    """Rules of the head of a `pooling.classifier`."""
    inner = {"bias": "encoder/pool/b_O", "bias_layout": "O"}
    outer = {"bias": "b_V", "bias_layout": "V"}
    return [
        *dense(pool, "encoder/pool/w_DO", "O D", **inner),
        *dense(readout, "unembedding_VD", "V D", **outer),
    ]


def patch_rule(theirs: str, ours: str) -> Rule:
    """The rule of the map of patches, a convolution there."""
    return Rule(theirs, f"{ours}/w_in_PD", "D c y x", axes="(y x c) D")
