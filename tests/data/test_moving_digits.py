"""Moving digits: reflection at walls, rendering, block matching, tubelets."""

from __future__ import annotations

import numpy as np
import pytest

from transformer.data.images import moving_digits

TOKENIZER = moving_digits.VideoTokenizer(frames=9, side=12, patch=4)
MOTION = {"sprites": 2, "max_speed": 2, "context_frames": 4}


def test_motion_is_straight_and_reflected_at_walls() -> None:
    rng = np.random.default_rng(0)
    motion = moving_digits.random_motion(rng, 50, max_position=7, max_speed=3)
    at = moving_digits.positions(motion, 40, max_position=7)
    assert at.min() == 0 and at.max() == 7
    assert (np.abs(np.diff(at, axis=0)) <= 3).all()
    # By hand: each coordinate walks pixel by pixel and turns at a wall.
    here, sign = motion.start.copy(), np.sign(motion.velocity)
    for frame in range(40):
        np.testing.assert_array_equal(at[frame], here)
        for _ in range(3):
            moves = np.abs(motion.velocity) > _
            sign = np.where(moves & (here + sign > 7), -1, sign)
            sign = np.where(moves & (here + sign < 0), 1, sign)
            here = here + moves * sign


def test_motion_without_walls_keeps_its_last_velocity() -> None:
    rng = np.random.default_rng(1)
    motion = moving_digits.random_motion(rng, 200, max_position=10, max_speed=2)
    at = moving_digits.positions(motion, 30, max_position=10)
    on = moving_digits.no_bounce(motion, 9, 30, max_position=10)
    steps = np.diff(np.concatenate([at[8:9], on]), axis=0)
    assert (steps == steps[:1]).all()
    free = (np.diff(at[8:12], axis=0) == steps[:3]).all(0)
    assert 0.3 < free.mean() < 0.95
    np.testing.assert_array_equal(at[9:12][:, free], on[:3][:, free])


def test_sprites_are_rendered_at_their_positions_and_clipped() -> None:
    sprites = np.full((2, 2, 3, 1), 100, np.uint8)
    sprites[1] = 200
    at = np.array([[[0, 0], [1, 2]], [[-1, 4], [9, 9]]])
    video = moving_digits.render(sprites, at, side=5)[..., 0]
    assert video[0, 1].tolist() == [100, 100, 200, 200, 200]
    assert video[1].sum() == 100 and video[1, 0, 4] == 100


def test_block_matching_extrapolates_a_uniform_shift() -> None:
    """A frame moved by (1, -2) a step, in the part that stays in sight."""
    rng = np.random.default_rng(2)
    frames = np.zeros((3, 12, 12, 1))
    frames[0, 3:7, 5:9] = rng.random((4, 4, 1))
    for number in (1, 2):
        frames[number] = moving_digits.shift(frames[number - 1], np.array([1, -2]))
    assert frames[2, 5, 1] == frames[0, 3, 5]
    guess = moving_digits.block_motion(frames[0], frames[1], 1, block=12, max_speed=2)
    np.testing.assert_array_equal(guess, frames[2])
    still = moving_digits.block_motion(frames[0], frames[0], 5, block=4, max_speed=2)
    np.testing.assert_array_equal(still, frames[0])


def digits(count: int = 6) -> np.ndarray:
    """Sprites of 5 x 5 pixels, none of them 0."""
    rng = np.random.default_rng(3)
    return rng.integers(1, 256, (count, 5, 5, 1)).astype(np.uint8)


def test_videos_are_decoded_from_their_tubelets() -> None:
    """The tubelets of a frame are a run of `tokens_per_frame` tokens."""
    rng = np.random.default_rng(4)
    videos = rng.integers(0, 256, (2, 9, 12, 12, 1)).astype(np.uint8)
    raw_BLP = TOKENIZER.encode(videos)
    assert raw_BLP.shape == (2, TOKENIZER.length, 16) and raw_BLP.dtype == np.float32
    assert 0 <= raw_BLP.min() and raw_BLP.max() == 1
    np.testing.assert_array_equal(TOKENIZER.decode(raw_BLP), videos)
    np.testing.assert_array_equal(TOKENIZER.decode(raw_BLP + 9), 255)
    assert TOKENIZER.tokens_per_frame == 9
    dark = raw_BLP.copy()
    dark[:, 2 * 9 : 3 * 9] = 0
    changed = (TOKENIZER.decode(dark) != videos).any((0, 2, 3, 4))
    assert np.flatnonzero(changed).tolist() == [2]
    with pytest.raises(ValueError, match="multiple of the patch 5 x 5, got 12 x 12"):
        TOKENIZER._replace(patch=5).grid  # noqa: B018


def test_a_prepared_video_shows_its_digit_and_its_straight_motion() -> None:
    """As long as no wall is near, the straight motion is the video's own."""
    sprites, wide = digits(), TOKENIZER._replace(side=60)
    equal = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        example = {"image": sprites[0]}
        row = wide.prepare(sprites[1:], example, rng, **MOTION)
        known = MOTION["context_frames"] * wide.tokens_per_frame
        assert row["raw_BLP"].shape == (wide.length, 16)
        assert row["straight_BLP"].shape == (wide.length - known, 16)
        equal.append((row["raw_BLP"][known:] == row["straight_BLP"]).all())
        first = wide.decode(row["raw_BLP"][None])[0, 0]
        assert 25 < np.count_nonzero(first) <= 50
        assert any(
            (first[top : top + 5, left : left + 5] >= sprites[0]).all()
            for top, left in np.ndindex(56, 56)
        )
    assert 0.3 < np.mean(equal) < 1


def test_a_random_video_depends_on_its_seed_alone() -> None:
    one, same, other = (
        TOKENIZER.random_video(digits(), seed, **MOTION) for seed in (0, 0, 1)
    )
    assert one.shape == (1, TOKENIZER.length, 16)
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_sprites_in_color_make_a_video_in_color() -> None:
    sprites = np.random.default_rng(3).integers(1, 256, (5, 6, 4, 3), np.uint8)
    tokenizer = moving_digits.video_tokenizer(sprites, 9, 12, patch=4)
    assert tokenizer.features == 48
    row = tokenizer.random_video(sprites, 0, **MOTION)
    assert row.shape == (1, tokenizer.length, tokenizer.features)
    video = tokenizer.decode(row)
    assert video.shape == (1, 9, 12, 12, 3)
    for frame in video[0]:  # whole sprites, of which none is cut at an edge
        shown = (frame > 0).any(-1)
        assert shown.sum() >= 24 and (frame[shown] > 0).all()


@pytest.mark.parametrize("shape", [(12, 6), (6, 13)])
def test_sprites_without_place_to_move_are_refused(shape: tuple[int, int]) -> None:
    sprites = np.zeros((3, *shape, 1), np.uint8)
    with pytest.raises(ValueError, match=r"less than 12 x 12 .* got .*--image_size=8 "):
        moving_digits.video_tokenizer(sprites, 9, 12, patch=4)
