"""Films of digits that move and bounce off the walls (Moving MNIST, Srivastava et al.
2015, arXiv 1502.04681, section 4.1), numpy.

Everything moves by whole pixels, so the future follows from the past exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Motion(NamedTuple):
    """Where sprites are: whole pixels [sprites, 2] at frame 0, and what they move in a
    frame, rows and columns."""

    start: np.ndarray
    velocity: np.ndarray


def drawn(rng: np.random.Generator, count: int, *, room: int, fastest: int) -> Motion:
    """`count` sprites anywhere in the room, none at rest in either dimension."""
    start = rng.integers(0, room + 1, (count, 2))
    speed = rng.integers(1, fastest + 1, (count, 2))
    return Motion(start, speed * rng.choice([-1, 1], (count, 2)))


def places(motion: Motion, frames: int, *, room: int) -> np.ndarray:
    """[frames, sprites, 2]: each coordinate stays within 0 and `room`, where it turns
    back."""
    straight = motion.start + np.arange(frames)[:, None, None] * motion.velocity
    return room - np.abs(room - straight % (2 * room))


def straight_on(motion: Motion, known: int, frames: int, *, room: int) -> np.ndarray:
    """[frames - known, sprites, 2]: from frame `known` on as if there were no walls."""
    at = motion.start + (known - 1) * motion.velocity
    here = room - np.abs(room - at % (2 * room))
    going = np.where(at % (2 * room) < room, motion.velocity, -motion.velocity)
    return here + np.arange(1, frames - known + 1)[:, None, None] * going


def rendered(sprites: np.ndarray, at: np.ndarray, *, side: int) -> np.ndarray:
    """uint8 [frames, side, side, 1] of sprites uint8 [sprites, h, w, 1] at places
    [frames, sprites, 2]; the brightest is seen, what is outside is not."""
    height, width = sprites.shape[1:3]
    film = np.zeros((len(at), side, side, 1), np.uint8)
    for frame, here in zip(film, at, strict=True):
        for sprite, (top, left) in zip(sprites, here, strict=True):
            rows = slice(max(top, 0), min(top + height, side))
            columns = slice(max(left, 0), min(left + width, side))
            if rows.start >= rows.stop or columns.start >= columns.stop:
                continue
            seen = sprite[
                rows.start - top : rows.stop - top,
                columns.start - left : columns.stop - left,
            ]
            frame[rows, columns] = np.maximum(frame[rows, columns], seen)
    return film


def moved(frame: np.ndarray, by: np.ndarray) -> np.ndarray:
    """A frame [rows, columns, channels] moved by whole pixels, black where empty."""
    sides = [(max(-int(n), 0), max(int(n), 0)) for n in by]
    rows, columns = frame.shape[:2]
    (up, down), (left, right) = sides
    out = np.zeros_like(frame)
    if up + down < rows and left + right < columns:
        kept = frame[up : rows - down, left : columns - right]
        out[down : rows - up, right : columns - left] = kept
    return out


def extrapolated(
    previous: np.ndarray, last: np.ndarray, ahead: int, *, block: int, fastest: int
) -> np.ndarray:
    """The frame `ahead` after the last if each block of pixels goes on as it moved from
    the previous frame to the last: by the shift of at most `fastest` pixels that fits
    best, the smallest of equals, as video codecs estimate motion. Frames of floats."""
    steps = np.arange(-fastest, fastest + 1)
    shifts = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
    shifts = shifts[np.argsort(np.abs(shifts).sum(1), kind="stable")]
    fits = [_by_block(np.square(last - moved(previous, v)), block) for v in shifts]
    best = np.argmin(np.stack(fits), axis=0).repeat(block, 0).repeat(block, 1)
    out = np.zeros_like(last)
    for number, shift in enumerate(shifts):
        here = best == number
        out[here] = moved(last, ahead * shift)[here]
    return out


def _by_block(error: np.ndarray, block: int) -> np.ndarray:
    rows, columns, _ = error.shape
    parts = error.reshape(rows // block, block, columns // block, block, -1)
    return parts.sum((1, 3, 4))
