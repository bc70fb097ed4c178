"""Sampling from a process: guidance, classes, and keys."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.generation import process_sampler
from transformer.processes import flow_matching, masked_diffusion

KEY = jax.random.key(0)
MASK_ID = 9


def test_guidance_scale_one_is_conditional_and_more_extrapolates() -> None:
    conditional, unconditional = (lambda x, t, c=c: x + c for c in (2.0, 1.0))
    x: Any = np.zeros((1, 1, 1))
    t: Any = np.zeros(1)
    for scale, expected in ((0.0, 1.0), (1.0, 2.0), (3.0, 4.0)):
        guide = process_sampler.classifier_free_guidance(
            conditional, unconditional, scale=scale
        )
        assert float(guide(x, t)[0, 0, 0]) == expected


def test_zero_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="steps: expected at least 1, got 0"):
        process_sampler.sample(
            flow_matching.process(), lambda x, t: x, KEY, like=KEY, steps=0
        )


def test_a_sample_is_a_function_of_its_key() -> None:
    """Compiled or not; another key gives another sample."""
    rng = np.random.default_rng(0)
    logits_BLV = jnp.asarray(rng.normal(size=(2, 16, MASK_ID + 1)).astype(np.float32))
    like = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    process = masked_diffusion.process(mask_id=MASK_ID)
    run = partial(
        process_sampler.sample, process, lambda x, t: logits_BLV, like=like, steps=4
    )
    compiled = jax.jit(run)
    first, again, other = run(KEY), compiled(KEY), compiled(jax.random.key(1))
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any()


def test_class_samples_are_guided_away_from_the_null_label() -> None:
    """Where the velocity is the label, a row moves by null + scale (label - null). One
    Euler step is exact where the velocity is constant."""

    def predict(label_B: jax.Array, x_BLP: jax.Array, t_B: jax.Array) -> jax.Array:
        return jnp.broadcast_to(label_B[:, None, None].astype(jnp.float32), x_BLP.shape)

    like = jax.ShapeDtypeStruct((1, 2, 3), jnp.float32)
    label_B = np.array([1, 5])
    noise_BLP = flow_matching.gaussian_noise(
        jax.random.fold_in(KEY, 0), jax.ShapeDtypeStruct((2, 2, 3), jnp.float32)
    )
    for scale, steps in ((1.0, 1), (3.0, 1), (3.0, 7)):
        run = partial(
            process_sampler.sample_classes,
            flow_matching.process(),
            predict,
            like=like,
            steps=steps,
            null_label=2,
            scale=scale,
        )
        got = jax.jit(run)(label_B, KEY)
        velocity_B = 2 + scale * (label_B - 2)
        np.testing.assert_allclose(
            np.asarray(got) - noise_BLP,
            np.broadcast_to(velocity_B[:, None, None], got.shape),
            atol=1e-5,
        )


def test_class_sampler_decodes_samples_of_the_classes() -> None:
    like = jax.ShapeDtypeStruct((1, 2, 3), jnp.float32)
    options = {"like": like, "null_label": 2, "scale": 3.0}

    def predict(params: float, label_B: jax.Array, x: jax.Array, t: jax.Array) -> Any:
        return params * x + label_B[:, None, None]

    process = flow_matching.process()
    sample = process_sampler.class_sampler(
        process, predict, lambda rows: -np.asarray(rows), **options
    )
    run = partial(
        process_sampler.sample_classes, process, partial(predict, 0.5), **options
    )
    expected = jax.jit(partial(run, steps=3))(np.array([1, 0]), KEY)
    got = sample(0.5, [1, 0], KEY, steps=3)
    np.testing.assert_allclose(-got, expected, atol=1e-5)


def test_text_samples_are_guided_away_from_the_null_text() -> None:
    """Where the velocity is a text's first id, a row moves by null + scale (id - null).
    Padding is part of the text that the model receives."""

    def predict(shift: float, text: Any, x_BLP: jax.Array, t_B: jax.Array) -> jax.Array:
        ids_BL, segment_BL = text
        speed_B = shift + ids_BL[:, 0] + 10.0 * (segment_BL.sum(1) == 0)
        return jnp.broadcast_to(speed_B[:, None, None], x_BLP.shape)

    def encode(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Id 2 and no segment for no text."""
        ids_BL = np.array([[len(text) or 2, 0] for text in texts])
        return ids_BL, np.array([[len(text) > 0] * 2 for text in texts])

    like = jax.ShapeDtypeStruct((1, 2, 3), jnp.float32)
    sample = process_sampler.text_sampler(
        flow_matching.process(), predict, encode, np.asarray, like=like, scale=3.0
    )
    noise_BLP = flow_matching.gaussian_noise(
        jax.random.fold_in(KEY, 0), jax.ShapeDtypeStruct((2, 2, 3), jnp.float32)
    )
    for steps in (1, 7):
        got = sample(0.5, ["a", "abcde"], KEY, steps=steps)
        null, text_B = 12.5, np.array([1.5, 5.5])
        velocity_B = null + 3 * (text_B - null)
        np.testing.assert_allclose(
            got - noise_BLP,
            np.broadcast_to(velocity_B[:, None, None], got.shape),
            atol=1e-4,
        )


@pytest.mark.parametrize("known", [[True, False], [True, True]])
@pytest.mark.parametrize("time, first", [(0.0, 0.0), (0.3, 0.5), (0.5, 0.5), (1.0, 1)])
def test_sampling_starts_from_noised_rows(
    known: list[bool], time: float, first: float
) -> None:
    """Two steps of a constant velocity: a known row is (1 - t) noise + t row and what
    is left of the way, from the first step that is not before the time; another is as
    without a start."""
    like = jax.ShapeDtypeStruct((2, 2, 3), jnp.float32)
    x_BLP = np.float32(np.random.default_rng(1).normal(size=like.shape))
    start: Any = process_sampler.Start(x_BLP, np.array(known), time)
    process = flow_matching.process()
    sample = jax.jit(
        partial(
            process_sampler.sample, process, lambda x, t: 0 * x + 3, like=like, steps=2
        )
    )
    without, got = sample(KEY), sample(KEY, start=start)
    noise_BLP = np.asarray(
        flow_matching.gaussian_noise(jax.random.fold_in(KEY, 2), like)
    )
    noised_BLP = (1 - first) * noise_BLP + first * x_BLP + 3 * (1 - first)
    expected = np.where(np.reshape(known, (2, 1, 1)), noised_BLP, without)
    np.testing.assert_allclose(got, expected, atol=1e-5)
