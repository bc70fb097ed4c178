"""What does a sparse attention pattern save, and what can it no longer recall?

    python -m experiments.sparse_attention

Five decoders of two layers; a row of 512 tokens has a needle and 48 questions for its
value, one of 8. Correct in % by distance (strided over 256, two more seeds: 84, 98),
bits per byte, power of time by length (memory 0.94, whole matrix 2.0). 8 min 5 s.

                                1 to 64   65 to 128   over 256   bits   time
    full                           99.8        99.9       99.8   2.12   1.92
    window of 64                    100          85         14   1.81   1.06
    blocks of 64                    100          95         59   1.93   1.20
    window and every 32nd token     100         100         98   1.93   1.95
    linear                          100         100        100   2.13   0.93
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import jax
import numpy as np

from transformer import checks, main
from transformer.data.sources import text as text_source
from transformer.data.text import associative_recall, tokenizers
from transformer.models import attention_patterns, decoder
from transformer.network import masks, precision
from transformer.objectives.loss import Loss
from transformer.objectives.recall import recall_loss, recall_metrics
from transformer.training import optimizers
from transformer.training.declaration import declare
from transformer.training.experiment import Experiment, Optimizer, Run

NEEDLES = (1, 8, 48)  # keys, values, questions for each key in a row
PATTERNS = {
    "full": attention_patterns.full(),
    "window": attention_patterns.window(64),
    "block_sparse": attention_patterns.block_sparse(64),
    "strided": attention_patterns.strided_window(size=64, stride=32, global_tokens=8),
    "linear": attention_patterns.linear(),
}


@declare(steps=700, batch_size=8)
def experiment(
    run: Run,
    model: Callable[..., Any] = decoder.language_model,
    optimizer: Optimizer = optimizers.muon_wsd,
    patterns: Mapping[str, attention_patterns.AttentionPattern] = PATTERNS,
    *,
    text: checks.Source = "austen",
    text_column: checks.Source = text_source.COLUMN,
    vocab_size: checks.VocabSize = 1024,
    sequence_length: Annotated[checks.SequenceLength, checks.FIXED] = 512,
    depth: checks.Depth = 2,
    width: checks.Width = 128,
) -> Experiment:
    """Decoders that differ in their attention, on one text with needles in it; `model`
    is called with `depth`, `width`, `vocab_size` and `make_attention`.

    Args:
        text: a shipped text, a TFDS name, a path, or a mixture, as a.txt:0.7,b.txt:0.3.
        text_column: of a table, its column of texts.
        vocab_size: tokens of the BPE.
        sequence_length: tokens of a row.
        depth: blocks of each model.
        width: features of a token, 32 for each head.
    """
    docs, length = text_source.load(text, column=text_column), sequence_length
    bpe = tokenizers.for_text("bpe", docs, vocab_size=vocab_size, folder=run.workdir)
    needles = associative_recall.NeedleVocabulary(bpe.vocab_size, *NEEDLES)
    sizes: Any = {"length": length, "batch_size": run.batch_size, "seed": run.seed}
    train, held_out = associative_recall.splits(docs, bpe, needles, **sizes)
    bytes_V = np.pad(bpe.bytes_V, (0, needles.vocab_size - bpe.vocab_size))
    build = partial(model, depth=depth, width=width, vocab_size=needles.vocab_size)
    slots = {name: one.attention(width, length) for name, one in patterns.items()}
    nets = {name: build(make_attention=slot) for name, slot in slots.items()}

    def init(key: jax.Array) -> Any:
        pairs = zip(nets, jax.random.split(key, len(nets)), strict=True)
        return {name: decoder.init_params(nets[name], k) for name, k in pairs}

    def logits(params: Any, batch: Any) -> dict[str, jax.Array]:
        weights = precision.cast_weights(params, run.compute_dtype)
        inputs = batch["ids_BL"], masks.single_document(length)
        return {
            name: decoder.logits(net.apply({"params": weights[name]}, *inputs))
            for name, net in nets.items()
        }

    def loss(params: Any, batch: Any, key: jax.Array) -> Loss:
        return recall_loss(logits(params, batch), batch, bytes_V)

    def report(params: Any, key: jax.Array) -> dict[str, Any]:
        from experiments.reports import sparse_attention as study

        return study.report(patterns, logits, held_out, params, chance=1 / NEEDLES[1])

    return Experiment.from_run(
        run,
        optimizer,
        (train, held_out),
        fingerprint=f"{depth} x {width}, rows of {length}, {', '.join(patterns)}",
        init=init,
        loss=loss,
        metrics=recall_metrics,
        report=report,
        extra_files={"tokenizer.json": bpe.to_bytes()},
        tokens_per_row=len(nets) * length,
        net=nets,
        tokenizer=bpe,
        data=docs,
    )


if __name__ == "__main__":
    main.main(experiment)
