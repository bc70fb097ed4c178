"""Can a vision transformer learn handwritten digits from 8,000 examples, and do its
predictions depend on the patches that its attention ranks highest?

    python -m experiments.classify_images
    python -m experiments.classify_images --source=fashion_mnist --workdir=runs/fashion

8,000 digits, 2,000 held out, 4 x 4 pixels a patch, 0.8 M parameters: **98.7 %** (two
more seeds 98.6 and 98.3), in 3 min 12 s on two cores. Baselines on the pixels: logistic
regression 91.4 %, nearest neighbor 94.2 %. Deletion test: mean accuracy over all
numbers of erased patches is 24 % (22, 22) in descending order of attention rollout and
23 (24, 24) of ink, so rollout finds what the prediction depends on no better than ink
does; 60 (58, 60) in random order, 31 in random order of patches that are not blank.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import jax

from transformer import checks, main
from transformer.data import records
from transformer.data.images import augment as augmentation
from transformer.data.images import patches
from transformer.data.sources import images as image_source
from transformer.models import vit
from transformer.network import precision
from transformer.objectives import cross_entropy
from transformer.objectives.loss import Loss
from transformer.training import optimizers
from transformer.training.declaration import declare
from transformer.training.experiment import Experiment, Optimizer, Run

LABEL_SMOOTHING = 0.1


def report(*arguments: Any) -> dict[str, Any]:
    """Accuracy beside the baselines, a deletion test, and the worst mistakes."""
    from experiments.reports import classify_images

    return classify_images.report(*arguments)


@declare(steps=1200, batch_size=64, decay_fraction=0.6)
def experiment(
    run: Run,
    model: Callable[..., Any] = vit.classifier,
    optimizer: Optimizer = optimizers.muon_wsd,
    *,
    source: checks.Source = "digits",
    image_size: checks.ImageSize | None = None,
    columns: checks.Source = "",
    patch: checks.PatchSize = 4,
    pool: Annotated[Literal["mean", "class"], checks.FIXED] = "mean",
    depth: checks.Depth = 4,
    width: checks.Width = 128,
    augment: checks.Scale = 1.0,
) -> Experiment:
    """A vision transformer that classifies images.

    The slot `model` is called as `vit.classifier`.

    Args:
        source: digits, a TFDS name of labeled images, or the path of images.
        image_size: pixels along a side, resized and cropped; default: as they are.
        columns: two columns of a table, as path,label.
        patch: pixels along a patch's side.
        pool: classify the mean of the patches' features, or those of a class token.
        depth: blocks.
        width: features of a token, 32 for each head.
        augment: distortion of training images; 1 is up to 2 pixels and 12 degrees.
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
        pooling=vit.POOLINGS[pool],
    )
    sizes: Any = {"batch_size": run.batch_size, "seed": run.seed, "name": data.name}
    distort = augmentation.random_distortion(augment)
    prepare = augmentation.chain(distort, tokenizer.prepare)
    train = records.training(data.train, **sizes, prepare=prepare)
    held_out = records.evaluation(
        data.validation, batch_size=256, prepare=tokenizer.prepare
    )

    def loss(
        objective: cross_entropy.Objective, params: Any, batch: Any, _: jax.Array
    ) -> Loss:
        weights = precision.cast_weights(params, run.compute_dtype)
        logits_BV = vit.apply(net, weights, batch["raw_BLP"])
        labels = batch["label_B"], batch["weight_B"]
        return cross_entropy.classification(logits_BV, *labels, objective=objective)

    return Experiment.from_run(
        run,
        optimizer,
        (train, held_out),
        fingerprint=f"ViT {depth} x {width}, patch {patch}, {pool}, {classes} classes",
        init=partial(vit.init_params, net, like=tokenizer.abstract_row),
        loss=partial(loss, cross_entropy.label_smoothing(LABEL_SMOOTHING)),
        metrics=cross_entropy.token_metrics,
        validation_loss=partial(loss, cross_entropy.cross_entropy),
        report=partial(report, net, tokenizer, data),
        tokens_per_row=tokenizer.length + vit.POOLINGS[pool].extra_tokens,
        net=net,
        tokenizer=tokenizer,
        data=data,
    )


if __name__ == "__main__":
    main.main(experiment)
