"""DiT (Peebles and Xie 2022, arXiv 2212.09748) in the files of diffusers:
`DiTTransformer2DModel`, or `Transformer2DModel` with `ada_norm_zero` of older ones.

Latent images have the size of the configuration. The published models predict the noise
and, in the second half of the output channels, its variance. Files have the embedding
of timestep and class in each block, copies of one: others are refused.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax

from transformer.interchange.architecture import Architecture, FolderFormat
from transformer.interchange.architectures import decoders, encoders
from transformer.interchange.config import Reader
from transformer.interchange.table import Rule, Table
from transformer.models import dit
from transformer.network import biases, embeddings, masks, norms, positions, stack
from transformer.network.block import Block, Make, adaln_zero

NAME = "DiTTransformer2DModel"
# Whose files an export equals.
VERSION = "0.42.1"
ACTIVATIONS = {"gelu-approximate": "gelu_new", "gelu": "gelu"}
# What the older class has beside, at values that mean that it is not used.
UNUSED: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("only_cross_attention", "double_self_attention"), (False,)),
    **dict.fromkeys(("use_linear_projection", "norm_elementwise_affine"), (False,)),
    **dict.fromkeys(("cross_attention_dim", "num_vector_embeds"), ()),
    **{
        "caption_channels": (),
        "interpolation_scale": (),
        "attention_type": ("default",),
    },
    "norm_type": ("ada_norm_zero",),
}
HARMLESS = (
    *("_class_name", "_diffusers_version", "dropout", "norm_num_groups"),
    *("upcast_attention", "_use_default_values"),
)


class Sizes(NamedTuple):
    """What a configuration says of the net. image: of the latents. biased: queries,
    keys and values. epsilon: of the norms before MLPs."""

    image: encoders.ImageSizes
    output_channels: int
    classes: int
    depth: int
    heads: int
    head_features: int
    activation: str
    biased: bool
    epsilon: float
    scanned: bool = False

    @property
    def width(self) -> int:
        """The features of a token."""
        return self.heads * self.head_features

    @property
    def hidden_features(self) -> int:
        """Of the MLPs."""
        return 4 * self.width


def read(config: Reader) -> Sizes:
    """The sizes of a configuration; refuses what the net does not express."""
    for key, values in UNUSED.items():
        config.only(key, *values)
    for key in HARMLESS:
        config.get(key, 0)
    side, patch = config.whole("sample_size", 32), config.whole("patch_size", 2)
    if side % patch:
        raise config.error("sample_size", f"a multiple of patch_size = {patch}")
    heads = config.whole("num_attention_heads", 16)
    head_features = config.whole("attention_head_dim", 72)
    if heads * head_features % 4:
        raise config.error("attention_head_dim", "a width that is a multiple of 4")
    channels = config.whole("in_channels", 4)
    return Sizes(
        image=encoders.ImageSizes(side, patch, channels),
        output_channels=config.whole("out_channels", channels),
        classes=config.whole("num_embeds_ada_norm", 1000),
        depth=config.whole("num_layers", 28),
        heads=heads,
        head_features=head_features,
        activation=config.choice("activation_fn", ACTIVATIONS, "gelu-approximate"),
        biased=config.flag("attention_bias", True),
        epsilon=config.positive("norm_eps", 1e-5),
    )


def write(sizes: Sizes) -> dict[str, Any]:
    """config.json of these sizes."""
    theirs = {ours: name for name, ours in ACTIVATIONS.items()}
    return {
        "_class_name": NAME,
        "_diffusers_version": VERSION,
        "sample_size": sizes.image.side,
        "patch_size": sizes.image.patch,
        "in_channels": sizes.image.channels,
        "out_channels": sizes.output_channels,
        "num_embeds_ada_norm": sizes.classes,
        "num_layers": sizes.depth,
        "num_attention_heads": sizes.heads,
        "attention_head_dim": sizes.head_features,
        "activation_fn": theirs[sizes.activation],
        "attention_bias": sizes.biased,
        "norm_eps": sizes.epsilon,
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
    }


def net(sizes: Sizes) -> dit.DiT:
    """The DiT of (raw patches, timesteps from 0 to 999, labels, tokens); its output are
    raw patches of the output channels."""
    width = sizes.width
    side = sizes.image.side // sizes.image.patch
    table = positions.grid_sinusoids(side)
    only_output = biases.zero_init_bias_of("b_o_D")

    def make_norm(epsilon: float) -> Make:
        return partial(norms.AdaLNZero, width, width, epsilon)

    slots: dict[str, Any] = {
        "make_attention": decoders.attention(
            sizes,
            mask=masks.full(),
            make_bias=biases.zero_init_bias if sizes.biased else only_output,
        ),
        "make_mlp": decoders.mlp(sizes, make_bias=biases.zero_init_bias),
        "make_norm": make_norm(sizes.epsilon),
        "make_attention_norm": make_norm(1e-6),
        "residual": adaln_zero,
    }
    return dit.DiT(
        output_features=sizes.image.patch**2 * sizes.output_channels,
        width=width,
        make_condition=partial(dit.TimestepConditioning, sizes.classes, width),
        make_embed=partial(
            embeddings.PatchEmbedding,
            features=sizes.image.features,
            width=width,
            make_position=partial(positions.FixedGrid, side * side, table),
        ),
        make_stack=partial(
            stack.ScannedStack if sizes.scanned else stack.UnrolledStack,
            depth=sizes.depth,
            make_block=lambda block, layer: block(**slots),
            block=Block,
        ),
    )


def init(net: dit.DiT, key: jax.Array) -> Any:
    """The parameters."""
    embed: Any = net.make_embed()
    shape = 1, embed.make_position().length, embed.features
    return dit.init_params(net, key, like=jax.ShapeDtypeStruct(shape, "float32"))


def table(sizes: Sizes) -> Table:
    """The tensors of diffusers' files."""
    layer, block = "transformer_blocks.{N}.", "stack/layers_{N}/"
    maps = [
        f"{block}{norm}/{part}"
        for norm in ("attention_norm", "mlp_norm")
        for part in ("norm/bias", "norm/gain", "gate_map")
    ]
    six = "(D + D + D + D + D + D)"
    condition = {
        "timestep_embedder.linear_1.weight": ("w_in_PJ", "J P"),
        "timestep_embedder.linear_1.bias": ("b_in_J", "J"),
        "timestep_embedder.linear_2.weight": ("w_out_JO", "O J"),
        "timestep_embedder.linear_2.bias": ("b_out_O", "O"),
        "class_embedder.embedding_table.weight": ("embedding_VJ", "V J"),
    }
    first, embedded = "transformer_blocks.0.norm1.emb.", layer + "norm1.emb."
    rules = [
        encoders.patch_rule("pos_embed.proj.weight", "embed"),
        Rule("pos_embed.proj.bias", "embed/b_in_D", "D"),
        *(
            Rule(first + theirs, f"condition/{ours}", layout)
            for theirs, (ours, layout) in condition.items()
        ),
        Rule(
            layer + "norm1.linear.weight", tuple(f"{m}/w_JD" for m in maps), f"{six} J"
        ),
        Rule(layer + "norm1.linear.bias", tuple(f"{m}/b_D" for m in maps), six),
        *_attention_rules(layer + "attn1.", block + "attention", sizes.biased),
        *encoders.mlp_rules(
            layer + "ff.net.0.proj", layer + "ff.net.2", ours=block + "mlp"
        ),
        Rule(
            "proj_out_1.weight",
            ("final_norm/bias/w_JD", "final_norm/gain/w_JD"),
            "(D + D) J",
        ),
        Rule(
            "proj_out_1.bias", ("final_norm/bias/b_D", "final_norm/gain/b_D"), "(D + D)"
        ),
        Rule("proj_out_2.weight", "w_out_DP", "P D"),
        Rule("proj_out_2.bias", "b_out_P", "P"),
    ]
    copies = {
        embedded.replace("{N}", str(i)) + name: first + name
        for i in range(1, sizes.depth)
        for name in condition
    }
    return Table(tuple(rules), sizes=sizes.image.letters(), copies=copies)


def _attention_rules(theirs: str, ours: str, biased: bool) -> list[Rule]:
    query, key, value = (f"{theirs}to_{one}" for one in "qkv")
    out = f"{theirs}to_out.0"
    rules = encoders.attention_rules(query, key, value, out, ours=ours)
    unbiased = {f"{name}.bias" for name in (query, key, value)}
    return [rule for rule in rules if biased or rule.theirs not in unbiased]


ARCHITECTURE = Architecture(
    read=read,
    write=write,
    net=net,
    init=init,
    table=table,
    name=lambda sizes: NAME,
    format=FolderFormat(stem="diffusion_pytorch_model", common_keys=False),
)
