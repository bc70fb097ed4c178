"""CLIP (Radford et al. 2021, arXiv 2103.00020) and SigLIP (Zhai et al. 2023, arXiv
2303.15343): an image encoder, a text encoder, and the score of a pair.

A CLIP text is pooled at its last token that is not padding, which must be the end
token. SigLIP reads padding like other tokens and pools at the end of the row: rows are
padded to the length of its training, 64.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from transformer.interchange.architecture import Architecture
from transformer.interchange.architectures import decoders, encoders
from transformer.interchange.config import Reader
from transformer.interchange.table import Rule, Table
from transformer.models import clip, encoder, pooling
from transformer.network import biases, embeddings, masks, norms, positions
from transformer.network.block import Make

CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel"}
# What an inner configuration does not say: transformers leaves out default values.
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers")
_BASE = {"num_attention_heads": 12, **dict(zip(_SIZES, (768, 3072, 12), strict=True))}
_SMALL = {"num_attention_heads": 8, **dict(zip(_SIZES, (512, 2048, 12), strict=True))}
DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "clip": {
        "text_config": {
            **_SMALL,
            **{"vocab_size": 49408, "max_position_embeddings": 77},
        },
        "vision_config": {**_BASE, "image_size": 224, "patch_size": 32},
    },
    "siglip": {
        "text_config": {**_BASE, "vocab_size": 32000, "max_position_embeddings": 64},
        "vision_config": {**_BASE, "image_size": 224, "patch_size": 16},
    },
}
BLOCKS: dict[str, Any] = {
    "clip": {"epsilon": 1e-5, "activation": "quick_gelu"},
    "siglip": {"epsilon": 1e-6, "activation": "gelu_pytorch_tanh"},
}
# In inner configurations of transformers 4, which say them twice or do not use them.
LEGACY = ("dropout", "projection_dim", "tie_word_embeddings")


class Sizes(NamedTuple):
    """What a configuration says of the net. features: of an embedding. end: the id
    after a text."""

    model_type: str
    text: encoders.BlockSizes
    vocab_size: int
    length: int
    vision: encoders.BlockSizes
    image: encoders.ImageSizes
    features: int
    end: int
    scanned: bool = False


def read(config: Reader) -> Sizes:
    """The sizes of a configuration; refuses what the net does not express."""
    kind = config.get("model_type")
    config.get("logit_scale_init_value", 0.0)
    encoders.read_class(config, {CLASSES[kind]: kind}, CLASSES[kind])
    text, vision = (_inner(config, kind, k) for k in ("text_config", "vision_config"))
    blocks = encoders.read_blocks(vision, **BLOCKS[kind])
    if kind == "clip":
        features = config.whole("projection_dim", 512)
    else:
        vision.only("vision_use_head", True)
        features = text.whole("projection_size", blocks.width)
        if features != blocks.width:
            raise text.error("projection_size", f"{blocks.width}, as images have")
    sizes = Sizes(
        model_type=kind,
        text=encoders.read_blocks(text, **BLOCKS[kind]),
        vocab_size=text.whole("vocab_size"),
        length=text.whole("max_position_embeddings"),
        vision=blocks,
        image=encoders.read_image(vision),
        features=features,
        end=text.whole("eos_token_id", 49407, least=0),
    )
    for inner in (text, vision):
        inner.finish(LEGACY)
    return sizes


def _inner(config: Reader, kind: str, key: str) -> Reader:
    value = config.get(key, {})
    if not isinstance(value, dict):
        raise config.error(key, "an object")
    value = {**DEFAULTS[kind][key], **value}
    # Older files of CLIP say some of it twice.
    again = config.get(f"{key}_dict", {})
    if not isinstance(again, dict) or not again.items() <= value.items():
        raise config.error(f"{key}_dict", f"what {key} has")
    return Reader(value, f"{config.where}: {key}")


def write(sizes: Sizes) -> dict[str, Any]:
    """config.json of these sizes."""
    kind = sizes.model_type
    text = {
        "model_type": f"{kind}_text_model",
        "vocab_size": sizes.vocab_size,
        "max_position_embeddings": sizes.length,
        "eos_token_id": sizes.end,
        **encoders.write_blocks(sizes.text),
    }
    vision = {
        "model_type": f"{kind}_vision_model",
        **encoders.write_blocks(sizes.vision),
        **encoders.write_image(sizes.image),
    }
    text["projection_dim" if kind == "clip" else "projection_size"] = sizes.features
    config = {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        "text_config": text,
        "vision_config": vision,
    }
    if kind == "clip":
        config["projection_dim"] = vision["projection_dim"] = sizes.features
    return config


def net(sizes: Sizes) -> clip.ScoredDualEncoder:
    """Both encoders; images are raw patches, and `patches` the positions of CLIP's
    class token and of them (`masks.single_document`)."""
    is_clip, scanned = sizes.model_type == "clip", sizes.scanned
    make_text = partial(
        pooling.PooledEncoder,
        make_encoder=make_text_encoder(
            sizes.text, sizes.vocab_size, sizes.length, is_clip=is_clip, scanned=scanned
        ),
        make_pool=text_pooling(sizes.text, sizes.features, is_clip=is_clip),
    )
    blocks = sizes.vision
    make_image = partial(
        pooling.PooledEncoder,
        make_encoder=make_image_encoder(
            blocks, sizes.image, is_clip=is_clip, scanned=scanned
        ),
        make_pool=projection(blocks, sizes.features, encoder.first_token)
        if is_clip
        else attention_pooling(blocks),
    )
    return clip.ScoredDualEncoder(
        make_image_encoder=make_image,
        make_text_encoder=make_text,
        make_bias=biases.no_bias if is_clip else biases.zero_init_bias,
    )


def make_text_encoder(
    blocks: encoders.BlockSizes,
    vocab_size: int,
    length: int,
    *,
    is_clip: bool,
    scanned: bool,
) -> Make:
    """The text encoder: causal in CLIP."""
    return partial(
        encoder.Encoder,
        make_embed=partial(
            embeddings.PositionedEmbedding,
            make_content=partial(
                embeddings.AdditiveEmbedding,
                vocab_size=vocab_size,
                kinds=0,
                width=blocks.width,
            ),
            make_position=partial(positions.Learned, length=length),
        ),
        make_stack=encoders.make_stack(
            blocks,
            mask=decoders.CAUSAL if is_clip else masks.full(),
            scanned=scanned,
        ),
        make_norm=encoders.block_norm(blocks),
    )


def projection(
    blocks: encoders.BlockSizes, features: int, pool: Any, *, biased: bool = False
) -> Make:
    """A linear map of the pooled features; biased in SigLIP's texts."""
    return partial(
        pooling.DensePooling,
        features=features,
        width=blocks.width,
        pool=pool,
        activation=pooling.linear_activation,
        make_bias=biases.zero_init_bias if biased else biases.no_bias,
    )


def text_pooling(blocks: encoders.BlockSizes, features: int, *, is_clip: bool) -> Make:
    """The projection of a text's last token, or in SigLIP of the row's."""
    pool = pooling.last_token if is_clip else pooling.end_of_row
    return projection(blocks, features, pool, biased=not is_clip)


def make_image_encoder(
    blocks: encoders.BlockSizes,
    image: encoders.ImageSizes,
    *,
    is_clip: bool,
    scanned: bool,
    make_norm: Make | None = None,
) -> Make:
    """The image encoder; make_norm: behind the blocks, theirs if None."""
    bias = biases.no_bias if is_clip else biases.zero_init_bias
    content: Make = encoders.make_patches(image, blocks.width, bias)
    if is_clip:
        content = partial(embeddings.ClassToken, width=blocks.width, make_embed=content)
    of_blocks = encoders.block_norm(blocks)
    return partial(
        encoder.Encoder,
        make_embed=partial(
            embeddings.PositionedEmbedding,
            make_content=content,
            make_position=partial(
                positions.LearnedGrid, length=image.patches + is_clip
            ),
            make_norm=of_blocks if is_clip else norms.Identity,
        ),
        make_stack=encoders.make_stack(blocks, mask=masks.full(), scanned=scanned),
        make_norm=make_norm or of_blocks,
    )


def attention_pooling(blocks: encoders.BlockSizes) -> Make:
    """The pooling of SigLIP's images."""
    return partial(
        pooling.AttentionPooling,
        width=blocks.width,
        make_attention=encoders.make_attention(blocks, masks.full()),
        make_mlp=encoders.make_mlp(blocks),
        make_norm=encoders.block_norm(blocks),
    )


def init(net: clip.ScoredDualEncoder, key: jax.Array) -> Any:
    """The parameters of both encoders."""
    image: Any = net.make_image_encoder()
    raw_BLP, patches = encoders.empty_image(image.make_encoder())
    ids_BL, tokens = jnp.zeros((1, 1), jnp.int32), masks.single_document(1)
    return net.init(key, raw_BLP, patches, ids_BL, tokens)["params"]


def table(sizes: Sizes) -> Table:
    """The tensors of transformers' files."""
    is_clip = sizes.model_type == "clip"
    texts, images = "text_encoder/", "image_encoder/"
    rules = [
        *text_rules(texts + "encoder/"),
        *image_rules(images + "encoder/", is_clip=is_clip),
        *encoders.affine("vision_model.post_layernorm", images + "encoder/final_norm"),
    ]
    if is_clip:
        rules += [
            Rule("logit_scale", "lambda_log_scale", ""),
            Rule("text_projection.weight", texts + "pool/w_DO", "O D"),
            Rule("visual_projection.weight", images + "pool/w_DO", "O D"),
        ]
    else:
        rules += [
            Rule("logit_scale", "lambda_log_scale", "1"),
            Rule("logit_bias", "bias_score", "1"),
            *text_head_rules(texts + "pool/"),
            *image_head_rules(images + "pool/"),
        ]
    return Table(tuple(rules), sizes=sizes.image.letters(), ignored=IGNORED)


IGNORED = {r"(text|vision)_model\.embeddings\.position_ids": "counted here"}


def text_rules(ours: str) -> list[Rule]:
    """Rules of the text encoder at `ours`."""
    theirs, embed = "text_model.embeddings.", ours + "embed/"
    return [
        *block_rules("text_model.", ours),
        Rule(theirs + "token_embedding.weight", embed + "content/embedding_VD", "V D"),
        Rule(
            theirs + "position_embedding.weight", embed + "position/position_LD", "L D"
        ),
        *encoders.affine("text_model.final_layer_norm", ours + "final_norm"),
    ]


def image_rules(ours: str, *, is_clip: bool) -> list[Rule]:
    """Rules of the image encoder at `ours`, but for the norm behind it."""
    theirs, embed = "vision_model.embeddings.", ours + "embed/"
    patches, content = theirs + "patch_embedding.", embed + "content"
    rules = [
        *block_rules("vision_model.", ours),
        Rule(
            theirs + "position_embedding.weight", embed + "position/position_LD", "L D"
        ),
    ]
    if not is_clip:
        return [
            *rules,
            encoders.patch_rule(patches + "weight", content),
            Rule(patches + "bias", content + "/b_in_D", "D"),
        ]
    return [
        *rules,
        Rule(theirs + "class_embedding", content + "/class_D", "D"),
        encoders.patch_rule(patches + "weight", content + "/PatchEmbedding_0"),
        *encoders.affine("vision_model.pre_layrnorm", embed + "norm"),
    ]


def block_rules(theirs: str, ours: str) -> list[Rule]:
    """Rules of the blocks of either encoder."""
    layer, block = f"{theirs}encoder.layers.{{N}}.", f"{ours}stack/layers_{{N}}/"
    maps = (f"{layer}self_attn.{one}_proj" for one in ("q", "k", "v", "out"))
    return [
        *encoders.attention_rules(*maps, ours=block + "attention"),
        *encoders.affine(layer + "layer_norm1", block + "attention_norm"),
        *encoders.affine(layer + "layer_norm2", block + "mlp_norm"),
        *encoders.mlp_rules(layer + "mlp.fc1", layer + "mlp.fc2", ours=block + "mlp"),
    ]


def text_head_rules(ours: str) -> list[Rule]:
    """Rules of the map behind SigLIP's text encoder, at `ours`."""
    bias = {"bias": ours + "b_O", "bias_layout": "O"}
    return encoders.dense("text_model.head", ours + "w_DO", "O D", **bias)


def image_head_rules(ours: str) -> list[Rule]:
    """Rules of SigLIP's attention pooling, at `ours`."""
    head, attend = "vision_model.head.", ours + "attention/"
    return [
        Rule(head + "probe", ours + "query_D", "o p D", axes="(o p D)"),
        Rule(
            head + "attention.in_proj_weight",
            tuple(attend + f"w_{one}" for one in ("q_DHK", "k_DGK", "v_DGK")),
            "(H K + G K + G K) D",
        ),
        Rule(
            head + "attention.in_proj_bias",
            tuple(attend + f"b_{one}" for one in ("q_HK", "k_GK", "v_GK")),
            "(H K + G K + G K)",
        ),
        Rule(head + "attention.out_proj.weight", attend + "w_o_HKD", "D (H K)"),
        Rule(head + "attention.out_proj.bias", attend + "b_o_D", "D"),
        *encoders.affine(head + "layernorm", ours + "norm"),
        *encoders.mlp_rules(head + "mlp.fc1", head + "mlp.fc2", ours=ours + "mlp"),
    ]


ARCHITECTURE = Architecture(
    read=read,
    write=write,
    net=net,
    init=init,
    table=table,
    name=lambda sizes: CLASSES[sizes.model_type],
)
