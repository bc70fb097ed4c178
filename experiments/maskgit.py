"""Can a model that fills in what is masked draw a digit, all places at once, in a few
steps?

    python -m experiments.maskgit
    python -m experiments.maskgit generate --digits=2026

Digits of 14 x 14 pixels, each the mean of four, in 4 greys; squares of 2 x 2 such
pixels are 49 symbols of 256. 1.3 M parameters, 1000 steps of the masked-symbol
objective. The recogniser, which reads 98.2 % of such real digits, reads **97.6 %** of
500 drawings made in 4 steps as the digit asked for, 98.4 % of those made in 32, 69.4 %
of those made in 2 (other draws of the same model: 95.4 and 96.4 in 4, 98.6 and 97.4 in
32). Frechet distance in its features from the training digits: 0.170 and 0.156; of as
many held-out digits, the best to be hoped for, 0.084. Which symbols are kept is mostly
chance: kept by the model's confidence alone, drawings are worse (0.379 and 0.464 in 32
steps). 5 min 14 s on two shared cores, 365 s of CPU time.
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
from transformer.data.images import gray_levels as levels_
from transformer.evaluation import generated_images
from transformer.generation import process_sampler, terminal_images
from transformer.models import dit
from transformer.network import embeddings, masks, precision
from transformer.objectives import cross_entropy, denoising
from transformer.objectives.loss import Loss
from transformer.plots import sample_quality
from transformer.processes import masked_diffusion
from transformer.processes.process import Process
from transformer.training import optimizers
from transformer.training.experiment import Evaluation, Experiment

STEPS = (1, 2, 4, 8, 16, 32)
DRAWN = 50
AT_ONCE = 250
FORGOTTEN = 0.1
SHRINK = 2


class Painter(NamedTuple):
    """A denoiser of symbols, without parameters.

    greys: the images as symbols. classes: how many. guidance: how much one is
    exaggerated.
    """

    greys: levels_.QuantizedImages
    classes: int
    net: Any
    process: Process
    dtype: Any
    guidance: float

    def predict(
        self, params: Any, label_B: jax.Array, ids_BL: jax.Array, t_B: jax.Array
    ) -> jax.Array:
        """Logits; the label one past the last means any class."""
        tokens = masks.single_document(ids_BL.shape[1])
        return self.net.apply({"params": params}, ids_BL, t_B, label_B, tokens)

    def drawn(self, params: Any, label_B: Any, key: jax.Array, *, steps: int) -> Any:
        """Symbols of images of the classes `label_B`."""
        label_B = jnp.asarray(label_B, jnp.int32)
        return process_sampler.sample_classes(
            self.process,
            partial(self.predict, precision.cast_weights(params, self.dtype)),
            label_B,
            key,
            like=self.greys.train["ids_BL"],
            steps=steps,
            null_label=self.classes,
            scale=self.guidance,
        )

    def images(self, params: Any, label: Any, key: jax.Array, *, steps: int) -> Any:
        """The same as 8-bit images, numpy."""
        draw = jax.jit(partial(self.drawn, steps=steps))
        return self.greys.images(draw(params, label, key))


def show(
    artist: Painter, judge: Path | None, params: Any, key: jax.Array
) -> dict[str, Any]:
    """Samples, and what the recogniser says of them by the number of steps."""
    study = generated_images.evaluate_samples(
        classify_images.judge(judge),
        lambda label, steps: artist.images(params, label, key, steps=steps),
        generated_images.gray_reference_set(artist.greys, each=DRAWN),
        steps=STEPS,
    )
    name = f"guidance {artist.guidance:g}"
    return {
        "results.json": generated_images.results(study),
        **sample_quality.figures(study, name=name),
    }


def report(pixels: int, loss: Loss) -> dict[str, float]:
    """The numbers that a person reads, out of the sums.

    bits_per_pixel: of the places that are hidden, each given those that are not; a
    bound on what images take where `masked.bound` hides them, not in training.
    """
    return {
        "loss": float(loss.total) / float(loss.weight),
        "bits_per_pixel": float(loss.total) / float(loss.weight) / np.log(2) / pixels,
        "accuracy": float(loss.sums["correct"]) / float(loss.sums["tokens"]),
    }


def experiment(
    *,
    source: str = "digits",
    gray_levels: int = 4,
    patch: int = 2,
    depth: int = 4,
    width: int = 128,
    guidance: float = 2.0,
    temperature: float = 0.7,
    caprice: float = 20.0,
    batch_size: int = 64,
    steps: int = 1000,
    matrix_rate: float = 0.02,
    vector_rate: float = 0.005,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    seed: int = 0,
    judge: Path | None = None,
) -> Experiment:
    """Masked generation of images by their class, pixels or squares as symbols.

    Args:
        source: digits, a TFDS name of labelled images, or the path of class folders.
        gray_levels: of grey that are told apart.
        patch: pixels along the side of what one symbol stands for.
        depth: blocks.
        width: features of a token, 32 for each head.
        guidance: how much the class is exaggerated in drawing; 1 is not at all.
        temperature: of the draw of symbols.
        caprice: how much chance there is in which symbols are kept.
        batch_size: images in a step.
        steps: of training.
        matrix_rate: peak learning rate of the blocks' matrices, by Muon.
        vector_rate: peak learning rate of all else, by Adam.
        dtype: of the products; auto is bfloat16 where the machine multiplies it fast.
        seed: of the parameters, the order of the images, what is hidden, the samples.
        judge: folder of a run of experiments.classify_images; none trains it, once for all.
    """
    compute = cpu_tuning.compute_dtype() if dtype == "auto" else dtype
    data = image_source.load(source)
    greys = levels_.quantize_records(data, gray_levels=gray_levels, shrink=SHRINK, patch=patch)
    hidden, classes = greys.vocab_size, len(data.labels)
    net = dit.dit(
        make_embed=partial(embeddings.TokenEmbedding, vocab_size=hidden + 1),
        grid=greys.grid,
        output_features=hidden + 1,
        classes=classes,
        depth=depth,
        width=width,
    )
    process = masked_diffusion.process(
        mask_id=hidden, temperature=temperature, choice_temperature=caprice
    )
    artist = Painter(greys, classes, net, process, compute, guidance)

    def loss(
        process: Process,
        forgotten: float,
        params: Any,
        batch: dict[str, Any],
        key: jax.Array,
    ) -> Loss:
        told_B = denoising.drop_labels(
            batch["label_B"], key, rate=forgotten, null_label=classes
        )
        return denoising.denoising_loss(
            process,
            cross_entropy.cross_entropy,
            partial(artist.predict, precision.cast_weights(params, compute), told_B),
            batch["ids_BL"],
            key,
            weight_B=batch.get("weight_B", 1.0),
        )

    train = records.shuffled(
        greys.train, batch_size=batch_size, seed=seed, name=data.name
    )
    held_out = records.ordered(greys.validation, batch_size=AT_ONCE)
    length = greys.train["ids_BL"].shape[1]
    like = jax.ShapeDtypeStruct((1, length), jnp.int32)
    init = partial(dit.init_params, net, like=like)
    numbers = partial(report, patch * patch)
    return Experiment(
        name="draw_masked",
        fingerprint=(
            f"masked transformer of {source}: {depth} blocks of width {width}, "
            f"{length} symbols of {hidden}, {classes} classes"
        ),
        init=init,
        loss=partial(loss, process, FORGOTTEN),
        batch=train.batch,
        batch_size=batch_size,
        optimizer=optimizers.muon_wsd(
            steps, matrix_rate=matrix_rate, vector_rate=vector_rate, decay=0.6
        ),
        steps=steps,
        metrics=numbers,
        seed=seed,
        evaluations={
            "validation": Evaluation(
                batch=held_out.batch,
                batch_size=AT_ONCE,
                batches=held_out.batches,
                loss=partial(loss, masked_diffusion.elbo(mask_id=hidden), 0.0),
                metrics=numbers,
            )
        },
        report=partial(show, artist, judge),
        generate=partial(terminal_images.generate, artist.images),
        tokens_per_row=length,
    )


if __name__ == "__main__":
    main.main(experiment, generate=terminal_images.generate)
