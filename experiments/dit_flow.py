"""Can a diffusion transformer generate a given digit, and in how few sampling steps?

    python -m experiments.dit_flow
    python -m experiments.dit_flow generate --digits=2026

Digits of 28 x 28 in 49 patches, 1.6 M parameters, 500 steps. A classifier with 99.2 %
accuracy on held-out digits assigns **98.3 %** of 500 samples of 4 steps to their class,
97.2 % of 32 (three seeds, 98.2 to 98.6, 96.6 to 97.6). Fréchet distance in its features
from training digits in 4, 8 and 32 steps: 0.24, 0.18, 0.18; held-out digits: 0.07.
2 min 39 s on two cores.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from transformer import checks, main
from transformer.data import records
from transformer.data.images import patches
from transformer.data.sources import images as image_source
from transformer.generation import process_sampler, terminal_images
from transformer.models import dit
from transformer.objectives import denoising
from transformer.objectives.loss import mean_loss
from transformer.processes import flow_matching
from transformer.training import optimizers
from transformer.training.declaration import declare
from transformer.training.experiment import Experiment, Optimizer, Run


def report(*arguments: Any) -> dict[str, Any]:
    """Samples, and their quality by the number of sampling steps."""
    from experiments.reports import dit_flow

    return dit_flow.report(*arguments)


@declare(steps=500, batch_size=64, adam_learning_rate=0.005, decay_fraction=0.6)
def experiment(
    run: Run,
    model: Callable[..., Any] = dit.patch_dit,
    optimizer: Optimizer = optimizers.muon_wsd,
    *,
    source: checks.Source = "digits",
    image_size: checks.ImageSize | None = None,
    columns: checks.Source = "",
    patch: checks.PatchSize = 4,
    depth: checks.Depth = 5,
    width: checks.Width = 128,
    guidance: checks.Scale = 3.0,
    eta: checks.Fraction = 1.0,
    classifier: checks.Classifier | None = None,
) -> Experiment:
    """Flow matching of images conditioned on their class; `model` as `dit.patch_dit`.

    Args:
        source: digits, a TFDS name of labeled images, or the path of images.
        image_size: pixels along a side, resized and cropped; default: as they are.
        columns: two columns of a table, as path,label.
        patch: pixels along a patch's side.
        depth: blocks.
        width: features of a token, 32 for each head.
        guidance: scale of classifier-free guidance; 1 is none.
        eta: fresh noise in each step of sampling; 0 is none (Euler), 1 as in DDPM.
        classifier: run folder of experiments.classify_images; default: trained once.
    """
    data = image_source.load(source, image_size, columns=columns)
    classes = len(data.labels)
    tokenizer = patches.PatchTokenizer(data.train["image"].shape[1:], (patch, patch))
    net = model(
        grid=tokenizer.grid,
        patch_features=tokenizer.features,
        classes=classes,
        depth=depth,
        width=width,
    )
    sizes: Any = {"batch_size": run.batch_size, "seed": run.seed, "name": data.name}
    prepare = tokenizer.prepare
    train = records.training(data.train, **sizes, prepare=prepare)
    held_out = records.evaluation(data.validation, batch_size=256, prepare=prepare)
    process = flow_matching.process(
        sample_time=flow_matching.logit_normal_times,
        update=partial(flow_matching.ancestral_step, eta=eta),
    )
    predict = partial(dit.predict, net, compute_dtype=run.compute_dtype)
    loss = partial(
        denoising.class_conditional_loss,
        denoising.squared_error,
        predict,
        process=process,
        inputs="raw_BLP",
        null_label=classes,
    )
    sampling: Any = {"null_label": classes, "scale": guidance}
    sample = process_sampler.class_sampler(
        process, predict, tokenizer.decode, like=tokenizer.abstract_row, **sampling
    )
    return Experiment.from_run(
        run,
        optimizer,
        (train, held_out),
        fingerprint=f"DiT {depth} x {width}, patch {patch}, {classes} classes",
        init=partial(dit.init_params, net, like=tokenizer.abstract_row),
        loss=partial(loss, label_dropout=0.1),
        metrics=mean_loss,
        validation_loss=loss,
        report=partial(report, sample, data, classifier, guidance),
        generate=partial(terminal_images.generate, sample),
        tokens_per_row=tokenizer.length,
        net=net,
        tokenizer=tokenizer,
        data=data,
    )


if __name__ == "__main__":
    main.main(experiment, generate=terminal_images.generate)
