"""One encoder of CLIP or SigLIP alone: of texts or of images, with or without CLIP's
projection (`clip.py`).

The features of CLIP's images are those before the last norm, which only the pooled
class token has.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax

from transformer.interchange.architecture import Architecture
from transformer.interchange.architectures import clip, encoders
from transformer.interchange.config import Reader
from transformer.interchange.table import Rule, Table
from transformer.models import encoder, pooling
from transformer.network import norms

# Class: whether there is a head, by model type. SigLIP's texts always have one.
CLASSES = {
    "clip_text_model": {"CLIPTextModel": False, "CLIPTextModelWithProjection": True},
    "clip_vision_model": {
        "CLIPVisionModel": False,
        "CLIPVisionModelWithProjection": True,
    },
    "siglip_text_model": {"SiglipTextModel": True},
    "siglip_vision_model": {"SiglipVisionModel": True},
}
# Left by older versions, which have no meaning for one encoder.
LEGACY = ("dropout", "logit_scale_init_value", "tie_word_embeddings")


class TextSizes(NamedTuple):
    """What a configuration says of a text encoder. head: whether it has the projection.
    features: of that. end: the id after a text."""

    model_type: str
    blocks: encoders.BlockSizes
    vocab_size: int
    length: int
    features: int
    head: bool
    end: int
    scanned: bool = False

    @property
    def is_clip(self) -> bool:
        """Whether it is CLIP's, else SigLIP's."""
        return self.model_type.startswith("clip")


class ImageSizes(NamedTuple):
    """What a configuration says of an image encoder. head: whether it has CLIP's
    projection, or SigLIP's pooling. features: of the projection."""

    model_type: str
    blocks: encoders.BlockSizes
    image: encoders.ImageSizes
    features: int
    head: bool
    scanned: bool = False

    @property
    def is_clip(self) -> bool:
        """Whether it is CLIP's, else SigLIP's."""
        return self.model_type.startswith("clip")

    @property
    def extra_tokens(self) -> int:
        """Tokens before the patches."""
        return int(self.is_clip)


def read(config: Reader) -> TextSizes | ImageSizes:
    """The sizes of a configuration; refuses what the net does not express."""
    kind = config.get("model_type")
    family, part, _ = kind.split("_")
    # Older files leave out default values.
    for key, value in clip.DEFAULTS[family][f"{part}_config"].items():
        config.values.setdefault(key, value)
    blocks = encoders.read_blocks(config, **clip.BLOCKS[family])
    head = encoders.read_class(config, CLASSES[kind], next(iter(CLASSES[kind])))
    for key in LEGACY:
        config.get(key, 0)
    if family == "clip":
        features = config.whole("projection_dim", 512)
    elif part == "text":
        features = config.whole("projection_size", blocks.width)
    else:
        head, features = config.flag("vision_use_head", True), blocks.width
    if part == "vision":
        return ImageSizes(kind, blocks, encoders.read_image(config), features, head)
    return TextSizes(
        model_type=kind,
        blocks=blocks,
        vocab_size=config.whole("vocab_size"),
        length=config.whole("max_position_embeddings"),
        features=features,
        head=head,
        end=config.whole("eos_token_id", 49407, least=0),
    )


def name(sizes: TextSizes | ImageSizes) -> str:
    """The class of transformers."""
    classes = CLASSES[sizes.model_type]
    named = (one for one, head in classes.items() if head == sizes.head)
    return next(named, next(iter(classes)))


def write(sizes: TextSizes | ImageSizes) -> dict[str, Any]:
    """config.json of these sizes."""
    config = {
        "architectures": [name(sizes)],
        "model_type": sizes.model_type,
        **encoders.write_blocks(sizes.blocks),
    }
    if sizes.is_clip:
        config["projection_dim"] = sizes.features
    if isinstance(sizes, ImageSizes):
        config |= encoders.write_image(sizes.image)
        return config if sizes.is_clip else {**config, "vision_use_head": sizes.head}
    if not sizes.is_clip:
        config["projection_size"] = sizes.features
    return {
        **config,
        "vocab_size": sizes.vocab_size,
        "max_position_embeddings": sizes.length,
        "eos_token_id": sizes.end,
    }


def net(sizes: TextSizes | ImageSizes) -> Any:
    """The encoder and its pooling; SigLIP's of images may have none."""
    blocks, is_clip = sizes.blocks, sizes.is_clip
    how: dict[str, Any] = {"is_clip": is_clip, "scanned": sizes.scanned}
    if isinstance(sizes, TextSizes):
        make = clip.make_text_encoder(blocks, sizes.vocab_size, sizes.length, **how)
        make_pool: Any = partial(pooling.TokenPooling, pool=pooling.last_token)
        if sizes.head:
            make_pool = clip.text_pooling(blocks, sizes.features, is_clip=is_clip)
        return pooling.PooledEncoder(make_encoder=make, make_pool=make_pool)
    if not is_clip:
        make = clip.make_image_encoder(blocks, sizes.image, **how)
        make_pool = clip.attention_pooling(blocks)
        return pooling.PooledEncoder(make, make_pool) if sizes.head else make()
    make = clip.make_image_encoder(blocks, sizes.image, make_norm=norms.Identity, **how)
    make_norm = encoders.block_norm(blocks)
    make_pool = partial(
        pooling.NormPooling, make_norm=make_norm, pool=encoder.first_token
    )
    if sizes.head:
        make_pool = clip.projection(blocks, sizes.features, make_pool())
    return pooling.PooledEncoder(make_encoder=make, make_pool=make_pool)


def init(net: Any, key: jax.Array) -> Any:
    """The parameters of an encoder of ids, or of raw patches."""
    inner = net.make_encoder() if hasattr(net, "make_encoder") else net
    content = inner.make_embed().make_content()
    if hasattr(content, "vocab_size"):
        return encoders.init_text(net, key)
    return net.init(key, *encoders.empty_image(inner))["params"]


def table(sizes: TextSizes | ImageSizes) -> Table:
    """The tensors of transformers 4, whose names begin with `text_model.` or
    `vision_model.`; version 5 reads these too, and writes the plain classes without."""
    if isinstance(sizes, TextSizes):
        inner, letters, rules = "text_model", {}, clip.text_rules("encoder/")
        if sizes.head and sizes.is_clip:
            rules += [Rule("text_projection.weight", "pool/w_DO", "O D")]
        elif sizes.head:
            rules += clip.text_head_rules("pool/")
    else:
        inner, letters = "vision_model", sizes.image.letters()
        ours = "" if not (sizes.is_clip or sizes.head) else "encoder/"
        rules = clip.image_rules(ours, is_clip=sizes.is_clip)
        norm = f"{ours}final_norm"
        if sizes.is_clip:
            norm = "pool/pool/norm" if sizes.head else "pool/norm"
        rules += encoders.affine("vision_model.post_layernorm", norm)
        if sizes.head and sizes.is_clip:
            rules += [Rule("visual_projection.weight", "pool/w_DO", "O D")]
        elif sizes.head:
            rules += clip.image_head_rules("pool/")
    parts = "embeddings|encoder|final_layer_norm|pre_layrnorm|post_layernorm|head"
    aliases = {rf"^({parts})\.": rf"{inner}.\1."}
    return Table(tuple(rules), sizes=letters, ignored=clip.IGNORED, aliases=aliases)


ARCHITECTURE = Architecture(
    read=read, write=write, net=net, init=init, table=table, name=name
)
