"""Videos of digits that move and bounce off the walls (Moving MNIST, Srivastava et al.
2015, arXiv 1502.04681, section 4.1), numpy.

All motion is by whole pixels, so the past determines the future exactly.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from transformer.data.images import patches


class Motion(NamedTuple):
    """Positions of sprites at frame 0 and their velocities, in rows and columns: whole
    pixels [sprites, 2] and pixels per frame [sprites, 2]."""

    start: np.ndarray
    velocity: np.ndarray


def random_motion(
    rng: np.random.Generator, count: int, *, max_position: int, max_speed: int
) -> Motion:
    """`count` sprites at uniform positions 0 to `max_position`, each moving along both
    dimensions."""
    start = rng.integers(0, max_position + 1, (count, 2))
    speed = rng.integers(1, max_speed + 1, (count, 2))
    return Motion(start, speed * rng.choice([-1, 1], (count, 2)))


def positions(motion: Motion, frames: int, *, max_position: int) -> np.ndarray:
    """[frames, sprites, 2]: each coordinate is reflected at 0 and `max_position`."""
    straight = motion.start + np.arange(frames)[:, None, None] * motion.velocity
    return max_position - np.abs(max_position - straight % (2 * max_position))


def no_bounce(
    motion: Motion, context_frames: int, frames: int, *, max_position: int
) -> np.ndarray:
    """[frames - context_frames, sprites, 2]: linear extrapolation, without walls, of
    the motion in the first `context_frames` frames."""
    at = motion.start + (context_frames - 1) * motion.velocity
    here = max_position - np.abs(max_position - at % (2 * max_position))
    velocity = np.where(
        at % (2 * max_position) < max_position, motion.velocity, -motion.velocity
    )
    return here + np.arange(1, frames - context_frames + 1)[:, None, None] * velocity


def render(sprites: np.ndarray, at: np.ndarray, *, side: int) -> np.ndarray:
    """uint8 [frames, side, side, channels] of sprites uint8 [sprites, h, w, channels]
    at positions [frames, sprites, 2]: the maximum where they overlap, clipped at the
    edges."""
    height, width, channels = sprites.shape[1:]
    video = np.zeros((len(at), side, side, channels), np.uint8)
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


def shift(frame: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """A frame [rows, columns, channels] shifted by whole pixels, filled with 0."""
    (up, down), (left, right) = [(max(-int(n), 0), max(int(n), 0)) for n in offset]
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
    errors = [_block_sums(np.square(last - shift(previous, v)), block) for v in shifts]
    best = np.argmin(np.stack(errors), axis=0).repeat(block, 0).repeat(block, 1)
    out = np.zeros_like(last)
    for number, displacement in enumerate(shifts):
        here = best == number
        out[here] = shift(last, ahead * displacement)[here]
    return out


def _block_sums(error: np.ndarray, block: int) -> np.ndarray:
    rows, columns, _ = error.shape
    blocks = error.reshape(rows // block, block, columns // block, block, -1)
    return blocks.sum((1, 3, 4))


class VideoTokenizer(NamedTuple):
    """Videos of `frames` frames of `side` x `side` pixels of `channels` as rows of raw
    tubelets, one frame deep and `patch` pixels wide, numpy, and back."""

    frames: int
    side: int
    patch: int
    channels: int = 1

    @property
    def tubelet_size(self) -> tuple[int, int, int]:
        """Frames, rows and columns of a tubelet."""
        return 1, self.patch, self.patch

    @property
    def grid(self) -> tuple[int, ...]:
        """Tubelets down and across a frame. ValueError unless they fill it."""
        return patches.grid((self.side, self.side), self.tubelet_size[1:])

    @property
    def features(self) -> int:
        """The number of features of a raw tubelet, P."""
        return self.patch**2 * self.channels

    @property
    def tokens_per_frame(self) -> int:
        return math.prod(self.grid)

    @property
    def length(self) -> int:
        """The number of tokens of a video, L."""
        return self.frames * self.tokens_per_frame

    def encode(self, video: np.ndarray) -> np.ndarray:
        """8-bit [..., frames, rows, columns, channels] to values from 0 to 1
        [..., L, P]."""
        return patches.patchify(video.astype(np.float32) / 255, self.tubelet_size)

    def decode(self, raw_BLP: Any) -> np.ndarray:
        """The inverse, clipped: [B, L, P] to 8-bit [B, frames, rows, columns,
        channels]."""
        shape = self.frames, self.side, self.side
        pixels = patches.unpatchify(np.asarray(raw_BLP), shape, self.tubelet_size)
        return np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)

    def prepare(
        self,
        digits: np.ndarray,
        example: dict[str, np.ndarray],
        rng: np.random.Generator,
        *,
        sprites: int,
        max_speed: int,
        context_frames: int,
    ) -> dict[str, np.ndarray]:
        """A `records.Prepare` once `digits` [N, h, w, channels] are bound: a video of
        the example's digit and `sprites` - 1 others as `raw_BLP`, and its straight
        motion after `context_frames` frames, through the walls, as `straight_BLP`."""
        others = digits[rng.integers(len(digits), size=sprites - 1)]
        images = np.concatenate([example["image"][None], others])
        max_position = self.side - max(images.shape[1:3])
        motion = random_motion(
            rng, sprites, max_position=max_position, max_speed=max_speed
        )
        at = positions(motion, self.frames, max_position=max_position)
        straight = no_bounce(
            motion, context_frames, self.frames, max_position=max_position
        )
        return {
            "raw_BLP": self.encode(render(images, at, side=self.side)),
            "straight_BLP": self.encode(render(images, straight, side=self.side)),
        }

    def random_video(self, digits: np.ndarray, seed: int, **motion: int) -> np.ndarray:
        """One row of tubelets (1, L, P) of a video of `digits`; motion: as of
        `prepare`."""
        rng = np.random.default_rng(seed)
        example = {"image": digits[rng.integers(len(digits))]}
        return self.prepare(digits, example, rng, **motion)["raw_BLP"][None]


def video_tokenizer(
    sprites: np.ndarray, frames: int, side: int, *, patch: int
) -> VideoTokenizer:
    """The `VideoTokenizer` of videos of sprites [N, rows, columns, channels].
    ValueError where these have no place to move."""
    rows, columns, channels = sprites.shape[1:]
    if max(rows, columns) >= side:
        raise ValueError(
            f"expected images of less than {side} x {side} pixels once their sides are "
            f"halved, got {rows} x {columns}; --image_size={2 * side - 16} resizes all"
        )
    return VideoTokenizer(frames, side, patch, channels)
