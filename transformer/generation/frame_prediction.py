"""Videos continued frame by frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from transformer import checks
from transformer.generation.terminal_images import ascii_art

SHOWN_FRAMES = (5, 6, 10, 15)


def predict_frames(
    predict: Callable[[jax.Array], jax.Array],
    raw_BLP: jax.Array,
    *,
    context_frames: int,
    tokens_per_frame: int,
) -> jax.Array:
    """The videos (B, T S, P) with all frames from `context_frames` on replaced by
    predictions, one after the other, each from those before it.

    predict(raw_BLP): for each token the tubelet at its position one frame later.
    """

    def step(frame: jax.Array, video_BLP: jax.Array) -> jax.Array:
        next_BLP = jax.lax.dynamic_slice_in_dim(
            predict(video_BLP), (frame - 1) * tokens_per_frame, tokens_per_frame, axis=1
        )
        return jax.lax.dynamic_update_slice_in_dim(
            video_BLP, next_BLP, frame * tokens_per_frame, axis=1
        )

    frames = raw_BLP.shape[1] // tokens_per_frame
    return jax.lax.fori_loop(context_frames, frames, step, raw_BLP)


def continuation(
    logits: Callable[[Any, jax.Array], jax.Array],
    *,
    context_frames: int,
    tokens_per_frame: int,
) -> Callable[[Any, Any], jax.Array]:
    """`predict_frames` as a jitted function of (params, raw_BLP), for a model of gray
    values. logits(params, raw_BLP): of each gray value one frame later."""

    @jax.jit
    def continue_video(params: Any, raw_BLP: jax.Array) -> jax.Array:
        return predict_frames(
            lambda x_BLP: jax.nn.sigmoid(logits(params, x_BLP)),
            raw_BLP,
            context_frames=context_frames,
            tokens_per_frame=tokens_per_frame,
        )

    return continue_video


def generate(
    video_of: Callable[[int], np.ndarray],
    continue_video: Callable[[Any, np.ndarray], Any],
    decode: Callable[[Any], np.ndarray],
    params: Any,
    key: jax.Array,
    *,
    sample_seed: checks.Seed = 0,
) -> np.ndarray:
    """Continue a video: print the true frames and below them the predicted ones, as
    characters; return the predicted video, 8-bit.

    video_of(seed): a row of tubelets (1, L, P). continue_video(params, row). decode:
    from rows to videos.

    Args:
        sample_seed: another number gives another video.
    """
    true_BLP = video_of(sample_seed)
    predicted = decode(continue_video(params, true_BLP))[0]
    for video in (decode(true_BLP)[0], predicted):
        print(ascii_art(video[list(SHOWN_FRAMES)]), "\n")
    return predicted
