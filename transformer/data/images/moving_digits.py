"""Videos of digits that move and bounce off the walls (Moving MNIST, Srivastava et al.
2015, arXiv 1502.04681, section 4.1), numpy.

All motion is by whole pixels, so the past determines the future exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Motion(NamedTuple):
    """Positions of sprites at frame 0 and their velocities, in rows and columns: whole
    pixels [sprites, 2] and pixels a frame [sprites, 2]."""

    start: np.ndarray
    velocity: np.ndarray


def random_motion(
    rng: np.random.Generator, count: int, *, room: int, max_speed: int
) -> Motion:
    """`count` sprites at uniform positions 0 to `room`, each moving along both
    dimensions."""
    start = rng.integers(0, room + 1, (count, 2))
    speed = rng.integers(1, max_speed + 1, (count, 2))
    return Motion(start, speed * rng.choice([-1, 1], (count, 2)))


def positions(motion: Motion, frames: int, *, room: int) -> np.ndarray:
    """[frames, sprites, 2]: each coordinate is reflected at 0 and `room`."""
    straight = motion.start + np.arange(frames)[:, None, None] * motion.velocity
    return room - np.abs(room - straight % (2 * room))


def no_bounce(motion: Motion, known: int, frames: int, *, room: int) -> np.ndarray:
    """[frames - known, sprites, 2]: straight motion without walls after frame
    `known`."""
    at = motion.start + (known - 1) * motion.velocity
    here = room - np.abs(room - at % (2 * room))
    velocity = np.where(at % (2 * room) < room, motion.velocity, -motion.velocity)
    return here + np.arange(1, frames - known + 1)[:, None, None] * velocity


def render(sprites: np.ndarray, at: np.ndarray, *, side: int) -> np.ndarray:
    """uint8 [frames, side, side, 1] of sprites uint8 [sprites, h, w, 1] at positions
    [frames, sprites, 2]: the maximum where they overlap, clipped at the edges."""
    height, width = sprites.shape[1:3]
    video = np.zeros((len(at), side, side, 1), np.uint8)
    for frame, here in zip(video, at, strict=True):
        for sprite, (top, left) in zip(sprites, here, strict=True):
            rows = slice(max(top, 0), min(top + height, side))
            columns = slice(max(left, 0), min(left + width, side))
            if rows.start >= rows.stop or columns.start >= columns.stop:
                continue
            visible = sprite[
                rows.start - top : rows.stop - top,
                columns.start - left : columns.stop - left,
            ]
            frame[rows, columns] = np.maximum(frame[rows, columns], visible)
    return video


def translate(frame: np.ndarray, by: np.ndarray) -> np.ndarray:
    """A frame [rows, columns, channels] translated by whole pixels, filled with 0."""
    (up, down), (left, right) = [(max(-int(n), 0), max(int(n), 0)) for n in by]
    rows, columns = frame.shape[:2]
    out = np.zeros_like(frame)
    if up + down < rows and left + right < columns:
        visible = frame[up : rows - down, left : columns - right]
        out[down : rows - up, right : columns - left] = visible
    return out


def block_motion(
    previous: np.ndarray, last: np.ndarray, ahead: int, *, block: int, max_speed: int
) -> np.ndarray:
    """Block-matching motion compensation as in video codecs: the frame `ahead` after
    the last if each block keeps its motion from the previous frame to the last, the
    shift of at most `max_speed` pixels with the least squared error, the shortest of
    equals. Frames of floats."""
    steps = np.arange(-max_speed, max_speed + 1)
    shifts = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
    shifts = shifts[np.argsort(np.abs(shifts).sum(1), kind="stable")]
    errors = [
        _block_sums(np.square(last - translate(previous, v)), block) for v in shifts
    ]
    best = np.argmin(np.stack(errors), axis=0).repeat(block, 0).repeat(block, 1)
    out = np.zeros_like(last)
    for number, shift in enumerate(shifts):
        here = best == number
        out[here] = translate(last, ahead * shift)[here]
    return out


def _block_sums(error: np.ndarray, block: int) -> np.ndarray:
    rows, columns, _ = error.shape
    blocks = error.reshape(rows // block, block, columns // block, block, -1)
    return blocks.sum((1, 3, 4))
