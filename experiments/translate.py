"""Does a small encoder-decoder translate better than the nearest of 27,600 known pairs?

    python -m experiments.translate
    python -m experiments.translate --direction=pt-en --workdir=runs/pt-en
    python -m experiments.translate generate --text="Click OK to save the file."

Sentences of software help, 6,144 tokens for both languages, 3 + 3 blocks of width 192,
6.6 M parameters, 1,200 steps. On 1,631 held-out pairs, by beam search of 4, means of
three seeds: **BLEU 49.6** (49.2 to 50.2), **chrF 69.5**. Baseline, the translation of
the nearest training sentence: 11.6 and 30.8; the untranslated source: 8.8 and 27.7.
Where the nearest sentence is far (cosine below 0.5, 701 pairs), BLEU is 42.6 and 3.4.
Of the words that a translation copies, 94 % attend most to their copy. 8 min 20 s on
two shared cores, 698 s of CPU time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import jax

from transformer import checks, main
from transformer.data.sources import pairs as pair_source
from transformer.data.text import sentence_pairs, tokenizers
from transformer.generation import translation
from transformer.models import encoder_decoder
from transformer.network import masks, precision
from transformer.objectives import cross_entropy
from transformer.objectives.loss import Loss
from transformer.training import optimizers
from transformer.training.declaration import declare
from transformer.training.experiment import Experiment, Optimizer, Run

CHUNKS = 2


def apply(net: Any, params: Any, batch: Any, **options: Any) -> Any:
    """`net.apply` on packed pairs; options: of `flax.linen.Module.apply`."""
    source = masks.packed(batch["source_segment_BL"], batch["source_position_BL"])
    target = masks.packed(batch["segment_BL"], batch["position_BL"])
    inputs = batch["source_BL"], source, batch["ids_BL"], target
    return net.apply({"params": params}, *inputs, **options)


def report(*arguments: Any) -> dict[str, Any]:
    """Scores beside the baselines, examples, and the cross-attention."""
    from experiments.reports import translate

    return translate.report(*arguments)


@declare(steps=1200, batch_size=16)
def experiment(
    run: Run,
    model: Callable[..., Any] = encoder_decoder.text_to_text,
    optimizer: Optimizer = optimizers.muon_wsd,
    *,
    source: checks.Source = "en_pt",
    columns: checks.Source = "",
    direction: Annotated[str, checks.FIXED] = "en-pt",
    depth: checks.Depth = 3,
    width: checks.Width = 192,
    vocab_size: checks.VocabSize = 6144,
    sequence_length: checks.SequenceLength = 128,
    label_smoothing: checks.ProperFraction = 0.1,
) -> Experiment:
    """A translator; `model` is called with `depth`, `width` and `vocab_size`.

    Args:
        source: en_pt, a TFDS name of pairs, the path of a table (.tsv, .csv, .jsonl,
            .parquet), or two files of aligned lines, as a.en.txt,a.pt.txt.
        columns: two columns of a table, as en,pt; by default its only two.
        direction: source and target language, or their columns, as en-pt.
        depth: blocks of encoder and decoder each.
        width: features of a token, 64 for each head.
        vocab_size: tokens of the BPE, which is trained on both languages.
        sequence_length: tokens of a row of several sentences, on each side.
        label_smoothing: probability mass spread uniformly over the vocabulary.
    """
    translation.bucket_by_length([sequence_length])
    data = pair_source.load(source, columns=columns)
    sides = sentence_pairs.sides(direction, data.labels)
    texts, folder = sentence_pairs.pair_documents(data), run.workdir
    tokenizer = tokenizers.for_text("bpe", texts, vocab_size=vocab_size, folder=folder)
    rows: Any = {"length": sequence_length, "batch_size": run.batch_size}
    data, splits = sentence_pairs.splits(data, sides, tokenizer, **rows, seed=run.seed)
    net = model(depth=depth, width=width, vocab_size=tokenizer.vocab_size)
    dtype = run.compute_dtype
    chunked_loss = partial(cross_entropy.chunked_loss, chunks=CHUNKS)

    def loss(objective: Any, params: Any, batch: Any, key: jax.Array) -> Loss:
        x_BLD, w_VD = apply(net, precision.cast_weights(params, dtype), batch)
        targets = batch["targets_BL"], batch["weight_BL"]
        nats = chunked_loss(objective, x_BLD, w_VD, *targets)
        return cross_entropy.add_byte_count(nats, *targets, tokenizer.bytes_V)

    translator = translation.from_net(net, tokenizer, compute_dtype=dtype)
    return Experiment.from_run(
        run,
        optimizer,
        splits,
        fingerprint=f"encoder-decoder {direction}: 2 x {depth} blocks of {width}",
        init=partial(encoder_decoder.init_params, net),
        loss=partial(loss, cross_entropy.label_smoothing(label_smoothing)),
        validation_loss=partial(loss, cross_entropy.cross_entropy),
        metrics=cross_entropy.token_metrics,
        report=partial(report, net, translator, data, sides, sequence_length),
        generate=partial(translation.generate, translator),
        extra_files={"tokenizer.json": tokenizer.to_bytes()},
        tokens_per_row=2 * sequence_length,
        net=net,
        tokenizer=tokenizer,
        data=data,
    )


if __name__ == "__main__":
    main.main(experiment, generate=translation.generate)
