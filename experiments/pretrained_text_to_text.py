"""An encoder-decoder of another library, trained further on pairs of texts.

    python -m experiments.pretrained_text_to_text --init_from=FOLDER --source=pairs.tsv
    python -m experiments.pretrained_text_to_text generate --prompt="The hen sat."
    python -m experiments.pretrained_text_to_text export --folder=OTHER_FOLDER

FOLDER is one of Hugging Face with T5 or Marian (OPUS-MT).
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from transformer import checks, main
from transformer.data.sources import pairs as pair_source
from transformer.data.text import sentence_pairs
from transformer.interchange import (
    chat,
    export,
    pretrained_run,
    tasks,
    text_pairs,
    text_to_text,
)
from transformer.objectives import cross_entropy
from transformer.training import optimizers
from transformer.training.declaration import declare
from transformer.training.experiment import Experiment, Optimizer, Run


@declare(imports=True, steps=50, batch_size=16, learning_rate=5e-5, weight_decay=0.0)
def experiment(
    run: Run,
    optimizer: Optimizer = optimizers.adamw,
    *,
    source: checks.Source = "en_pt",
    columns: checks.Source = "",
    direction: Annotated[str, checks.FIXED] = "en-pt",
    sequence_length: checks.SequenceLength = 64,
    label_smoothing: checks.ProperFraction = 0.0,
) -> Experiment:
    """A model of texts from texts.

    Args:
        source: pairs of texts, as of translate.
        columns: of a table, its two columns, as en,pt.
        direction: source and target language, or their columns, as en-pt.
        sequence_length: tokens of a source and of a target, at most; fewer where the
            model has fewer.
        label_smoothing: probability mass spread uniformly over the vocabulary.
    """
    pretrained = pretrained_run.read(run.workdir, run.init_from)
    model = pretrained.model
    if not tasks.is_text_to_text(model):
        raise ValueError(f"{model.folder}: expected T5 or Marian, got {model.name}")
    codec = text_to_text.read(model.folder, model.sizes)
    data = pair_source.load(source, columns=columns)
    sides = sentence_pairs.sides(direction, data.labels)
    length = min(sequence_length, codec.rows.length, codec.length)
    how: Any = {"batch_size": run.batch_size, "seed": run.seed, "length": length}
    splits = text_pairs.splits(data, sides, codec, **how)
    loss = partial(text_pairs.loss, model.net, run.compute_dtype)
    return Experiment.from_run(
        run,
        optimizer,
        splits,
        loss=loss(objective=cross_entropy.label_smoothing(label_smoothing)),
        validation_loss=loss(objective=cross_entropy.cross_entropy),
        metrics=cross_entropy.token_metrics,
        tokens_per_row=2 * length,
        data=data,
        **pretrained.fields(),
    )


if __name__ == "__main__":
    main.main(experiment, generate=chat.generate, export=export.export)
