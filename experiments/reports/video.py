"""Errors of predicted frames beside baselines, frames in a row, and a GIF."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from transformer.data.images import moving_digits, patches
from transformer.plots import image_grid

CONTEXT_FRAMES = 6
AHEAD = (1, 5, 10)
SHOWN_FRAMES = (5, 6, 7, 8, 10, 12, 14, 15)
BLOCK, MAX_SPEED = 6, 2

Batch = dict[str, np.ndarray]


def frame(
    tokenizer: moving_digits.VideoTokenizer, video: Any, number: int
) -> np.ndarray:
    """The tubelets of one frame [B, S, P]."""
    size = tokenizer.tokens_per_frame
    return np.asarray(video[:, number * size : (number + 1) * size])


def motion_compensation(
    tokenizer: moving_digits.VideoTokenizer, video: np.ndarray, ahead: int
) -> np.ndarray:
    """The frame `ahead` after the context frames, by block motion, as tubelets."""
    shape = 1, tokenizer.side, tokenizer.side
    previous, last = (
        patches.unpatchify(
            frame(tokenizer, video, CONTEXT_FRAMES + n), shape, tokenizer.tubelet_size
        )[:, 0]
        for n in (-2, -1)
    )
    options: Any = {"block": BLOCK, "max_speed": MAX_SPEED}
    frames = [
        moving_digits.block_motion(*pair, ahead, **options)[None]
        for pair in zip(previous, last, strict=True)
    ]
    return patches.patchify(np.stack(frames), tokenizer.tubelet_size)


def errors(
    tokenizer: moving_digits.VideoTokenizer, predicted: Any, batch: Batch
) -> dict[str, np.ndarray]:
    """Squared error per pixel of each video [B], by frames ahead and method."""
    true, found = batch["raw_BLP"], {}
    for ahead in AHEAD:
        target = frame(tokenizer, true, CONTEXT_FRAMES + ahead - 1)
        methods = {
            "model": frame(tokenizer, predicted, CONTEXT_FRAMES + ahead - 1),
            "last_frame": frame(tokenizer, true, CONTEXT_FRAMES - 1),
            "block_motion": motion_compensation(tokenizer, true, ahead),
            "true_velocity": frame(tokenizer, batch["straight_BLP"], ahead - 1),
        }
        for name, value in methods.items():
            error = np.square(value - target).mean((1, 2))
            found[f"squared_error/ahead_{ahead}/{name}"] = error
    return found


def strips(
    tokenizer: moving_digits.VideoTokenizer, predicted: Any, batch: Batch, count: int
) -> np.ndarray:
    """A grid: for each video a row of true frames, one of predicted frames, and one
    with each digit moved by its true velocity without walls."""
    known = batch["raw_BLP"][:, : CONTEXT_FRAMES * tokenizer.tokens_per_frame]
    straight = np.concatenate([known, batch["straight_BLP"]], axis=1)
    rows = [
        tokenizer.decode(video)[:count][:, list(SHOWN_FRAMES)]
        for video in (batch["raw_BLP"], predicted, straight)
    ]
    side = tokenizer.side
    shape = len(SHOWN_FRAMES), side, side, tokenizer.channels
    frames = np.stack(rows, axis=1).reshape(-1, *shape)
    return image_grid.make_grid(frames, zoom=3)


def report(
    tokenizer: moving_digits.VideoTokenizer,
    held_out: Any,
    continue_video: Callable[[Any, Any], jax.Array],
    params: Any,
    key: jax.Array,
) -> dict[str, Any]:
    """Numbers, and pictures by file name."""
    found, pairs = [], []
    for step in range(held_out.batches):
        batch = held_out.batch(step, range(held_out.batch_size))
        predicted = np.asarray(continue_video(params, batch["raw_BLP"]))
        found.append(errors(tokenizer, predicted, batch))
        pairs.append((predicted, batch))
    numbers = {
        name: float(np.concatenate([part[name] for part in found]).mean())
        for name in found[0]
    }
    predicted, batch = pairs[0]
    videos = np.stack([tokenizer.decode(batch["raw_BLP"]), tokenizer.decode(predicted)])
    return {
        "results.json": numbers,
        "strips.png": strips(tokenizer, predicted, batch, 3),
        "video.gif": image_grid.gif(videos[:, :4], context_frames=CONTEXT_FRAMES),
    }
