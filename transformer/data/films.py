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
