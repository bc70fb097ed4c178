"""Moving digits: reflection at walls, rendering, block matching."""

from __future__ import annotations

import numpy as np

from transformer.data.images import moving_digits


def test_motion_is_straight_and_reflected_at_walls() -> None:
    rng = np.random.default_rng(0)
    motion = moving_digits.random_motion(rng, 50, room=7, max_speed=3)
    at = moving_digits.positions(motion, 40, room=7)
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
    motion = moving_digits.random_motion(rng, 200, room=10, max_speed=2)
    at = moving_digits.positions(motion, 30, room=10)
    on = moving_digits.no_bounce(motion, 9, 30, room=10)
    steps = np.diff(np.concatenate([at[8:9], on]), axis=0)
    assert (steps == steps[:1]).all()
    free = (np.diff(at[8:12], axis=0) == steps[:3]).all(0)
    assert 0.3 < free.mean() < 0.95
    np.testing.assert_array_equal(at[9:12][:, free], on[:3][:, free])


def test_sprites_are_rendered_at_their_positions_and_clipped() -> None:
    sprites = np.full((2, 2, 3, 1), 100, np.uint8)
    sprites[1] = 200
    at = np.array([[[0, 0], [1, 2]], [[-1, 4], [9, 9]]])
    film = moving_digits.render(sprites, at, side=5)[..., 0]
    assert film[0, 1].tolist() == [100, 100, 200, 200, 200]
    assert film[1].sum() == 100 and film[1, 0, 4] == 100


def test_block_matching_extrapolates_a_uniform_shift() -> None:
    """A frame moved by (1, -2) a step, in the part that stays in sight."""
    rng = np.random.default_rng(2)
    frames = np.zeros((3, 12, 12, 1))
    frames[0, 3:7, 5:9] = rng.random((4, 4, 1))
    for number in (1, 2):
        frames[number] = moving_digits.translate(frames[number - 1], np.array([1, -2]))
    assert frames[2, 5, 1] == frames[0, 3, 5]
    guess = moving_digits.block_motion(frames[0], frames[1], 1, block=12, max_speed=2)
    np.testing.assert_array_equal(guess, frames[2])
    still = moving_digits.block_motion(frames[0], frames[0], 5, block=4, max_speed=2)
    np.testing.assert_array_equal(still, frames[0])
