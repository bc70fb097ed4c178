"""An encoder of another library, trained further to classify texts, images or videos.

    python -m experiments.pretrained_classifier --init_from=FOLDER --init_partial
    python -m experiments.pretrained_classifier --init_from=FOLDER --init_partial \\
        --source=photos --freeze='^encoder/' --workdir=runs/photos
    python -m experiments.pretrained_classifier classify --text="Bom dia|Good morning"
    python -m experiments.pretrained_classifier export --folder=OTHER_FOLDER

FOLDER is one of Hugging Face with BERT, RoBERTa, DistilBERT, ViT, DINOv2 or VideoMAE.
The head is new, which `--init_partial` allows, unless FOLDER has a classifier of the
same classes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from transformer import checks, main
from transformer.data.sources import images as image_source
from transformer.data.sources import labeled_text
from transformer.data.sources import videos as video_source
from transformer.data.text import labeled_rows
from transformer.interchange import encoder_classifier as classifier
from transformer.interchange import (
    export,
    image_rows,
    pretrained_run,
    tasks,
    video_rows,
)
from transformer.interchange.architectures import videomae
from transformer.models import encoder
from transformer.objectives import cross_entropy
from transformer.training import optimizers
from transformer.training.declaration import declare
from transformer.training.experiment import Experiment, Optimizer, Run


@declare(imports=True, steps=200, batch_size=32, learning_rate=1e-4)
def experiment(
    run: Run,
    optimizer: Optimizer = optimizers.adamw,
    *,
    source: checks.Source = "",
    image_size: checks.ImageSize | None = None,
    columns: checks.Source = "",
    sequence_length: checks.SequenceLength = 64,
) -> Experiment:
    """A classifier on a pretrained encoder.

    Args:
        source: of texts, as of classify_sentences, en_pt by default; of images, as of
            classify_images, digits by default; of videos, a folder for each class.
        image_size: pixels along a side, resized and cropped before the folder's own
            preprocessing; default: as they are, of one size.
        columns: of a table, its two columns, as text,label or path,label.
        sequence_length: tokens of a text, at most; fewer where the model has fewer.
    """
    pretrained = pretrained_run.read(run.workdir, run.init_from)
    place, _, encoder_sizes, _ = pretrained.model
    with_labels = partial(
        classifier.with_labels, encoder_sizes, name=pretrained.model.name
    )
    with_labels(("",))  # Before the data are read.
    reads_text = hasattr(encoder_sizes, "vocab_size")
    reads_videos = isinstance(encoder_sizes, videomae.Sizes)
    if reads_text:
        data = labeled_text.load(source or "en_pt", columns=columns)
    elif reads_videos:
        frames = encoder_sizes.frames
        data = video_source.load(source, frames=frames, columns=columns)
    else:
        data = image_source.load(source or "digits", image_size, columns=columns)
    sizes = with_labels(tuple(data.labels))
    if pretrained.resumes and encoder_sizes.labels != sizes.labels:
        raise ValueError(
            f"{place}: expected the classes {', '.join(encoder_sizes.labels)}, got "
            f"{', '.join(sizes.labels)}"
        )
    start = pretrained.start and classifier.ClassifierStart(
        pretrained.start, sizes.labels, run.init_partial
    )
    pretrained = pretrained.change_sizes(sizes, start)
    model, dtype = pretrained.model, run.compute_dtype
    how: Any = {"batch_size": run.batch_size, "seed": run.seed}
    if reads_text:
        rows: Any = tasks.rows_of(model, sequence_length)
        splits = labeled_rows.splits(data, rows, length=rows.length, **how)
        logits = encoder.logits(model.net, dtype)
    else:
        processing = image_rows.read_preprocessing(place, sizes.image)
        make = video_rows.splits if reads_videos else classifier.image_splits
        splits = make(data, processing, sizes, **how)
        # VideoMAE has no class token.
        extra = 0 if reads_videos else sizes.extra_tokens
        logits = classifier.image_logits(model.net, dtype, extra=extra)
    return Experiment.from_run(
        run,
        optimizer,
        splits,
        loss=cross_entropy.classification_loss(logits),
        metrics=cross_entropy.token_metrics,
        data=data,
        **pretrained.fields(),
    )


if __name__ == "__main__":
    main.main(experiment, classify=tasks.classify, export=export.export)
