"""Videos continued frame by frame, by a model that can be computed by hand."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.generation import frame_prediction

FRAMES, KNOWN, SIZE = 16, 3, 4
RNG = np.random.default_rng(0)
RAW_BLP = RNG.uniform(0.1, 0.9, (2, FRAMES * SIZE, 1)).astype(np.float32)


def mean_of_the_past(raw_BLP: jax.Array) -> jax.Array:
    """For each frame half of the mean of it and those before it."""
    frames = raw_BLP.reshape(len(raw_BLP), FRAMES, SIZE, -1)
    count = 2.0 * jnp.arange(1, FRAMES + 1)[None, :, None, None]
    return (jnp.cumsum(frames, 1) / count).reshape(raw_BLP.shape)


def by_hand(raw_BLP: np.ndarray) -> np.ndarray:
    frames = raw_BLP.reshape(len(raw_BLP), FRAMES, SIZE, -1).copy()
    for frame in range(KNOWN, FRAMES):
        frames[:, frame] = frames[:, :frame].mean(1) / 2
    return frames.reshape(raw_BLP.shape)


def test_each_frame_is_predicted_from_the_known_and_the_predicted_ones() -> None:
    predict = jax.jit(
        partial(
            frame_prediction.predict_frames,
            mean_of_the_past,
            context_frames=KNOWN,
            tokens_per_frame=SIZE,
        )
    )
    got = predict(RAW_BLP)
    np.testing.assert_array_equal(got[:, : KNOWN * SIZE], RAW_BLP[:, : KNOWN * SIZE])
    np.testing.assert_allclose(got, by_hand(RAW_BLP), atol=1e-6)


def test_a_continuation_is_of_the_sigmoids_of_logits() -> None:
    def logits(params: jax.Array, raw_BLP: jax.Array) -> jax.Array:
        gray_BLP = params * mean_of_the_past(raw_BLP)
        return jnp.log(gray_BLP) - jnp.log1p(-gray_BLP)

    continue_video = frame_prediction.continuation(
        logits, context_frames=KNOWN, tokens_per_frame=SIZE
    )
    got = continue_video(jnp.ones(()), RAW_BLP)
    np.testing.assert_allclose(got, by_hand(RAW_BLP), atol=1e-5)


def test_the_true_and_the_predicted_frames_are_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """White where the seed is the truth, black where it is predicted."""

    def decode(raw: np.ndarray) -> np.ndarray:
        return (255 * raw.reshape(1, FRAMES, 2, 2, 1)).astype(np.uint8)

    predicted = frame_prediction.generate(
        lambda seed: np.full((1, FRAMES * SIZE, 1), seed, np.float32),
        lambda params, raw: params * raw,
        decode,
        np.float32(0),
        jax.random.key(0),
        sample_seed=1,
    )
    assert predicted.shape == (FRAMES, 2, 2, 1) and not predicted.any()
    width = 2 * 2 * len(frame_prediction.SHOWN_FRAMES)
    line = width * "@"
    assert capsys.readouterr().out.split("\n")[:2] == [line, line + " "]
