"""Whisper of another library, trained further on recordings with their transcripts.

    python -m experiments.pretrained_speech --init_from=FOLDER --source=clips.csv \\
        --language=pt
    python -m experiments.pretrained_speech evaluate --init_from=FOLDER \\
        --source=clips.csv --language=pt
    python -m experiments.pretrained_speech report
    python -m experiments.pretrained_speech transcribe --audio=a.wav,b.wav
    python -m experiments.pretrained_speech export --folder=OTHER_FOLDER

FOLDER is one of Hugging Face. The loss is of the tokens of a text and of its end; those
of the prompt (language, task, no timestamps) have weight 0. Whisper's paper (Radford et
al. 2022, arXiv 2212.04356, section 2.3) trains them too. The encoder's sines stay as
they are, as in transformers.
"""

from __future__ import annotations

from typing import Annotated, Any

from transformer import checks, main
from transformer.data.sources import recordings
from transformer.interchange import export, pretrained_run, speech, speech_rows, tasks
from transformer.objectives import cross_entropy
from transformer.training import optimizers
from transformer.training.declaration import declare
from transformer.training.experiment import Experiment, Optimizer, Run

SINES = "^encoder/embed/position/"


def report(*arguments: Any) -> dict[str, Any]:
    """Error rates and transcripts of held-out recordings."""
    from experiments.reports import pretrained_speech

    return pretrained_speech.report(*arguments)


@declare(
    imports=True,
    steps=100,
    batch_size=8,
    learning_rate=1e-5,
    weight_decay=0.0,
    freeze=SINES,
)
def experiment(
    run: Run,
    optimizer: Optimizer = optimizers.adamw,
    *,
    source: checks.Source = "",
    columns: checks.Source = "",
    language: Annotated[str, checks.FIXED] | None = None,
    task: Annotated[speech.SpeechTask, checks.FIXED] = "transcribe",
    sequence_length: checks.SequenceLength = 448,
) -> Experiment:
    """Whisper on recordings of one language.

    Args:
        source: a table of paths and texts (.csv, .tsv, .jsonl, .parquet), or a folder
            with one called train and one called validation.
        columns: of the table, its two columns, as path,text; default usual names.
        language: of the recordings, its code, such as pt; none for a model of English.
        task: translate for texts that are English translations.
        sequence_length: tokens of the prompt and a text, at most; fewer where the model
            has fewer. Longer texts are left out.
    """
    pretrained = pretrained_run.read(run.workdir, run.init_from)
    model = pretrained.model
    codec = speech_rows.read(model, language, task, sequence_length)
    data = speech_rows.drop_long(recordings.load(source, columns=columns), codec)
    length = speech_rows.row_length(data, codec)
    how: Any = {"batch_size": run.batch_size, "seed": run.seed, "length": length}
    return Experiment.from_run(
        run,
        optimizer,
        speech_rows.splits(data, codec, **how),
        loss=speech_rows.loss(model.net, run.compute_dtype),
        metrics=cross_entropy.token_metrics,
        report=lambda params, key: report(model, codec, data, params),
        tokens_per_row=length + model.sizes.source_length,
        data=data,
        **pretrained.fields(),
    )


if __name__ == "__main__":
    main.main(experiment, transcribe=tasks.transcribe, export=export.export)
