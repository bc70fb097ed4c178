"""ViT (Dosovitskiy et al. 2020, arXiv 2010.11929), as an encoder with a pooler or a
classifier, and DINOv2 (Oquab et al. 2023, arXiv 2304.07193), with registers too (Darcet
et al. 2023, arXiv 2309.16588), as an encoder or a classifier.

Images have the size of the configuration: positions are not interpolated.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from transformer.interchange.architecture import Architecture
from transformer.interchange.architectures import encoders
from transformer.interchange.config import Reader
from transformer.interchange.table import Rule, Table
from transformer.models import encoder, pooling
from transformer.network import embeddings, masks, norms, positions
from transformer.network.block import Make, pre_norm, sandwich_norm

# Classes of transformers, and what stands behind the encoder.
CLASSES = {
    "vit": {"ViTModel": "pooler", "ViTForImageClassification": "classifier"},
    "dinov2": {
        "Dinov2Model": "nothing",
        "Dinov2ForImageClassification": "classifier",
    },
    "dinov2_with_registers": {
        "Dinov2WithRegistersModel": "nothing",
        "Dinov2WithRegistersForImageClassification": "classifier",
    },
}
POOLERS = {"tanh": jnp.tanh, "gelu": encoders.ACTIVATIONS["gelu"], "relu": jax.nn.relu}


class Sizes(NamedTuple):
    """What a configuration says of the net. head: what stands behind the encoder, one
    of `CLASSES`; an encoder without its pooler is "nothing". labels: of the classes.
    pooler: activation and features of the pooler. mask_token: whether DINOv2 has one.
    registers: tokens behind the class token, without positions.
    """

    model_type: str
    blocks: encoders.BlockSizes
    image: encoders.ImageSizes
    head: str
    labels: tuple[str, ...] = ()
    pooler: tuple[str, int] = ("tanh", 0)
    mask_token: bool = False
    registers: int = 0
    scanned: bool = False

    @property
    def extra_tokens(self) -> int:
        """Tokens before the patches."""
        return 1 + self.registers


def read(config: Reader) -> Sizes:
    """The sizes of a configuration; refuses what the net does not express."""
    kind = config.get("model_type")
    config.only("qkv_bias", True)
    default = next(iter(CLASSES[kind]))
    head = encoders.read_class(config, CLASSES[kind], default)
    if kind != "vit":
        return _read_dinov2(config, kind, head)
    config.get("encoder_stride", 16)
    blocks = encoders.read_blocks(config, epsilon=1e-12)
    config.choice("pooler_act", POOLERS, "tanh")
    pooler = (
        config.get("pooler_act", "tanh"),
        config.whole("pooler_output_size", blocks.width),
    )
    if not config.flag(encoders.POOLER, True) and head == "pooler":
        head = "nothing"
    return Sizes(
        model_type=kind,
        blocks=blocks,
        image=encoders.read_image(config),
        head=head,
        labels=encoders.read_labels(config) if head == "classifier" else (),
        pooler=pooler if head == "pooler" else Sizes._field_defaults["pooler"],
    )


def _read_dinov2(config: Reader, kind: str, head: str) -> Sizes:
    has_registers = kind == "dinov2_with_registers"
    config.only("use_swiglu_ffn", False)
    config.only("apply_layernorm", True)
    # Of training (drop path, the first value of layer scales) and of a backbone.
    for key in (
        *("drop_path_rate", "layerscale_value", "reshape_hidden_states"),
        *("out_features", "out_indices", "stage_names"),
        # Of images of another size than the configuration's.
        *("interpolate_antialias", "interpolate_offset"),
    ):
        config.get(key, 0)
    hidden = config.whole("mlp_ratio", 4) * config.whole("hidden_size")
    return Sizes(
        model_type=kind,
        blocks=encoders.read_blocks(config, epsilon=1e-6, hidden_features=hidden),
        image=encoders.read_image(config),
        head=head,
        labels=encoders.read_labels(config) if head == "classifier" else (),
        mask_token=has_registers or config.flag("use_mask_token", True),
        registers=config.whole("num_register_tokens", 4) if has_registers else 0,
    )


def is_bare(sizes: Sizes) -> bool:
    """Whether it is a ViT without its pooler."""
    return sizes.model_type == "vit" and sizes.head == "nothing"


def fit(sizes: Sizes, names: Collection[str]) -> Sizes:
    """Without a pooler where the file has none (DINO)."""
    if sizes.head != "pooler" or encoders.has_pooler(names):
        return sizes
    return sizes._replace(head="nothing", pooler=Sizes._field_defaults["pooler"])


def name(sizes: Sizes) -> str:
    """The class of transformers."""
    classes = {head: name for name, head in CLASSES[sizes.model_type].items()}
    return classes.get(sizes.head, "ViTModel")


def write(sizes: Sizes) -> dict[str, Any]:
    """config.json of these sizes."""
    config = {
        "architectures": [name(sizes)],
        "model_type": sizes.model_type,
        **encoders.write_blocks(sizes.blocks),
        **encoders.write_image(sizes.image),
        "qkv_bias": True,
    }
    if sizes.model_type != "vit":
        hidden = config.pop("intermediate_size")
        config["mlp_ratio"] = hidden // sizes.blocks.width
        if sizes.registers:
            config["num_register_tokens"] = sizes.registers
        else:
            config["use_mask_token"] = sizes.mask_token
    if sizes.head == "classifier":
        config |= encoders.write_labels(sizes.labels)
    if is_bare(sizes):
        config[encoders.POOLER] = False
    if sizes.head == "pooler":
        config["pooler_act"], config["pooler_output_size"] = sizes.pooler
    return config


def make_encoder(sizes: Sizes) -> Make:
    """The encoder: patches, a class token, learned positions of both, blocks, a norm;
    DINOv2 has a mask token and LayerScale too, and may have registers."""
    blocks, dino = sizes.blocks, sizes.model_type != "vit"
    content: Make = encoders.make_patches(sizes.image, blocks.width)
    if sizes.mask_token:
        content = partial(embeddings.MaskToken, width=blocks.width, make_embed=content)
    make_norm = encoders.block_norm(blocks)
    scaled = partial(norms.ScaledNorm, make_norm=make_norm, width=blocks.width)
    embed: Make = partial(
        embeddings.PositionedEmbedding,
        make_content=partial(
            embeddings.ClassToken, width=blocks.width, make_embed=content
        ),
        make_position=partial(positions.LearnedGrid, length=sizes.image.patches + 1),
    )
    if sizes.registers:
        embed = partial(
            embeddings.RegisterTokens, sizes.registers, blocks.width, make_embed=embed
        )
    return partial(
        encoder.Encoder,
        make_embed=embed,
        make_stack=encoders.make_stack(
            blocks,
            mask=masks.full(),
            scanned=sizes.scanned,
            residual=sandwich_norm if dino else pre_norm,
            make_norm=scaled if dino else make_norm,
        ),
        make_norm=make_norm,
    )


def net(sizes: Sizes) -> Any:
    """The encoder of (raw patches, tokens), with a pooler or as a classifier. `tokens`
    are `masks.single_document` of patches and `extra_tokens`."""
    make, width = make_encoder(sizes), sizes.blocks.width
    if sizes.head == "nothing":
        return make()
    if sizes.head == "classifier":
        return encoder.Classifier(
            classes=len(sizes.labels),
            width=width if sizes.model_type == "vit" else 2 * width,
            make_encoder=make,
            pool=encoder.first_token
            if sizes.model_type == "vit"
            else partial(pooling.first_and_mean, registers=sizes.registers),
        )
    activation, features = sizes.pooler
    make_pool = partial(
        pooling.DensePooling,
        features=features,
        width=width,
        activation=POOLERS[activation],
    )
    return pooling.PooledEncoder(make_encoder=make, make_pool=make_pool)


def init(net: Any, key: jax.Array) -> Any:
    """The parameters of a net of raw patches and a class token."""
    inner = net.make_encoder() if hasattr(net, "make_encoder") else net
    return net.init(key, *encoders.empty_image(inner))["params"]


def table(sizes: Sizes) -> Table:
    """The tensors of transformers' files, in the dialect of the class."""
    kind, classify = sizes.model_type, sizes.head == "classifier"
    theirs = f"{kind}." if classify else ""
    ours = "" if sizes.head == "nothing" else "encoder/"
    layer, block = f"{theirs}encoder.layer.{{N}}.", f"{ours}stack/layers_{{N}}/"
    attend = layer + "attention."
    rules = [
        *embedding_rules(sizes, f"{theirs}embeddings.", f"{ours}embed/"),
        *encoders.attention_rules(
            *(f"{attend}attention.{one}" for one in ("query", "key", "value")),
            out=f"{attend}output.dense",
            ours=block + "attention",
        ),
        *block_rules(kind, layer, block),
        *encoders.affine(f"{theirs}layernorm", f"{ours}final_norm"),
    ]
    if classify:
        head = {"bias": "b_V", "bias_layout": "V"}
        rules += encoders.dense("classifier", "unembedding_VD", "V D", **head)
    if sizes.head == "pooler":
        head = {"bias": "pool/b_O", "bias_layout": "O"}
        rules += encoders.dense("pooler.dense", "pool/w_DO", "O D", **head)
    return Table(
        tuple(rules), sizes=sizes.image.letters(), aliases={rf"^{kind}\.": theirs}
    )


def embedding_rules(sizes: Sizes, theirs: str, ours: str) -> list[Rule]:
    """Rules of patches, class and mask tokens, and positions."""
    rules, registers = [], f"{ours}register_CD"
    if sizes.registers:
        ours += "PositionedEmbedding_0/"
        layout = {"layout": "o C D", "axes": "(o C) D"}
        rules += [Rule(f"{theirs}register_tokens", registers, **layout)]
    content = f"{ours}content/"
    mask = content + "MaskToken_0/"
    patches = (mask if sizes.mask_token else content) + "PatchEmbedding_0"
    rules += [
        Rule(f"{theirs}cls_token", content + "class_D", "o p D", axes="(o p D)"),
        Rule(
            f"{theirs}position_embeddings",
            f"{ours}position/position_LD",
            "o L D",
            axes="(o L) D",
        ),
        encoders.patch_rule(f"{theirs}patch_embeddings.projection.weight", patches),
        Rule(f"{theirs}patch_embeddings.projection.bias", patches + "/b_in_D", "D"),
    ]
    if sizes.mask_token:
        rules += [Rule(f"{theirs}mask_token", mask + "mask_D", "o D", axes="(o D)")]
    return rules


def block_rules(kind: str, layer: str, block: str) -> list[Rule]:
    """Rules of a block's norms and MLP, and of DINOv2's LayerScale."""
    if kind == "vit":
        return [
            *encoders.affine(layer + "layernorm_before", block + "attention_norm"),
            *encoders.affine(layer + "layernorm_after", block + "mlp_norm"),
            *encoders.mlp_rules(
                layer + "intermediate.dense", layer + "output.dense", ours=block + "mlp"
            ),
        ]
    attention_norm, mlp_norm = block + "attention_norm/", block + "mlp_norm/"
    return [
        *encoders.affine(layer + "norm1", attention_norm + "input"),
        *encoders.affine(layer + "norm2", mlp_norm + "input"),
        Rule(layer + "layer_scale1.lambda1", attention_norm + "scale_D", "D"),
        Rule(layer + "layer_scale2.lambda1", mlp_norm + "scale_D", "D"),
        *encoders.mlp_rules(layer + "mlp.fc1", layer + "mlp.fc2", ours=block + "mlp"),
    ]


ARCHITECTURE = Architecture(
    read=read,
    write=write,
    net=net,
    init=init,
    table=table,
    name=name,
    notes=lambda sizes: encoders.pooler_notes(name(sizes)) if is_bare(sizes) else (),
    fit=fit,
)
