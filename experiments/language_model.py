"""What does a small transformer learn of Jane Austen's English in five minutes?

    python -m experiments.language_model
    python -m experiments.language_model generate --prompt="It is a truth"

Trained on five novels, validated on all of *Emma*: 1.667 bits per byte in 2 min 28 s
on two cores with AMX (266 s of CPU time), in 4 min 25 s with AVX2 alone. Baseline:
`xz -9`, 2.31; SmolLM2 of 135 M parameters has 1.335. More: LOG.md.
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
from transformer.training import optimizers, scaling
from transformer.training.declaration import declare
from transformer.training.experiment import Experiment, Optimizer, Run


def study() -> Any:
    """What is made once, at the end of a run, and imported then."""
    from experiments.reports import language_model

    return language_model


@declare(scale=scaling.scale, earlier=scaling.earlier_flags)
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
    width: checks.Width | None = None,
    heads: checks.FixedCount | None = None,
    kv_heads: checks.FixedCount | None = None,
    sequence_length: checks.SequenceLength | None = None,
    chunks: checks.Count | None = None,
    accumulate: checks.Count | None = None,
    layers: Annotated[decoder.Layers, checks.FIXED] = "auto",
    remat: decoder.Saved = "auto",
) -> Experiment:
    """A decoder language model of a text; the slot `model` takes the sizes of a net.

    Args:
        depth: blocks; all sizes that are not given are derived from it.
        text: a shipped, prepared or TFDS text, a file or folder of text or tables
            (.jsonl, .csv, .tsv, .parquet, also .gz), or several, as a:0.7,b:0.3.
        text_column: of a table, its column of texts.
        tokenizer: byte-level BPE trained on the text, its characters, or bytes.
        vocab_size: tokens of the BPE.
        accumulate: microbatches of a step; as few as a device can hold, if not given.
        layers: unrolled or scanned; auto scans from 12 blocks on.
        remat: what the backward pass computes again; auto as little as fits.
    """
    documents = text_source.load(text, column=text_column)
    how: Any = {"vocab_size": vocab_size, "folder": run.workdir}
    text_tokenizer = make_tokenizer(tokenizer, documents, **how)
    sizes: Any = {"width": width, "heads": heads, "kv_heads": kv_heads}
    net = model(depth=depth, vocab_size=text_tokenizer.vocab_size, **sizes)
    choice = decoder.remat_choice(net, layers=layers, remat=remat)
    rows: Any = {"length": sequence_length, "batch_size": run.batch_size}
    train = packing.training(documents, text_tokenizer, **rows, seed=run.seed)
    packing.require_text_targets(documents, text_tokenizer)
    form: Any = {"sequence_length": sequence_length, "compute_dtype": run.compute_dtype}
    readout: Any = {"chunks": chunks}

    def loss_of(net: Any, params: Any, batch: dict[str, Any], key: jax.Array) -> Loss:
        positions = masks.packed(batch["segment_BL"], batch["position_BL"])
        weights = precision.cast_weights(params, form["compute_dtype"])
        x_BLD, w_VD = net.apply({"params": weights}, batch["ids_BL"], positions)
        targets = batch["targets_BL"], batch["weight_BL"]
        nats = cross_entropy.fused_cross_entropy(x_BLD, w_VD, *targets, **readout)
        return cross_entropy.add_byte_count(nats, *targets, text_tokenizer.bytes_V)

    losses = {name: partial(loss_of, one) for name, one in choice.nets.items()}
    loss, net = losses[choice.policy], choice.net
    generator = text_model.from_net(net, text_tokenizer, **form)
    return Experiment.from_run(
        run,
        optimizer,
        (train, packing.validation(documents, text_tokenizer, **rows)),
        parts=packing.part_validations(documents, text_tokenizer, **rows),
        fingerprint=f"decoder of depth {depth}, {text_tokenizer.vocab_size} tokens",
        init=partial(decoder.init_params, net),
        loss=loss,
        remat_losses=losses,
        metrics=cross_entropy.token_metrics,
        accumulate=accumulate,
        report=lambda *run: study().report(generator, *run),
        generate=partial(text_model.generate, generator),
        benchmarks={"decode": lambda params: study().decoding(generator, params)},
        extra_files={"tokenizer.json": text_tokenizer.to_bytes()},
        tokens_per_row=form["sequence_length"],
        derived=decoder.summary(net),
        net=net,
        tokenizer=text_tokenizer,
        data=documents,
    )


if __name__ == "__main__":
    main.main(experiment, generate=text_model.generate)
