"""A masked language model of another library, trained further on texts.

    python -m experiments.pretrained_mlm --init_from=FOLDER --text=my_novel.txt
    python -m experiments.pretrained_mlm evaluate --init_from=FOLDER --text=austen
    python -m experiments.pretrained_mlm embed --text="the cat|the hen"
    python -m experiments.pretrained_mlm export --folder=OTHER_FOLDER

FOLDER is one of Hugging Face with BERT, RoBERTa, XLM-RoBERTa, DistilBERT or ModernBERT
and its head. Tokens are masked as in `mlm`: all that are to be predicted. Unlike BERT's
rule none of these keeps its id or has a random one.
"""

from __future__ import annotations

from functools import partial

from transformer import checks, main
from transformer.data.sources import text as text_source
from transformer.data.text import windows
from transformer.interchange import export, masked_text, pretrained_run, tasks
from transformer.objectives import cross_entropy
from transformer.training import optimizers
from transformer.training.declaration import declare
from transformer.training.experiment import Experiment, Optimizer, Run

# Masked tokens in evaluation.
EVALUATION_RATIO = 0.15


@declare(imports=True, steps=50, batch_size=16, learning_rate=5e-5)
def experiment(
    run: Run,
    optimizer: Optimizer = optimizers.adamw,
    *,
    text: checks.Source = "austen",
    text_column: checks.Source = text_source.COLUMN,
    sequence_length: checks.SequenceLength = 128,
    mask_ratio: checks.PositiveFraction = 0.15,
) -> Experiment:
    """A masked language model of another library.

    Args:
        text: a shipped text, a TFDS name, a path, or a mixture, as a.txt:0.7,b.txt:0.3.
        text_column: of a table, its column of texts.
        sequence_length: tokens of a row, at most, the special ones at its ends among
            them; fewer where the model has fewer.
        mask_ratio: fraction of the tokens masked in training; 0.15 in evaluation.
    """
    pretrained = pretrained_run.read(run.workdir, run.init_from)
    codec = masked_text.read(pretrained.model, sequence_length)
    docs = text_source.load(text, column=text_column)
    parts = windows.split_text(docs, codec.plain, tail_fraction=0)
    how = {"batch_size": run.batch_size, "seed": run.seed}
    splits = masked_text.splits(parts, codec, **how, name=docs.name)
    loss = partial(masked_text.loss, pretrained.model.net, run.compute_dtype, codec)
    return Experiment.from_run(
        run,
        optimizer,
        splits,
        loss=loss(ratio=mask_ratio),
        validation_loss=loss(ratio=EVALUATION_RATIO),
        metrics=cross_entropy.token_metrics,
        tokens_per_row=codec.length,
        data=parts,
        **pretrained.fields(),
    )


if __name__ == "__main__":
    main.main(experiment, embed=tasks.embed, export=export.export)
