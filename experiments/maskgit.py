"""Can a model that predicts masked tokens generate a digit in a few parallel steps?

    python -m experiments.maskgit
    python -m experiments.maskgit generate --digits=2026

Digits of 14 x 14 pixels, each the mean of four, in 4 gray levels; 2 x 2 pixels are one
of 49 tokens from a vocabulary of 256. 1.3 M parameters, 1000 steps. A classifier with
98.1 % accuracy on such held-out digits assigns **97.5 %** of 500 samples of 4 steps to
their class (three seeds, 96.8 to 98.2), 98.4 % of 32 steps (one; other sample seeds
98.6, 97.4), 69 to 81 % of 2. Fréchet distance in its features from the training
digits, 32 steps: 0.156; baseline, as many held-out digits: 0.084. Which tokens stay is
mostly noise; by confidence alone it is 0.464. 5 min 14 s on two shared cores.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from transformer import checks, main
from transformer.data import records
from transformer.data.images import gray_levels as gray
from transformer.data.sources import images as image_source
from transformer.generation import process_sampler, terminal_images
from transformer.models import dit
from transformer.objectives import cross_entropy, denoising
from transformer.processes import masked_diffusion
from transformer.training import optimizers
from transformer.training.declaration import declare
from transformer.training.experiment import Experiment, Optimizer, Run


def report(*arguments: Any) -> dict[str, Any]:
    """Samples, and their quality by the number of sampling steps."""
    from experiments.reports import maskgit

    return maskgit.report(*arguments)


@declare(steps=1000, batch_size=64, adam_learning_rate=0.005, decay_fraction=0.6)
def experiment(
    run: Run,
    model: Callable[..., Any] = dit.token_dit,
    optimizer: Optimizer = optimizers.muon_wsd,
    *,
    source: checks.Source = "digits",
    image_size: checks.ImageSize | None = None,
    columns: checks.Source = "",
    gray_levels: checks.GrayLevels = 4,
    patch: checks.PatchSize | None = None,
    depth: checks.Depth = 4,
    width: checks.Width = 128,
    guidance: checks.Scale = 2.0,
    temperature: checks.Temperature = 0.7,
    choice_temperature: checks.Scale = 20.0,
    classifier: checks.Classifier | None = None,
) -> Experiment:
    """Masked generation of images; the slot `model` is called as `dit.token_dit`.

    Args:
        source: digits, a TFDS name of labeled images, or the path of images.
        image_size: pixels along a side, resized and cropped; default: as they are.
        columns: two columns of a table, as path,label.
        gray_levels: of a pixel, or of each of its three channels.
        patch: pixels along the side of a token; default: 2, of color images 1.
        depth: blocks.
        width: features of a token, 32 for each head.
        guidance: scale of classifier-free guidance; 1 is none.
        temperature: of the sampling of tokens.
        choice_temperature: noise in the choice of the tokens that stay.
        classifier: run folder of experiments.classify_images; default: trained once.
    """
    data = image_source.load(source, image_size, columns=columns)
    tokenizer = gray.quantize_records(
        data, gray_levels=gray_levels, factor=2, patch=patch
    )
    mask_id, classes = tokenizer.vocab_size, len(data.labels)
    sizes: Any = {"classes": classes, "depth": depth, "width": width}
    net = model(grid=tokenizer.grid, vocab_size=mask_id + 1, **sizes)
    options: Any = {"batch_size": run.batch_size, "seed": run.seed, "name": data.name}
    train = records.training(tokenizer.train, **options)
    held_out = records.evaluation(tokenizer.validation, batch_size=256)
    process = masked_diffusion.process(
        mask_id=mask_id, temperature=temperature, choice_temperature=choice_temperature
    )
    predict = partial(dit.predict, net, compute_dtype=run.compute_dtype)
    loss = partial(
        denoising.class_conditional_loss,
        cross_entropy.cross_entropy,
        predict,
        inputs="ids_BL",
        null_label=classes,
    )
    metrics = partial(cross_entropy.pixel_metrics, pixels_per_token=tokenizer.patch**2)
    sampling: Any = {"null_label": classes, "scale": guidance}
    sample = process_sampler.class_sampler(
        process, predict, tokenizer.decode, like=tokenizer.abstract_row, **sampling
    )
    return Experiment.from_run(
        run,
        optimizer,
        (train, held_out),
        fingerprint=f"DiT {depth} x {width}, {mask_id} tokens, {classes} classes",
        init=partial(dit.init_params, net, like=tokenizer.abstract_row),
        loss=partial(loss, process=process, label_dropout=0.1),
        metrics=metrics,
        validation_loss=partial(loss, process=masked_diffusion.elbo_process(mask_id)),
        report=partial(report, sample, tokenizer, data, classifier, guidance),
        generate=partial(terminal_images.generate, sample),
        tokens_per_row=tokenizer.length,
        net=net,
        tokenizer=tokenizer,
        data=data,
    )


if __name__ == "__main__":
    main.main(experiment, generate=terminal_images.generate)
