"""Can a transformer draw emoji for names that are not in its training set?

    python -m experiments.text_to_image
    python -m experiments.text_to_image generate --text="red cat; woman golfing"

1,659 emoji of 32 x 32 pixels; 185 names, new combinations of known words, are held out.
2.3 M parameters. Recall@1 by `experiments.clip` among the 185, in units of chance: name
to sample **20x**, sample to name 15x (true images 47x), sample to true image 14.5x.
Baseline, the training image of the nearest name by tf-idf: 40x, 44x and 46x: a copy
still wins. 8 min 38 s on two cores. More: LOG.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax

from transformer import checks, main
from transformer.data import captioned_images, similar_images
from transformer.generation import image_files, process_sampler
from transformer.models import text_to_image
from transformer.objectives import denoising
from transformer.objectives.loss import Loss, mean_loss
from transformer.processes import flow_matching
from transformer.training import optimizers
from transformer.training.declaration import declare
from transformer.training.experiment import Experiment, Optimizer, Run

PROCESS = flow_matching.process(sample_time=flow_matching.logit_normal_times)


def report(*arguments: Any) -> dict[str, Any]:
    """Samples for held-out names, and their retrieval by CLIP beside the baseline."""
    from experiments.reports import text_to_image as study

    return study.report(*arguments)


@declare(steps=1500, batch_size=64, adam_learning_rate=0.005, decay_fraction=0.6)
def experiment(
    run: Run,
    model: Callable[..., Any] = text_to_image.text_to_image,
    optimizer: Optimizer = optimizers.muon_wsd,
    *,
    source: checks.Source = "emoji_styles",
    image_size: checks.ImageSize | None = None,
    columns: checks.Source = "",
    language: Annotated[Literal["en", "pt"], checks.FIXED] = "en",
    patch: checks.PatchSize = 4,
    depth: checks.Depth = 4,
    text_depth: checks.Depth = 2,
    width: checks.Width = 128,
    vocab_size: checks.VocabSize = 1024,
    examples: checks.Count = 3,
    guidance: checks.Scale = 3.0,
    report_sampling_steps: checks.Count = 16,
    augment: checks.Scale = 0.3,
    scorer: Path | None = None,
) -> Experiment:
    """Flow matching of images conditioned on names; slot `model`: as its default.

    Args:
        source: emoji, a TFDS name of images with a text, or the path of a folder.
        image_size: pixels along a side, resized and cropped; default: as they are.
        columns: of a table, as file,text or file,en,pt.
        language: the language of the names.
        patch: pixels along a patch's side.
        depth: blocks of the denoiser.
        text_depth: blocks of the text encoder.
        width: features of a token, 32 for each head.
        vocab_size: tokens of the BPE, which is trained on the names.
        examples: training images of similar names that the model sees.
        guidance: scale of classifier-free guidance; 1 is none.
        report_sampling_steps: of the report's samples.
        augment: distortion of training images; 1 is up to 2 pixels and 12 degrees.
        scorer: run folder of experiments.clip; default: trained once.
    """
    place = source, image_size, columns
    options: Any = {"language": language, "patch": patch, "vocab_size": vocab_size}
    captions = captioned_images.load(
        *place, **options, workdir=run.workdir, styles=True
    )
    similar = similar_images.similar_images(captions, count=examples)
    model_sizes = {**captions.sizes, "example_features": similar.features}
    net = model(**model_sizes, depth=depth, text_depth=text_depth, width=width)
    sizes: Any = {"batch_size": run.batch_size, "seed": run.seed, "augment": augment}
    predict = partial(text_to_image.predict, net, compute_dtype=run.compute_dtype)
    null_text = similar.encode([""])

    def loss(rate: float, params: Any, batch: Any, key: jax.Array) -> Loss:
        text = batch["ids_BL"], batch["segment_BL"], batch["example_BLE"]
        text = denoising.drop_texts(text, null_text, key, rate=rate)
        inputs = partial(predict, params, text), batch["raw_BLP"], key
        return denoising.denoising_loss(
            PROCESS, denoising.squared_error, *inputs, weight_B=batch["weight_B"]
        )

    codec = similar.encode, captions.to_images
    sample = process_sampler.text_sampler(
        PROCESS, predict, *codec, like=captions.abstract_row, scale=guidance
    )
    return Experiment.from_run(
        run,
        optimizer,
        similar.splits(**sizes),
        fingerprint=f"text-to-image DiT {depth} x {width}, patch {patch}, {language}",
        init=partial(
            text_to_image.init_params,
            net,
            like=captions.abstract_row,
            example_features=similar.features,
        ),
        loss=partial(loss, 0.1),
        validation_loss=partial(loss, 0.0),
        metrics=mean_loss,
        report=partial(report, sample, captions, scorer, report_sampling_steps),
        generate=partial(image_files.generate, sample),
        extra_files={"tokenizer.json": captions.tokenizer.to_bytes()},
        tokens_per_row=captions.patches + captions.length,
        net=net,
        tokenizer=captions.tokenizer,
        data=captions,
    )


if __name__ == "__main__":
    main.main(experiment, generate=image_files.generate)
