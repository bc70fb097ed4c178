"""What does a small transformer learn of Jane Austen's English in five minutes?

    python -m experiments.language_model
    python -m experiments.language_model generate --prompt="It is a truth"

Trained on five novels, validated on all of *Emma*: 1.667 bits per byte in 2 min 28 s
on two cores with AMX (266 s of CPU time), in 4 min 25 s with AVX2 alone. Baseline:
`xz -9`, 2.31; a pretrained model of 135 M parameters reaches 1.22. More: LOG.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import jax

from transformer import checks, main
from transformer.data.sources import text as text_source
from transformer.data.text import packing, tokenizers
from transformer.generation import text_model
from transformer.models import decoder
from transformer.network import masks, precision
from transformer.objectives import cross_entropy
from transformer.objectives.loss import Loss
from transformer.training import optimizers
from transformer.training.declaration import declare
from transformer.training.experiment import Evaluation, Experiment, Optimizer, Run


def report(model: text_model.TextModel, params: Any, key: jax.Array) -> dict[str, Any]:
    """Continuations of a few openings."""
    from experiments.reports import language_model

    return {"samples.txt": language_model.samples(model, params, key)}


def benchmark_decoding(model: text_model.TextModel, params: Any) -> dict[str, float]:
    """Tokens decoded per second, and the limit by memory bandwidth."""
    from experiments.reports import language_model

    return language_model.measure_decoding(model, params)


@declare(steps=900, batch_size=8)
def experiment(
    run: Run,
    model: Callable[..., Any] = decoder.language_model,
    optimizer: Optimizer = optimizers.muon_wsd,
    make_tokenizer: Callable[..., Any] = tokenizers.for_text,
    *,
    depth: checks.Depth = 3,
    text: checks.Source = "austen",
    text_column: checks.Source = text_source.COLUMN,
    tokenizer: Annotated[Literal["bpe", "characters", "bytes"], checks.FIXED] = "bpe",
    vocab_size: checks.VocabSize = 2048,
    sequence_length: checks.SequenceLength = 256,
    layers: Annotated[decoder.Layers, checks.FIXED] = "auto",
    remat: decoder.Saved = "auto",
) -> Experiment:
    """A decoder language model of a text; slot `model` takes `depth`, `vocab_size`.

    Args:
        depth: blocks, and heads; the width is 64 times as much.
        text: a shipped text, a TFDS name, a file or folder of text or tables (.jsonl,
            .csv, .tsv, .parquet, also .gz, .zst), or several, as a:0.7,b:0.3.
        text_column: of a table, its column of texts.
        tokenizer: byte-level BPE trained on the text, its characters, or bytes.
        vocab_size: tokens of the BPE.
        sequence_length: tokens of a row.
        layers: unrolled or scanned; auto scans from 12 blocks on.
        remat: what the backward pass computes again; auto none below 12 blocks.
    """
    documents = text_source.load(text, column=text_column)
    how: Any = {"vocab_size": vocab_size, "folder": run.workdir}
    text_tokenizer = make_tokenizer(tokenizer, documents, **how)
    net = model(depth=depth, vocab_size=text_tokenizer.vocab_size)
    net = decoder.compile_layers(net, layers=layers, remat=remat)
    sizes: Any = {"length": sequence_length, "batch_size": run.batch_size}
    train = packing.training(documents, text_tokenizer, **sizes, seed=run.seed)
    packing.require_text_targets(documents, text_tokenizer)
    held_out = packing.validation(documents, text_tokenizer, **sizes)
    dtype = run.compute_dtype

    def loss(params: Any, batch: dict[str, jax.Array], key: jax.Array) -> Loss:
        positions = masks.packed(batch["segment_BL"], batch["position_BL"])
        weights = precision.cast_weights(params, dtype)
        x_BLD, w_VD = net.apply({"params": weights}, batch["ids_BL"], positions)
        targets = batch["targets_BL"], batch["weight_BL"]
        nats = cross_entropy.fused_cross_entropy(x_BLD, w_VD, *targets, chunks=2)
        return cross_entropy.add_byte_count(nats, *targets, text_tokenizer.bytes_V)

    rows: Any = {"sequence_length": sequence_length, "compute_dtype": dtype}
    generator = text_model.from_net(net, text_tokenizer, **rows)
    made = Experiment.from_run(
        run,
        optimizer,
        (train, held_out),
        fingerprint=f"decoder of depth {depth}, {text_tokenizer.vocab_size} tokens",
        init=partial(decoder.init_params, net),
        loss=loss,
        metrics=cross_entropy.token_metrics,
        report=partial(report, generator),
        generate=partial(text_model.generate, generator),
        benchmarks={"decode": partial(benchmark_decoding, generator)},
        extra_files={"tokenizer.json": text_tokenizer.to_bytes()},
        tokens_per_row=sequence_length,
        net=net,
        tokenizer=text_tokenizer,
        data=documents,
    )
    parts = packing.part_validations(documents, text_tokenizer, **sizes).items()
    named = {n: Evaluation.from_split(rows, loss, made.metrics) for n, rows in parts}
    return made._replace(evaluations={**made.evaluations, **named})


if __name__ == "__main__":
    main.main(experiment, generate=text_model.generate)
