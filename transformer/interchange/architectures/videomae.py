"""VideoMAE (Tong et al. 2022, arXiv 2203.12602): an encoder of tubelets, or a
classifier of videos.

Videos have the size of the configuration. The model of pretraining, with its decoder of
masked tubelets, is refused by its name.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from transformer.interchange.architecture import Architecture
from transformer.interchange.architectures import encoders
from transformer.interchange.config import Reader
from transformer.interchange.table import Rule, Table
from transformer.models import encoder, pooling
from transformer.network import biases, embeddings, masks, norms, positions
from transformer.network.block import Make

CLASSES = {"VideoMAEModel": "nothing", "VideoMAEForVideoClassification": "classifier"}
# All maps of attention but that of keys.
BIASED = biases.zero_init_bias_of("b_q_HK", "b_v_GK", "b_o_D")
UNBIASED = biases.zero_init_bias_of("b_o_D")


class Sizes(NamedTuple):
    """What a configuration says of the net. frames: of a video; tubelet: frames of one.
    head: one of `CLASSES`. mean: the features that the classifier sees are the mean,
    with a norm, instead of the first tubelet's. biased: queries and values."""

    blocks: encoders.BlockSizes
    image: encoders.ImageSizes
    frames: int
    tubelet: int
    head: str
    mean: bool
    biased: bool
    labels: tuple[str, ...] = ()
    scanned: bool = False

    @property
    def length(self) -> int:
        """The number of tubelets of a video."""
        return self.frames // self.tubelet * self.image.patches


def read(config: Reader) -> Sizes:
    """The sizes of a configuration; refuses what the net does not express."""
    head = encoders.read_class(config, CLASSES, "VideoMAEModel")
    frames, tubelet = config.whole("num_frames", 16), config.whole("tubelet_size", 2)
    if frames % tubelet:
        raise config.error("num_frames", f"a multiple of tubelet_size = {tubelet}")
    # Of the decoder of pretraining, which no class here has.
    for key in ("num_attention_heads", "hidden_size", "num_hidden_layers"):
        config.get(f"decoder_{key}", 0)
    config.get("decoder_intermediate_size", 0)
    config.get("norm_pix_loss", True)
    return Sizes(
        blocks=encoders.read_blocks(config, epsilon=1e-12),
        image=encoders.read_image(config),
        frames=frames,
        tubelet=tubelet,
        head=head,
        mean=config.flag("use_mean_pooling", True),
        # The older name.
        biased=config.flag("qkv_bias", config.flag("qv_bias", True)),
        labels=encoders.read_labels(config) if head == "classifier" else (),
    )


def name(sizes: Sizes) -> str:
    """The class of transformers."""
    return {head: name for name, head in CLASSES.items()}[sizes.head]


def write(sizes: Sizes) -> dict[str, Any]:
    """config.json of these sizes."""
    labels = encoders.write_labels(sizes.labels) if sizes.labels else {}
    return {
        "architectures": [name(sizes)],
        "model_type": "videomae",
        **encoders.write_blocks(sizes.blocks),
        **encoders.write_image(sizes.image),
        **labels,
        "num_frames": sizes.frames,
        "tubelet_size": sizes.tubelet,
        "use_mean_pooling": sizes.mean,
        "qv_bias": sizes.biased,
    }


def make_encoder(sizes: Sizes) -> Make:
    """The encoder: tubelets, fixed sines of their number, blocks; and a norm, unless it
    is of the mean."""
    blocks, table = sizes.blocks, positions.interleaved_sinusoids(sizes.length)
    return partial(
        encoder.Encoder,
        make_embed=partial(
            embeddings.PatchEmbedding,
            features=sizes.tubelet * sizes.image.features,
            width=blocks.width,
            make_position=partial(positions.FixedGrid, sizes.length, table),
        ),
        make_stack=encoders.make_stack(
            blocks,
            mask=masks.full(),
            scanned=sizes.scanned,
            make_bias=BIASED if sizes.biased else UNBIASED,
        ),
        make_norm=norms.Identity if sizes.mean else encoders.block_norm(blocks),
    )


def net(sizes: Sizes) -> Any:
    """The encoder or classifier of (raw tubelets, tokens): `patches.patchify` of frames
    x rows x columns, and `masks.single_document` of as many tokens."""
    if sizes.head == "nothing":
        return make_encoder(sizes)()
    return encoder.Classifier(
        classes=len(sizes.labels),
        width=sizes.blocks.width,
        make_encoder=make_encoder(sizes),
        # The norm's epsilon is not that of the configuration.
        pool=pooling.NormPooling() if sizes.mean else encoder.first_token,
    )


def init(net: Any, key: jax.Array) -> Any:
    """The parameters of a net."""
    inner = net.make_encoder() if hasattr(net, "make_encoder") else net
    embed = inner.make_embed()
    length = embed.make_position().length
    raw_BLP = jnp.zeros((1, length, embed.features))
    return net.init(key, raw_BLP, masks.single_document(length))["params"]


def table(sizes: Sizes) -> Table:
    """The tensors of transformers' files. In memory, `q_bias` is `query.bias` there."""
    classify = sizes.head == "classifier"
    theirs, ours = ("videomae.", "encoder/") if classify else ("", "")
    layer, block = f"{theirs}encoder.layer.{{N}}.", f"{ours}stack/layers_{{N}}/"
    attend, own = layer + "attention.attention.", block + "attention/"
    patch, raw = f"{theirs}embeddings.patch_embeddings.projection", f"{ours}embed/"
    rules = [
        Rule(f"{patch}.weight", raw + "w_in_PD", "D c t y x", axes="(t y x c) D"),
        Rule(f"{patch}.bias", raw + "b_in_D", "D"),
        Rule(attend + "query.weight", own + "w_q_DHK", "(H K) D"),
        Rule(attend + "key.weight", own + "w_k_DGK", "(G K) D"),
        Rule(attend + "value.weight", own + "w_v_DGK", "(G K) D"),
        Rule(layer + "attention.output.dense.weight", own + "w_o_HKD", "D (H K)"),
        Rule(layer + "attention.output.dense.bias", own + "b_o_D", "D"),
        *encoders.affine(layer + "layernorm_before", block + "attention_norm"),
        *encoders.affine(layer + "layernorm_after", block + "mlp_norm"),
        *encoders.mlp_rules(
            layer + "intermediate.dense", layer + "output.dense", ours=block + "mlp"
        ),
    ]
    if sizes.biased:
        rules += [
            Rule(attend + "q_bias", own + "b_q_HK", "(H K)"),
            Rule(attend + "v_bias", own + "b_v_GK", "(G K)"),
        ]
    if not sizes.mean:
        rules += encoders.affine(f"{theirs}layernorm", f"{ours}final_norm")
    if classify:
        head = {"bias": "b_V", "bias_layout": "V"}
        rules += encoders.dense("classifier", "unembedding_VD", "V D", **head)
        if sizes.mean:
            rules += encoders.affine("fc_norm", "pool/norm")
    in_memory = r"(attention\.attention)\.(q|v)(?:uery|alue)\.bias$"
    return Table(
        tuple(rules),
        sizes={**sizes.image.letters(), "t": sizes.tubelet},
        aliases={r"^videomae\.": theirs, in_memory: r"\1.\2_bias"},
    )


ARCHITECTURE = Architecture(
    read=read, write=write, net=net, init=init, table=table, name=name
)
