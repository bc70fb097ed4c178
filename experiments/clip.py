"""Does a name outside the training set retrieve its image, and an image its name?

    python -m experiments.clip
    python -m experiments.clip --language=pt --workdir=runs/clip-pt

1,659 emoji and their English names, 185 held out whose names are new combinations of
known words. Encoders of 3 and 2 blocks of width 128, 1.2 M parameters, 500 steps, means
of three seeds. Text to image: recall@1 **25.6 %** (24.9 to 26.5), 47 times chance
(1 / 185), recall@10 64.9 %, median rank 4; image to text 26.5, 65.2 % and 5. Baseline,
the training image whose name is nearest by tf-idf, then the image nearest to that:
27.6 %, 57.3 % and 5. 3 min 4 s on two shared cores, 152 s of CPU time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import jax

from transformer import checks, main
from transformer.data import captioned_images
from transformer.models import clip
from transformer.network import precision
from transformer.objectives import contrastive
from transformer.objectives.loss import Loss
from transformer.training import optimizers
from transformer.training.declaration import declare
from transformer.training.experiment import Experiment, Optimizer, Run


def report(*arguments: Any) -> dict[str, Any]:
    """Retrieval of held-out images and names, beside the tf-idf baseline."""
    from experiments.reports import clip as study

    return study.report(*arguments)


@declare(steps=500, batch_size=64, decay_fraction=0.6)
def experiment(
    run: Run,
    model: Callable[..., Any] = clip.clip,
    optimizer: Optimizer = optimizers.muon_wsd,
    *,
    source: checks.Source = "emoji",
    image_size: checks.ImageSize | None = None,
    columns: checks.Source = "",
    language: Annotated[Literal["en", "pt"], checks.FIXED] = "en",
    patch: checks.PatchSize = 4,
    depth: checks.Depth = 3,
    text_depth: checks.Depth = 2,
    width: checks.Width = 128,
    vocab_size: checks.VocabSize = 1024,
    temperature: checks.PositiveScale = 0.1,
    augment: checks.Scale = 1.0,
) -> Experiment:
    """A shared embedding space of images and names, by a contrastive loss.

    The slot `model` is called as `clip.clip`.

    Args:
        source: emoji, a TFDS name of images with a text, or the path of a folder.
        image_size: pixels along a side, resized and cropped; default: as they are.
        columns: of a table, as file,text or file,en,pt.
        language: the language of the names.
        patch: pixels along a patch's side.
        depth: blocks of the image encoder.
        text_depth: blocks of the text encoder.
        width: features of a token, 32 for each head, and of an embedding.
        vocab_size: tokens of the BPE, which is trained on the names.
        temperature: divides the cosines; small values sharpen the softmax.
        augment: distortion of training images; 1 is up to 2 pixels and 12 degrees.
    """
    place = source, image_size, columns
    options: Any = {"language": language, "patch": patch, "vocab_size": vocab_size}
    captions = captioned_images.load(*place, **options, workdir=run.workdir)
    net = model(**captions.sizes, depth=depth, text_depth=text_depth, width=width)
    sizes: Any = {"batch_size": run.batch_size, "seed": run.seed, "augment": augment}
    # The loss compares the pairs of a batch: the same size in training and evaluation.
    sizes["evaluation_batch_size"] = run.batch_size
    splits = captions.splits(captions.encoder_split, **sizes)

    def loss(params: Any, batch: dict[str, jax.Array], key: jax.Array) -> Loss:
        weights = precision.cast_weights(params, run.compute_dtype)
        embeddings = clip.apply(net, weights, batch)
        return contrastive.clip_loss(
            *embeddings, batch["weight_B"], temperature=temperature
        )

    return Experiment.from_run(
        run,
        optimizer,
        splits,
        fingerprint=f"CLIP {depth} + {text_depth} x {width}, patch {patch}, {language}",
        init=partial(clip.init_params, net, like=captions.abstract_row),
        loss=loss,
        metrics=contrastive.pair_metrics,
        report=partial(report, net, captions),
        extra_files={"tokenizer.json": captions.tokenizer.to_bytes()},
        tokens_per_row=captions.patches + captions.length,
        net=net,
        tokenizer=captions.tokenizer,
        data=captions,
    )


if __name__ == "__main__":
    main.main(experiment)
