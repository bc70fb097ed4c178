"""CLIP or SigLIP of another library, trained further on images with captions.

    python -m experiments.pretrained_clip --init_from=FOLDER
    python -m experiments.pretrained_clip --init_from=FOLDER --source=captions.csv \\
        --columns=file,caption --image_size=224 --freeze='^image_encoder/'
    python -m experiments.pretrained_clip evaluate --init_from=FOLDER
    python -m experiments.pretrained_clip classify --images=a.png --labels="a cat,a dog"
    python -m experiments.pretrained_clip export --folder=OTHER_FOLDER

FOLDER is one of Hugging Face. Images are prepared as it says. The loss is that of the
model's paper, by its own scale and bias, which are trained too: CLIP's a softmax over
the pairs of a batch, SigLIP's a sigmoid of each. Both depend on the batch size.
"""

from __future__ import annotations

from typing import Annotated, Literal

from transformer import checks, main
from transformer.data.sources import captions
from transformer.interchange import export, image_text_pairs, pretrained_run, tasks
from transformer.objectives import contrastive
from transformer.training import optimizers
from transformer.training.declaration import declare
from transformer.training.experiment import Experiment, Optimizer, Run


@declare(imports=True, steps=200, batch_size=32, learning_rate=1e-5)
def experiment(
    run: Run,
    optimizer: Optimizer = optimizers.adamw,
    *,
    source: checks.Source = "emoji",
    image_size: checks.ImageSize | None = None,
    columns: checks.Source = "",
    language: Annotated[Literal["en", "pt"], checks.FIXED] = "en",
) -> Experiment:
    """Encoders of images and texts of another library.

    Args:
        source: emoji, a TFDS name of images with a text, or the path of a folder.
        image_size: pixels along a side, resized and cropped before the folder's own
            preparation; default: as they are, all of one size.
        columns: of a table, as file,text or file,en,pt.
        language: the language of the texts, where there are several.
    """
    pretrained = pretrained_run.read(run.workdir, run.init_from)
    model = pretrained.model
    codec = image_text_pairs.read(model)
    data = captions.load(source, image_size, language=language, columns=columns)
    how = {"batch_size": run.batch_size, "seed": run.seed}
    pairs = image_text_pairs.splits(data, codec, **how)
    return Experiment.from_run(
        run,
        optimizer,
        pairs.splits,
        loss=image_text_pairs.loss(model.net, run.compute_dtype, codec),
        metrics=contrastive.pair_metrics,
        tokens_per_row=pairs.tokens,
        data=data,
        **pretrained.fields(),
    )


if __name__ == "__main__":
    main.main(experiment, classify=tasks.classify, export=export.export)
