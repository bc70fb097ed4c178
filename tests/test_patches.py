"""Grids as sequences of patches and back; images moved a little for training."""

import jax.numpy as jnp
import numpy as np
import pytest

from transformer.data import sources
from transformer.data.images import augment, patches

GRIDS = [
    ((6,), (2,)),
    ((4, 6), (2, 3)),
    ((4, 6), (4, 1)),
    ((2, 4, 6), (2, 2, 3)),
    ((4, 2, 4, 6), (2, 1, 4, 2)),
]


def test_patches_run_in_reading_order_with_channels_fastest():
    pixels = np.arange(2 * 4 * 2).reshape(2, 4, 2)
    raw = patches.cut(pixels, (2, 2))
    np.testing.assert_array_equal(
        raw, [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]]
    )
    film = patches.cut(np.arange(2 * 2 * 2).reshape(2, 2, 2, 1), (2, 1, 2))
    np.testing.assert_array_equal(film, [[0, 1, 4, 5], [2, 3, 6, 7]])


@pytest.mark.parametrize("module", [np, jnp])
@pytest.mark.parametrize("shape, size", GRIDS, ids=str)
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)], ids=str)
def test_joined_is_the_inverse_of_cut(module, shape, size, lead):
    pixels = module.arange(np.prod((*lead, *shape, 3))).reshape(*lead, *shape, 3)
    raw = patches.cut(pixels, size)
    places = patches.grid(shape, size)
    assert raw.shape == (*lead, np.prod(places), np.prod(size) * 3)
    back = patches.joined(raw, shape, size)
    assert isinstance(back, type(pixels)) and back.dtype == pixels.dtype
    np.testing.assert_array_equal(back, pixels)
    np.testing.assert_array_equal(patches.cut(back, size), raw)


def test_what_does_not_fit_is_refused():
    pixels, raw = np.zeros((6, 4, 1)), np.zeros((6, 4))
    with pytest.raises(ValueError, match="multiple of the patch 4 x 2, got 6 x 4"):
        patches.cut(pixels, (4, 2))
    with pytest.raises(ValueError, match="expected 3 dimensions of pixels"):
        patches.cut(pixels, (2, 2, 2))
    with pytest.raises(ValueError, match="multiple of the patch"):
        patches.grid((6, 4), (2, 2, 2))
    with pytest.raises(ValueError, match="expected 4 patches of a multiple of 6"):
        patches.joined(raw, (6, 4), (3, 2))
    with pytest.raises(ValueError, match="expected 6 patches of a multiple of 4"):
        patches.joined(raw[:, :3], (6, 4), (2, 2))


def test_images_survive_as_raw_patches():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    raw = patches.of_images(images, (4, 4))
    assert raw.dtype == np.float32 and raw.min() == -1 and raw.max() == 1
    back = patches.to_images(jnp.asarray(raw), (16, 16), (4, 4))
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, images)
    assert patches.to_images(raw * 2, (16, 16), (4, 4)).max() == 255


def digit(number=0):
    return {**{k: a[number] for k, a in sources.images("digits").train.items()}}


def test_unmoved_images_are_as_they_were():
    row = digit()
    made = augment.moved()(row, np.random.default_rng(0))
    assert made["image"].dtype == np.uint8 and made["label"] is row["label"]
    np.testing.assert_array_equal(made["image"], row["image"])


def test_images_are_moved_by_what_is_drawn():
    class Most:
        def uniform(self, low, high, size=None):
            return high if size is None else np.full(size, high)

        def standard_normal(self, shape):
            return np.ones(shape)

    image = np.arange(36, dtype=np.uint8).reshape(6, 6, 1)
    most = Most()

    def moved(**how):
        return augment.moved(**how)({"image": image}, most)["image"][..., 0]

    np.testing.assert_array_equal(moved(shift=2)[2:, 2:], image[:-2, :-2, 0])
    np.testing.assert_array_equal(moved(shift=2)[0, 0], image[0, 0, 0])
    np.testing.assert_array_equal(moved(bend=1)[:-1, :-1], image[1:, 1:, 0])
    np.testing.assert_array_equal(moved(rotation=180), image[::-1, ::-1, 0])
    np.testing.assert_array_equal(moved(rotation=90), np.rot90(image[..., 0], -1))
    doubled = moved(scale=np.log(2))
    np.testing.assert_array_equal(doubled[[0, 5], [0, 5]], [9, 26])


def test_moves_follow_the_generator_alone_and_stay_small():
    row = digit(3)
    move = augment.chain(
        augment.jittered(),
        lambda row, rng: {**row, "extra": rng.integers(1000)},
    )
    one, same, other = (move(row, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one["image"], same["image"])
    assert one["extra"] == same["extra"]
    assert (one["image"] != other["image"]).any()
    ink = [made["image"].astype(float).sum() for made in (row, one, other)]
    assert 0.5 < ink[1] / ink[0] < 2 and 0.5 < ink[2] / ink[0] < 2


def test_thin_and_coloured_images_are_moved_too():
    move = augment.moved(shift=1, rotation=10, bend=1)
    for shape in [(1, 5, 1), (5, 1, 3), (7, 4, 3)]:
        image = np.full(shape, 200, np.uint8)
        made = move({"image": image}, np.random.default_rng(0))["image"]
        np.testing.assert_array_equal(made, image)
