"""BERT, RoBERTa and XLM-RoBERTa: post-norm blocks, learned positions, token types; as
an encoder with a pooler, as a masked language model, or as a classifier of texts.

Devlin et al. 2018, arXiv 1810.04805; Liu et al. 2019, arXiv 1907.11692 (positions begin
after the padding's id); Conneau et al. 2019, arXiv 1911.02116.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any, NamedTuple

from transformer.interchange.architecture import Architecture
from transformer.interchange.architectures import encoders
from transformer.interchange.config import Reader
from transformer.interchange.table import Rule, Table
from transformer.models import bert, encoder, pooling
from transformer.network import embeddings, masks, norms, positions
from transformer.network.block import Make, post_norm

CLASSES = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta"}


# Of multilingual BERT; no class of transformers reads them.
UNUSED = (
    *("directionality", "pooler_fc_size", "pooler_num_attention_heads"),
    *("pooler_num_fc_layers", "pooler_size_per_head", "pooler_type"),
)


class Sizes(NamedTuple):
    """What a configuration says of the net. kinds: of tokens. length: rows of the
    table of positions. padding: its id. readout: a masked language model, not an
    encoder. pooled: an encoder whose file has a pooler, which its tensors say.
    labels: of the classes of a classifier, else none.
    """

    model_type: str
    blocks: encoders.BlockSizes
    vocab_size: int
    kinds: int
    length: int
    padding: int
    readout: bool
    pooled: bool = True
    labels: tuple[str, ...] = ()
    scanned: bool = False

    @property
    def offset(self) -> int:
        """The row of position 0 in the table of positions."""
        return 0 if self.model_type == "bert" else self.padding + 1


def read(config: Reader) -> Sizes:
    """The sizes of a configuration; refuses what the net does not express."""
    kind = config.get("model_type")
    name = CLASSES[kind]
    suffixes = ("Model", "ForMaskedLM", encoders.CLASSIFIER)
    head = encoders.read_class(
        config, {name + suffix: suffix for suffix in suffixes}, f"{name}Model"
    )
    config.only("is_decoder", False)
    config.only("add_cross_attention", False)
    config.only("position_embedding_type", "absolute")
    config.only("tie_word_embeddings", True)
    for key in UNUSED:
        config.get(key, 0)
    return Sizes(
        model_type=kind,
        blocks=encoders.read_blocks(config, epsilon=1e-12),
        vocab_size=config.whole("vocab_size"),
        kinds=config.whole("type_vocab_size", 2),
        length=config.whole("max_position_embeddings", 512),
        padding=config.whole("pad_token_id", 0 if kind == "bert" else 1, least=0),
        readout=head == "ForMaskedLM",
        labels=encoders.read_text_labels(config, head),
        pooled=config.flag(encoders.POOLER, True) or head != "Model",
    )


def is_bare(sizes: Sizes) -> bool:
    """Whether it is an encoder without a pooler."""
    return not (sizes.pooled or sizes.readout or sizes.labels)


def fit(sizes: Sizes, names: Collection[str]) -> Sizes:
    """With a pooler, if it is an encoder, where the file has one."""
    if sizes.readout or sizes.labels:
        return sizes
    return sizes._replace(pooled=encoders.has_pooler(names))


def name(sizes: Sizes) -> str:
    """The class of transformers."""
    suffix = "ForMaskedLM" if sizes.readout else "Model"
    suffix = encoders.CLASSIFIER if sizes.labels else suffix
    return CLASSES[sizes.model_type] + suffix


def write(sizes: Sizes) -> dict[str, Any]:
    """config.json of these sizes."""
    return {
        "architectures": [name(sizes)],
        "model_type": sizes.model_type,
        "vocab_size": sizes.vocab_size,
        "type_vocab_size": sizes.kinds,
        "max_position_embeddings": sizes.length,
        "pad_token_id": sizes.padding,
        **encoders.write_blocks(sizes.blocks),
        **(encoders.write_labels(sizes.labels) if sizes.labels else {}),
        **({encoders.POOLER: False} if is_bare(sizes) else {}),
    }


def make_encoder(
    blocks: encoders.BlockSizes,
    *,
    vocab_size: int,
    kinds: int,
    length: int,
    offset: int = 0,
    scanned: bool = False,
) -> Make:
    """The encoder: tables of ids, kinds and positions, a norm, post-norm blocks."""
    return partial(
        encoder.Encoder,
        make_embed=partial(
            embeddings.PositionedEmbedding,
            make_content=partial(
                embeddings.AdditiveEmbedding,
                vocab_size=vocab_size,
                kinds=kinds,
                width=blocks.width,
            ),
            make_position=partial(positions.Learned, length=length, offset=offset),
            make_norm=encoders.block_norm(blocks),
        ),
        make_stack=encoders.make_stack(
            blocks, mask=masks.segments(), scanned=scanned, residual=post_norm
        ),
        make_norm=norms.Identity,
    )


def readout(blocks: encoders.BlockSizes, vocab_size: int, inner: Make) -> Any:
    """The masked language model of the encoder `inner`."""
    return bert.TiedMaskedLM(
        vocab_size=vocab_size,
        make_encoder=inner,
        make_transform=partial(
            bert.FeatureTransform,
            width=blocks.width,
            activation=encoders.ACTIVATIONS[blocks.activation],
            make_norm=encoders.block_norm(blocks),
        ),
    )


def net(sizes: Sizes) -> Any:
    """The encoder, with its pooler, as a masked language model or as a classifier."""
    width = sizes.blocks.width
    make = make_encoder(
        sizes.blocks,
        vocab_size=sizes.vocab_size,
        kinds=sizes.kinds,
        length=sizes.length,
        offset=sizes.offset,
        scanned=sizes.scanned,
    )
    if sizes.readout:
        # RoBERTa's head has gelu whatever the blocks have.
        roberta = sizes.model_type != "bert"
        head = sizes.blocks._replace(activation="gelu") if roberta else sizes.blocks
        return readout(head, sizes.vocab_size, make)
    make_pool = partial(pooling.DensePooling, features=width, width=width)
    if sizes.labels:
        return pooling.classifier(make, make_pool, width, len(sizes.labels))
    if is_bare(sizes):
        return make()
    return pooling.PooledEncoder(make_encoder=make, make_pool=make_pool)


def table(sizes: Sizes) -> Table:
    """The tensors of transformers' files, in the dialect of the class."""
    family = "bert" if sizes.model_type == "bert" else "roberta"
    theirs = f"{family}." if sizes.readout or sizes.labels else ""
    ours = "" if is_bare(sizes) else "encoder/"
    ours = "encoder/encoder/" if sizes.labels else ours
    rules = [*encoder_rules(theirs, ours)]
    if sizes.labels:
        rules += encoders.classifier_rules(*CLASSIFIERS[family])
    elif sizes.readout:
        rules += MASKED_LM[family]
    elif sizes.pooled:
        rules += encoders.dense(
            "pooler.dense", "pool/w_DO", "O D", bias="pool/b_O", bias_layout="O"
        )
    unused = "not used by a masked language model"
    return Table(
        tuple(rules),
        ignored={
            rf"{family}\.pooler\.dense\.(weight|bias)": unused,
            r"cls\.seq_relationship\.(weight|bias)": unused,
            r"(.*\.)?embeddings\.position_ids": "counted here",
        }
        if sizes.readout
        else {r"(.*\.)?embeddings\.position_ids": "counted here"},
        tied=TIED[family] if sizes.readout else {},
        aliases={
            rf"^{family}\.": theirs,
            r"LayerNorm\.gamma$": "LayerNorm.weight",
            r"LayerNorm\.beta$": "LayerNorm.bias",
        },
    )


def encoder_rules(theirs: str, ours: str) -> list[Rule]:
    """Rules of the encoder at `ours`; theirs: the prefix of its tensors."""
    block, layer = f"{ours}stack/layers_{{N}}/", f"{theirs}encoder.layer.{{N}}."
    attend = layer + "attention."
    return [
        *embedding_rules(f"{theirs}embeddings.", f"{ours}embed/"),
        Rule(
            f"{theirs}embeddings.token_type_embeddings.weight",
            f"{ours}embed/content/kind_AD",
            "A D",
        ),
        *encoders.attention_rules(
            *(f"{attend}self.{one}" for one in ("query", "key", "value")),
            out=f"{attend}output.dense",
            ours=block + "attention",
        ),
        *encoders.affine(f"{attend}output.LayerNorm", block + "attention_norm"),
        *encoders.mlp_rules(
            layer + "intermediate.dense", layer + "output.dense", ours=block + "mlp"
        ),
        *encoders.affine(layer + "output.LayerNorm", block + "mlp_norm"),
    ]


def embedding_rules(theirs: str, ours: str) -> list[Rule]:
    """Rules of the tables of ids and positions and of the norm behind them."""
    return [
        Rule(f"{theirs}word_embeddings.weight", f"{ours}content/embedding_VD", "V D"),
        Rule(
            f"{theirs}position_embeddings.weight", f"{ours}position/position_LD", "L D"
        ),
        *encoders.affine(f"{theirs}LayerNorm", f"{ours}norm"),
    ]


def head_rules(dense: str, norm: str, bias: str) -> list[Rule]:
    """Rules of a masked language model's transform and bias."""
    return [
        *encoders.dense(
            dense, "transform/w_DO", "O D", bias="transform/b_O", bias_layout="O"
        ),
        *encoders.affine(norm, "transform/norm"),
        Rule(bias, "b_V", "V"),
    ]


PREDICTIONS = "cls.predictions."
MASKED_LM = {
    "bert": head_rules(
        PREDICTIONS + "transform.dense",
        PREDICTIONS + "transform.LayerNorm",
        PREDICTIONS + "bias",
    ),
    "roberta": head_rules("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
}
# The pooler and the readout of a classifier.
CLASSIFIERS = {
    "bert": ("bert.pooler.dense", "classifier"),
    "roberta": ("classifier.dense", "classifier.out_proj"),
}
TIED = {
    "bert": {
        PREDICTIONS + "decoder.weight": "bert.embeddings.word_embeddings.weight",
        PREDICTIONS + "decoder.bias": PREDICTIONS + "bias",
    },
    "roberta": {
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
}

ARCHITECTURE = Architecture(
    read=read,
    write=write,
    net=net,
    init=encoders.init_text,
    table=table,
    name=name,
    notes=lambda sizes: encoders.pooler_notes(name(sizes)) if is_bare(sizes) else (),
    fit=fit,
)
