"""The video experiment: its data, its training, and its predictions."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
import short_training

from experiments import video
from transformer.generation import frame_prediction
from transformer.models import video as video_model

TINY: Any = {"patch": 8, "depth": 2, "width": 32, "batch_size": 4}


def test_a_video_depends_on_seed_and_row_alone_and_the_splits_share_no_digit() -> None:
    one, same, other = (video.experiment(**TINY, seed=n) for n in (0, 0, 1))
    whole = one.batch(3, range(4))["raw_BLP"]
    one.batch(5, range(4))
    np.testing.assert_array_equal(same.batch(3, [2])["raw_BLP"][0], whole[2])
    assert (whole[1] != whole[2]).any()
    assert (other.batch(3, range(4))["raw_BLP"] != whole).any()
    train, held = (
        {image.tobytes() for image in part["image"]}
        for part in (one.data.train, one.data.validation)
    )
    assert len(train) > 1000 and len(held) > 500 and not train & held


def test_training_lowers_the_loss_and_frames_are_predicted_from_those_before() -> None:
    made = video.experiment(**TINY, steps=16, dtype="float32")
    trained = short_training.train(made)
    assert np.mean(trained.losses[-3:]) < 0.7 * trained.losses[0]
    logits = partial(video_model.apply, made.net, compute_dtype="float32")
    size = made.tokenizer.tokens_per_frame
    known = video.CONTEXT_FRAMES * size
    continue_video = frame_prediction.continuation(
        logits, context_frames=video.CONTEXT_FRAMES, tokens_per_frame=size
    )
    raw_BLP = made.evaluations["validation"].batch(0, range(2))["raw_BLP"]
    predicted = continue_video(trained.params, raw_BLP)
    np.testing.assert_array_equal(predicted[:, :known], raw_BLP[:, :known])
    gray = raw_BLP.copy()
    gray[:, known:] = 0.5
    again = continue_video(trained.params, gray)
    np.testing.assert_allclose(predicted, again, atol=1e-5)
    expected = jax.nn.sigmoid(jax.jit(logits)(trained.params, predicted))
    np.testing.assert_allclose(
        predicted[:, known:], expected[:, known - size : -size], atol=1e-4
    )
