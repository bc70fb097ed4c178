"""Drawing with symbols: images in few greys, simple codes for them, and the two
experiments."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import image_gpt, maskgit
from transformer.data.sources import images as image_source
from transformer.data.images import gray_levels
from transformer.evaluation import generated_images
from transformer.evaluation.baselines import pixel_codes
from transformer.generation import logit_filters, process_sampler
from transformer.processes import autoregressive
from transformer.training import update

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("square", [1, 2])
def test_images_of_few_greys_come_back(square: int) -> None:
    images = RNG.choice([0, 85, 170, 255], (3, 4, 4, 1)).astype(np.uint8)
    symbols = gray_levels.quantize(images, 4, patch=square)
    assert symbols.shape == (3, 16 // square**2) and symbols.dtype == np.int32
    assert symbols.max() < 4 ** (square**2)
    back = gray_levels.dequantize(symbols, 4, 4, patch=square)
    np.testing.assert_array_equal(back, images)


def test_the_nearest_grey_stands_for_a_pixel() -> None:
    images = np.array([0, 42, 43, 127, 128, 255], np.uint8).reshape(1, 2, 3, 1)
    assert gray_levels.quantize(images, 4).tolist() == [[0, 0, 1, 1, 2, 3]]
    small = gray_levels.downsample(images.repeat(2, 1).repeat(2, 2), 2)
    np.testing.assert_array_equal(small, images)
    assert gray_levels.downsample(images[:, :, :2], 2).item() == round(
        (0 + 42 + 127 + 128) / 4
    )
    flat = np.full((1, 3, 3, 1), 170, np.uint8)
    assert (gray_levels.resize(flat, 6, 6) == 170).all()


def test_what_does_not_fit_is_refused() -> None:
    images = np.zeros((2, 6, 6, 1), np.uint8)
    with pytest.raises(ValueError, match="multiples of 4, got 6 x 6"):
        gray_levels.downsample(images, 4)
    with pytest.raises(ValueError, match="got 1 levels in patches of 1"):
        gray_levels.quantize(images, 1)
    with pytest.raises(ValueError, match="got 8 levels in patches of 3"):
        gray_levels.quantize(images, 8, patch=3)
    data = image_source.load("digits")
    wide = {"image": data.train["image"][:, :, :14], "label": data.train["label"]}
    with pytest.raises(ValueError, match="digits: expected square.* got 28 x 14 x 1"):
        gray_levels.quantize_records(data._replace(train=wide), gray_levels=4, shrink=2)


def test_a_mixture_is_a_distribution_and_fits_better_each_round() -> None:
    kinds = RNG.integers(0, 3, (2, 4))
    symbols = kinds[RNG.integers(0, 2, 300)]
    noise = RNG.random(symbols.shape) < 0.2
    symbols = np.where(noise, RNG.integers(0, 3, symbols.shape), symbols)
    every = np.array(list(itertools.product(range(3), repeat=4)))
    hot, all_hot = pixel_codes.one_hot(symbols, 3), pixel_codes.one_hot(every, 3)
    nats = []
    for rounds in (1, 2, 4, 30):
        mixture = pixel_codes.fit_mixture(
            symbols, 3, kinds=2, smoothing=0.01, rounds=rounds
        )
        total = np.exp(pixel_codes.log_probability(mixture, all_hot)).sum()
        assert total == pytest.approx(1, abs=1e-9)
        nats.append(-pixel_codes.log_probability(mixture, hot).mean())
    assert nats == sorted(nats, reverse=True)
    alone = pixel_codes.fit_mixture(symbols, 3, kinds=1, smoothing=0.01)
    assert -pixel_codes.log_probability(alone, hot).mean() > nats[-1] + 0.3
    counts = np.eye(3)[symbols].sum(0) + 0.01
    by_hand = np.log(counts / counts.sum(1, keepdims=True)).ravel()
    np.testing.assert_allclose(alone.log_chance[0], by_hand)


def test_a_mixture_is_fitted_to_each_class() -> None:
    """Classes that are each one image cost nothing, once the class is known."""
    label = np.repeat([0, 1], 200)
    symbols = RNG.integers(0, 4, (2, 9))[label]
    arrays = symbols, label, symbols[150:250], label[150:250]
    cost = pixel_codes.mixture_bits(*arrays, gray_levels=4, kinds=1, smoothing=1e-6)
    assert 0 <= cost < 1e-6


def test_a_png_holds_the_images() -> None:
    noise = RNG.integers(0, 4, (400, 49))
    assert 2 <= pixel_codes.png_bits(noise, 4, 7) < 2.6
    assert pixel_codes.png_bits(np.zeros_like(noise), 4, 7) < 0.1


def lowered(experiment: Any, rows: int) -> Any:
    """The parameters of a short training, whose loss must fall."""
    state = jax.jit(lambda: update.init_state(experiment))()
    advance = jax.jit(lambda *given: update.update(experiment, *given))
    losses = []
    for step in range(experiment.steps):
        state, told = advance(state, experiment.batch(step, range(rows)))
        losses.append(experiment.metrics(told.loss)["loss"])
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    return state.params


TINY = {"depth": 1, "width": 32, "batch_size": 16, "dtype": "float32"}


def test_masked_training_lowers_the_loss_and_draws_images() -> None:
    experiment = maskgit.experiment(steps=20, temperature=2.0, **TINY)
    params = lowered(experiment, 16)
    artist = experiment.report.args[0]
    assert artist.greys.grid == (7, 7) and artist.greys.vocab_size == 256
    keys = [jax.random.key(seed) for seed in (0, 0, 1)]
    drawn = [artist.images(params, [3, 3, 7], key, steps=2) for key in keys]
    assert drawn[0].shape == (3, 28, 28, 1) and drawn[0].dtype == np.uint8
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any() and (drawn[0][0] != drawn[0][1]).any()
    other = artist.images(params, [3, 8, 7], keys[0], steps=2)
    assert (other != drawn[0]).any((1, 2, 3)).tolist() == [False, True, False]


@pytest.fixture(scope="module")
def pixels() -> tuple[Any, Any]:
    """(the painter, parameters after a short training)."""
    experiment = image_gpt.experiment(steps=20, **TINY)
    params = lowered(experiment, 16)
    return experiment.report.args[0], params


def test_pixels_are_drawn_as_the_process_defines(pixels: Any) -> None:
    """Cached decoding against `sampler.sampled`, greedily, so that keys play no part;
    and half of an image stays as it was given."""
    artist, params = pixels
    label_B = jnp.asarray([4, 9])

    def greedy(logits_BV: jax.Array, key: jax.Array) -> jax.Array:
        return logit_filters.greedy(logits_BV[:, : artist.greys.gray_levels], key)

    def predict(ids_BL: jax.Array, t_B: jax.Array) -> jax.Array:
        return artist.predict(params, label_B, ids_BL, t_B)

    like = jax.ShapeDtypeStruct((2, 196), jnp.int32)
    process = autoregressive.process(choose=greedy)
    ids = jax.jit(
        lambda key: process_sampler.sample(process, predict, key, like=like, steps=196)
    )(jax.random.key(0))
    got = artist._replace(choose=greedy).images(params, label_B, jax.random.key(0))
    np.testing.assert_array_equal(got, artist.greys.images(np.asarray(ids)))


def test_a_class_is_never_drawn_as_a_pixel(pixels: Any) -> None:
    artist, _ = pixels
    logits_BV = jnp.zeros((500, 14)).at[:, artist.greys.gray_levels :].set(9.0)
    got = artist.choose(logits_BV, jax.random.key(0))
    assert set(np.unique(got)) == set(range(artist.greys.gray_levels))


def test_the_bits_of_a_model_that_says_nothing_are_those_of_its_vocabulary(
    pixels: Any,
) -> None:
    """Of 4 greys and 10 classes, in parts of 250 images and a rest."""
    artist, params = pixels
    held = {name: a[:260] for name, a in artist.greys.validation.items()}
    few = artist._replace(greys=artist.greys._replace(validation=held))
    silent = {**params, "unembedding_VD": 0 * params["unembedding_VD"]}
    assert image_gpt.bits(few, silent) == pytest.approx(np.log2(14), rel=1e-5)


def test_pixels_go_on_from_what_is_given(pixels: Any) -> None:
    artist, params = pixels
    held = artist.greys.validation
    ids, label = held["ids_BL"][:3], held["label_B"][:3]
    nearly = artist.images(params, label, jax.random.key(0), ids[:, :195])
    true = artist.greys.images(ids)
    np.testing.assert_array_equal(nearly[:, :20], true[:, :20])
    fresh = [
        artist.images(params, label, jax.random.key(seed), ids[:, :98])
        for seed in (0, 1)
    ]
    assert (fresh[0] != fresh[1]).any() and (fresh[0] != true).any()


def test_a_pixel_does_not_see_itself_or_what_follows(pixels: Any) -> None:
    artist, params = pixels
    ids_BL = jnp.asarray(artist.greys.validation["ids_BL"][:1])
    none_B = jnp.zeros(1)
    base = artist.predict(params, jnp.asarray([2]), ids_BL, none_B)
    changed_BL = ids_BL.at[0, 60].set((ids_BL[0, 60] + 1) % 4)
    after = artist.predict(params, jnp.asarray([2]), changed_BL, none_B)
    apart = np.abs(np.asarray(after - base))[0].max(-1)
    assert apart[:61].max() < 1e-5 < apart[61]
    other = artist.predict(params, jnp.asarray([3]), ids_BL, none_B)
    assert np.abs(np.asarray(other - base))[0, 0].max() > 1e-4


def test_real_images_are_judged_in_the_greys_that_are_drawn() -> None:
    greys = gray_levels.quantize_records(
        image_source.load("digits"), gray_levels=4, shrink=2
    )
    few = greys._replace(
        train={name: a[:50] for name, a in greys.train.items()},
        validation={name: a[:200] for name, a in greys.validation.items()},
    )
    real = generated_images.gray_reference_set(few, each=3)
    assert real.label.tolist() == [c for c in range(10) for _ in range(3)]
    assert real.unseen.shape == (30, 28, 28, 1) and len(real.train) == 50
