"""Can a diffusion transformer draw the digit that it is asked for, and in few steps?

    python -m experiments.dit_flow
    python -m experiments.dit_flow generate --digits=2026

Digits of 28 x 28 in 49 patches, 1.6 M parameters, 500 steps of training. A recogniser
that reads 99.2 % of such real digits reads **97.2 %** of 500 drawings made in 4 steps
as the digit asked for, 95.0 % of those made in 32. Frechet distance in its features
from the training digits: 0.114 and 0.148; of as many held-out digits, the best to be
hoped for, 0.088. 2 min 39 s on two cores, 256 s of CPU time.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import classify_images
from transformer import cpu_tuning, main
from transformer.data import records
from transformer.data.sources import images as image_source
from transformer.data.images import patches
from transformer.evaluation import generated_images
from transformer.generation import process_sampler, terminal_images
from transformer.models import dit
from transformer.network import embeddings, masks, precision
from transformer.objectives import denoising
from transformer.objectives.loss import Loss
from transformer.plots import sample_quality
from transformer.processes import flow_matching
from transformer.training import optimizers
from transformer.training.experiment import Evaluation, Experiment

PROCESS = flow_matching.process(sample_time=flow_matching.logit_normal_times)
STEPS = (1, 2, 4, 8, 16, 32)
DRAWN = 50
AT_ONCE = 250
FORGOTTEN = 0.1


class Painter(NamedTuple):
    """A denoiser of patches of the images of `data`, without parameters.

    shape: of an image: rows, columns, channels. size: of a patch. like: a row of raw
    patches. guidance: how much the class is exaggerated.
    """

    data: records.Records
    shape: tuple[int, ...]
    size: tuple[int, int]
    like: Any
    net: Any
    dtype: Any
    guidance: float

    def predict(
        self, params: Any, label_B: jax.Array, x_BLP: jax.Array, t_B: jax.Array
    ) -> jax.Array:
        """The velocity; the label one past the last means any class."""
        tokens = masks.single_document(x_BLP.shape[1])
        return self.net.apply({"params": params}, x_BLP, t_B, label_B, tokens)

    def drawn(self, params: Any, label_B: Any, key: jax.Array, *, steps: int) -> Any:
        """Raw patches of images of the classes `label_B`."""
        label_B = jnp.asarray(label_B, jnp.int32)
        return process_sampler.sample_classes(
            PROCESS,
            partial(self.predict, precision.cast_weights(params, self.dtype)),
            label_B,
            key,
            like=self.like,
            steps=steps,
            null_label=len(self.data.labels),
            scale=self.guidance,
        )

    def images(self, params: Any, label: Any, key: jax.Array, *, steps: int) -> Any:
        """The same as 8-bit images, numpy."""
        draw = jax.jit(partial(self.drawn, steps=steps))
        return patches.to_images(draw(params, label, key), self.shape[:2], self.size)


def painter(
    source: str, *, patch: int, depth: int, width: int, dtype: Any, guidance: float
) -> Painter:
    """ValueError where patches do not fill the images."""
    data, size = image_source.load(source), (patch, patch)
    shape = data.train["image"].shape[1:]
    places = patches.grid(shape[:2], size)
    features = patch * patch * shape[2]
    net = dit.dit(
        make_embed=partial(embeddings.PatchEmbedding, features=features),
        grid=places,
        output_features=features,
        classes=len(data.labels),
        depth=depth,
        width=width,
    )
    row = 1, places[0] * places[1], features
    like = jax.ShapeDtypeStruct(row, jnp.float32)
    return Painter(data, shape, size, like, net, dtype, guidance)


def show(
    artist: Painter, judge: Path | None, params: Any, key: jax.Array
) -> dict[str, Any]:
    """Samples, and what the recogniser says of them by the number of steps."""
    held = artist.data.validation
    study = generated_images.evaluate_samples(
        classify_images.judge(judge),
        lambda label, steps: artist.images(params, label, key, steps=steps),
        generated_images.reference_set(
            artist.data.train["image"], held["image"], held["label"], each=DRAWN
        ),
        steps=STEPS,
    )
    name = f"guidance {artist.guidance:g}"
    return {
        "results.json": generated_images.results(study),
        **sample_quality.figures(study, name=name),
    }


def report(loss: Loss) -> dict[str, float]:
    """The mean squared error of a velocity's feature."""
    return {"loss": float(loss.total) / float(loss.weight)}


def experiment(
    *,
    source: str = "digits",
    patch: int = 4,
    depth: int = 5,
    width: int = 128,
    guidance: float = 2.0,
    batch_size: int = 64,
    steps: int = 500,
    matrix_rate: float = 0.02,
    vector_rate: float = 0.005,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    seed: int = 0,
    judge: Path | None = None,
) -> Experiment:
    """Flow matching of images by their class, with a diffusion transformer.

    Args:
        source: digits, a TFDS name of labelled images, or the path of class folders.
        patch: pixels along a patch's side.
        depth: blocks.
        width: features of a token, 32 for each head.
        guidance: how much the class is exaggerated in drawing; 1 is not at all.
        batch_size: images in a step.
        steps: of training.
        matrix_rate: peak learning rate of the blocks' matrices, by Muon.
        vector_rate: peak learning rate of all else, by Adam.
        dtype: of the products; auto is bfloat16 where the machine multiplies it fast.
        seed: of the parameters, the order of the images, the noise and the samples.
        judge: folder of a run of experiments.classify_images; none trains it, once for all.
    """
    compute = cpu_tuning.compute_dtype() if dtype == "auto" else dtype
    artist = painter(
        source, patch=patch, depth=depth, width=width, dtype=compute, guidance=guidance
    )
    data = artist.data

    def as_batch(
        row: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        raw, one = patches.from_images(row["image"], artist.size), np.ones((), np.float32)
        return {"raw_BLP": raw, "label_B": row["label"], "weight_B": one}

    def loss(
        forgotten: float, params: Any, batch: dict[str, Any], key: jax.Array
    ) -> Loss:
        told_B = denoising.drop_labels(
            batch["label_B"], key, rate=forgotten, null_label=len(data.labels)
        )
        narrow = precision.cast_weights(params, compute)
        return denoising.denoising_loss(
            PROCESS,
            denoising.squared_error,
            partial(artist.predict, narrow, told_B),
            batch["raw_BLP"],
            key,
            weight_B=batch["weight_B"],
        )

    train = records.shuffled(
        data.train,
        batch_size=batch_size,
        seed=seed,
        prepare=as_batch,
        name=data.name,
    )
    held_out = records.ordered(data.validation, batch_size=AT_ONCE, prepare=as_batch)
    init = partial(dit.init_params, artist.net, like=artist.like)
    length = artist.like.shape[1]
    return Experiment(
        name="draw_flow",
        fingerprint=(
            f"diffusion transformer of {source}: {depth} blocks of width {width}, "
            f"patches of {patch}, {len(data.labels)} classes"
        ),
        init=init,
        loss=partial(loss, FORGOTTEN),
        batch=train.batch,
        batch_size=batch_size,
        optimizer=optimizers.muon_wsd(
            steps, matrix_rate=matrix_rate, vector_rate=vector_rate, decay=0.6
        ),
        steps=steps,
        metrics=report,
        seed=seed,
        evaluations={
            "validation": Evaluation(
                batch=held_out.batch,
                batch_size=AT_ONCE,
                batches=held_out.batches,
                loss=partial(loss, 0.0),
                metrics=report,
            )
        },
        report=partial(show, artist, judge),
        generate=partial(terminal_images.generate, artist.images),
        tokens_per_row=length,
    )


if __name__ == "__main__":
    main.main(experiment, generate=terminal_images.generate)
