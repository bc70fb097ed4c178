"""DistilBERT (Sanh et al. 2019, arXiv 1910.01108): BERT without token types and
pooler."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from transformer.interchange.architecture import Architecture
from transformer.interchange.architectures import bert, encoders
from transformer.interchange.config import Reader
from transformer.interchange.table import Table
from transformer.models import pooling
from transformer.network import mlp

CLASSES = {
    "DistilBertModel": "nothing",
    "DistilBertForMaskedLM": "readout",
    f"DistilBert{encoders.CLASSIFIER}": encoders.CLASSIFIER,
}


class Sizes(NamedTuple):
    """What a configuration says of the net. readout: a masked language model.
    labels: of the classes of a classifier, else none."""

    blocks: encoders.BlockSizes
    vocab_size: int
    length: int
    readout: bool
    labels: tuple[str, ...] = ()
    scanned: bool = False


def read(config: Reader) -> Sizes:
    """The sizes of a configuration; refuses what the net does not express."""
    config.only("sinusoidal_pos_embds", False)
    config.only("tie_word_embeddings", True)
    config.only("tie_weights_", True)
    for key in ("dropout", "qa_dropout", "seq_classif_dropout"):
        config.get(key, 0.0)
    config.choice("activation", encoders.ACTIVATIONS, "gelu")
    width, heads = config.whole("dim", 768), config.whole("n_heads", 12)
    if width % heads:
        raise config.error("n_heads", f"a divisor of {width}")
    head = encoders.read_class(config, CLASSES, "DistilBertModel")
    return Sizes(
        blocks=encoders.BlockSizes(
            width=width,
            hidden_features=config.whole("hidden_dim", 3072),
            depth=config.whole("n_layers", 6),
            heads=heads,
            epsilon=1e-12,
            activation=config.get("activation", "gelu"),
        ),
        vocab_size=config.whole("vocab_size"),
        length=config.whole("max_position_embeddings", 512),
        readout=head == "readout",
        labels=encoders.read_text_labels(config, head),
    )


def name(sizes: Sizes) -> str:
    """The class of transformers."""
    head = "readout" if sizes.readout else "nothing"
    head = encoders.CLASSIFIER if sizes.labels else head
    return next(name for name, of_class in CLASSES.items() if of_class == head)


def write(sizes: Sizes) -> dict[str, Any]:
    """config.json of these sizes."""
    return {
        "architectures": [name(sizes)],
        "model_type": "distilbert",
        "vocab_size": sizes.vocab_size,
        "max_position_embeddings": sizes.length,
        "dim": sizes.blocks.width,
        "hidden_dim": sizes.blocks.hidden_features,
        "n_layers": sizes.blocks.depth,
        "n_heads": sizes.blocks.heads,
        "activation": sizes.blocks.activation,
        **(encoders.write_labels(sizes.labels) if sizes.labels else {}),
    }


def net(sizes: Sizes) -> Any:
    """The encoder, the masked language model, or the classifier."""
    make = bert.make_encoder(
        sizes.blocks,
        vocab_size=sizes.vocab_size,
        kinds=0,
        length=sizes.length,
        scanned=sizes.scanned,
    )
    if sizes.labels:
        width = sizes.blocks.width
        make_pool = partial(
            pooling.DensePooling, features=width, width=width, activation=mlp.relu
        )
        return pooling.classifier(make, make_pool, width, len(sizes.labels))
    return (
        bert.readout(sizes.blocks, sizes.vocab_size, make) if sizes.readout else make()
    )


def table(sizes: Sizes) -> Table:
    """The tensors of transformers' files."""
    theirs = "distilbert." if sizes.readout or sizes.labels else ""
    ours = "encoder/" if sizes.readout else ""
    ours = "encoder/encoder/" if sizes.labels else ours
    layer, block = f"{theirs}transformer.layer.{{N}}.", f"{ours}stack/layers_{{N}}/"
    rules = [
        *bert.embedding_rules(f"{theirs}embeddings.", f"{ours}embed/"),
        *encoders.attention_rules(
            *(f"{layer}attention.{one}" for one in ("q_lin", "k_lin", "v_lin")),
            out=f"{layer}attention.out_lin",
            ours=block + "attention",
        ),
        *encoders.affine(layer + "sa_layer_norm", block + "attention_norm"),
        *encoders.mlp_rules(layer + "ffn.lin1", layer + "ffn.lin2", ours=block + "mlp"),
        *encoders.affine(layer + "output_layer_norm", block + "mlp_norm"),
    ]
    word = "distilbert.embeddings.word_embeddings.weight"
    if sizes.labels:
        rules += encoders.classifier_rules("pre_classifier", "classifier")
    if sizes.readout:
        rules += bert.head_rules(
            "vocab_transform", "vocab_layer_norm", "vocab_projector.bias"
        )
    return Table(
        tuple(rules),
        tied={"vocab_projector.weight": word} if sizes.readout else {},
        aliases={r"^distilbert\.": theirs},
    )


ARCHITECTURE = Architecture(
    read=read,
    write=write,
    net=net,
    init=encoders.init_text,
    table=table,
    name=name,
)
