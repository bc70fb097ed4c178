"""Drawing by flow: how far drawings lie from what is real, and the experiment."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import dit_flow
from transformer.evaluation import frechet, generated_images
from transformer.objectives import denoising
from transformer.plots import image_grid
from transformer.processes import flow_matching
from transformer.training import update

RNG = np.random.default_rng(0)


def test_frechet_distance_of_normal_distributions_is_its_formula() -> None:
    """Independent features: |m - m'|^2 + the sum of (s - s')^2."""
    noise = RNG.normal(size=(2, 200_000, 3))
    means, deviations = (
        np.array([[0, 1, 2], [1, 1, 0]]),
        np.array([[1, 2, 3], [2, 2, 1]]),
    )
    one, other = means[:, None] + deviations[:, None] * noise
    expected = np.square(means[0] - means[1]).sum()
    expected += np.square(deviations[0] - deviations[1]).sum()
    np.testing.assert_allclose(frechet.frechet(one, other), expected, rtol=0.02)
    assert frechet.frechet(one, one) == pytest.approx(0, abs=1e-6)
    turn = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    turned = frechet.frechet(one @ turn, other @ turn)
    assert turned == pytest.approx(frechet.frechet(one, other), rel=1e-6)
    with pytest.raises(ValueError, match="expected two sets"):
        frechet.frechet(one, other[:, :2])


def test_a_copy_is_near_what_it_copies() -> None:
    known = RNG.integers(0, 256, (20, 4, 4, 1)).astype(np.uint8)
    assert frechet.nn_distance(known[:5], known) == 0
    other = known[:5].astype(int) + np.where(known[:5] < 128, 51, -51)
    apart = frechet.nn_distance(other.astype(np.uint8), known)
    assert apart == pytest.approx(0.2, abs=1e-6)


def test_sheets_show_every_image_where_it_belongs() -> None:
    images = RNG.integers(0, 256, (2, 3, 4, 5, 1)).astype(np.uint8)
    sheet = image_grid.sheet(images, enlarged=2, gap=1)
    assert sheet.shape == (2 * (2 * 5 - 1), 2 * (3 * 6 - 1), 3)
    for down, across in np.ndindex(2, 3):
        part = sheet[10 * down : 10 * down + 8 : 2, 12 * across : 12 * across + 10 : 2]
        np.testing.assert_array_equal(part, images[down, across].repeat(3, -1))
    white = np.full((1, 2, 2, 1), 255, np.uint8)
    assert image_grid.ascii_art(white) == "@@@@\n@@@@"


class Judge:
    """Tells a class by its brightness, and sees the mean and the deviation."""

    @staticmethod
    def features(images: np.ndarray) -> np.ndarray:
        flat = images.reshape(len(images), -1) / 255
        return np.stack([flat.mean(1), flat.std(1)], 1)

    @staticmethod
    def logits(images: np.ndarray) -> np.ndarray:
        bright = Judge.features(images)[:, 0]
        return np.stack([0.5 - bright, bright - 0.5], 1)


def test_a_study_tells_what_the_judge_says() -> None:
    label = np.repeat([0, 1], 10)
    held = np.clip(
        60 + 120 * label[:, None, None, None] + RNG.normal(0, 20, (20, 4, 4, 1)), 0, 255
    ).astype(np.uint8)
    real = generated_images.reference_set(held, held, label, each=5)
    assert real.label.tolist() == [0] * 5 + [1] * 5

    def draw(label: np.ndarray, steps: int) -> np.ndarray:
        """Right, but in one step all alike."""
        return real.unseen if steps == 2 else np.zeros_like(real.unseen)

    numbers, pictures = generated_images.evaluate_samples(
        Judge, draw, real, steps=(1, 2)
    )
    assert numbers["recognised, 1 steps"] == 0.5 and numbers["recognised"] == 1
    assert numbers["Frechet distance"] < numbers["Frechet distance, 1 steps"]
    assert {"samples.png", "steps.png", "quality.png"} <= set(pictures)


def test_rows_that_fill_up_a_batch_do_not_count() -> None:
    x_BLP = jax.random.normal(jax.random.key(0), (4, 3, 2))

    def loss(weight_B: Any) -> Any:
        return denoising.denoising_loss(
            flow_matching.process(),
            denoising.squared_error,
            lambda seen, t: jnp.zeros_like(seen),
            x_BLP,
            jax.random.key(1),
            weight_B=jnp.asarray(weight_B, jnp.float32),
        )

    parts = [loss([1, 1, 0, 0]), loss([0, 0, 1, 1])]
    np.testing.assert_allclose(
        sum(float(part.total) for part in parts), loss([1] * 4).total, rtol=1e-6
    )
    assert float(parts[0].weight) == 6


def test_training_lowers_the_loss_and_draws_images() -> None:
    experiment = dit_flow.experiment(
        depth=1, width=32, patch=7, batch_size=32, steps=25, dtype="float32"
    )
    state = jax.jit(lambda: update.init_state(experiment))()
    advance = jax.jit(lambda *given: update.update(experiment, *given))
    losses = []
    for step in range(experiment.steps):
        state, told = advance(state, experiment.batch(step, range(32)))
        losses.append(experiment.metrics(told.loss)["loss"])
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    artist = experiment.report.args[0]
    images = [
        artist.images(state.params, [3, 3, 7], jax.random.key(seed), steps=2)
        for seed in (0, 0, 1)
    ]
    assert images[0].shape == (3, 28, 28, 1) and images[0].dtype == np.uint8
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).any() and (images[0][0] != images[0][1]).any()


def test_guidance_follows_the_class_and_no_class_is_a_class() -> None:
    experiment = dit_flow.experiment(depth=1, width=32, patch=7, dtype="float32")
    artist = experiment.report.args[0]
    params = experiment.init(jax.random.key(0))
    params = jax.tree.map(
        lambda a: a + 0.3 * jax.random.normal(jax.random.key(1), a.shape), params
    )
    raw_BLP = jax.random.normal(jax.random.key(2), (1, 16, 49))
    said = [
        np.asarray(artist.predict(params, jnp.array([c]), raw_BLP, jnp.array([t])))
        for c, t in ((0, 0.5), (10, 0.5), (0, 0.6))
    ]
    assert np.abs(said[0] - said[1]).max() > 1e-3 < np.abs(said[0] - said[2]).max()
