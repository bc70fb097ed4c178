"""Random image augmentation."""

import itertools

import numpy as np

from transformer.data.images import augment
from transformer.data.sources import images as image_source


def digit(number=0):
    return {**{k: a[number] for k, a in image_source.load("digits").train.items()}}


def test_zero_amounts_leave_an_image_unchanged():
    row = digit()
    made = augment.random_affine()(row, np.random.default_rng(0))
    assert made["image"].dtype == np.uint8 and made["label"] is row["label"]
    np.testing.assert_array_equal(made["image"], row["image"])


def test_images_are_warped_by_the_drawn_amounts():
    class Maximum:
        def uniform(self, low, high, size=None):
            return high if size is None else np.full(size, high)

        def standard_normal(self, shape):
            return np.ones(shape)

    image = np.arange(36, dtype=np.uint8).reshape(6, 6, 1)
    maximum = Maximum()

    def warp(**how):
        return augment.random_affine(**how)({"image": image}, maximum)["image"][..., 0]

    np.testing.assert_array_equal(warp(shift=2)[2:, 2:], image[:-2, :-2, 0])
    np.testing.assert_array_equal(warp(shift=2)[0, 0], image[0, 0, 0])
    np.testing.assert_array_equal(warp(elastic=1)[:-1, :-1], image[1:, 1:, 0])
    np.testing.assert_array_equal(warp(rotation=180), image[::-1, ::-1, 0])
    np.testing.assert_array_equal(warp(rotation=90), np.rot90(image[..., 0], -1))
    doubled = warp(scale=np.log(2))
    np.testing.assert_array_equal(doubled[[0, 5], [0, 5]], [9, 26])


def test_distortions_depend_only_on_the_generator_and_stay_small():
    row = digit(3)
    move = augment.chain(
        augment.random_distortion(),
        lambda row, rng: {**row, "extra": rng.integers(1000)},
    )
    one, same, other = (move(row, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one["image"], same["image"])
    assert one["extra"] == same["extra"]
    assert (one["image"] != other["image"]).any()
    ink = [made["image"].astype(float).sum() for made in (row, one, other)]
    assert 0.5 < ink[1] / ink[0] < 2 and 0.5 < ink[2] / ink[0] < 2


def test_thin_and_color_images_are_warped():
    move = augment.random_affine(shift=1, rotation=10, elastic=1)
    for shape in [(1, 5, 1), (5, 1, 3), (7, 4, 3)]:
        image = np.full(shape, 200, np.uint8)
        made = move({"image": image}, np.random.default_rng(0))["image"]
        np.testing.assert_array_equal(made, image)


def test_stacked_images_change_alike_in_twelve_ways():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    stack = {"image": np.concatenate([image, 255 - image], -1)}
    change = augment.random_symmetry(1.0, channels=3)
    found = set()
    for seed in range(200):
        out = change(stack, np.random.default_rng(seed))["image"]
        first, second = np.split(out, 2, -1)
        np.testing.assert_array_equal(second, 255 - first)
        found.add(first.tobytes())
    whole = [image, image[:, ::-1]]
    orders = itertools.permutations(range(3))
    ways = {one[..., order].tobytes() for order in orders for one in whole}
    assert found == ways and len(ways) == 12


def test_the_share_of_changed_images_is_the_one_asked_for():
    image = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    for share in (0.0, 0.5, 1.0):
        change = augment.random_symmetry(share, channels=2)
        outs = [change({"image": image}, np.random.default_rng(n)) for n in range(400)]
        mirrored = np.mean([(out["image"] != image).any() for out in outs])
        # Two-channel images have no colors; half of the share are mirrored.
        np.testing.assert_allclose(mirrored, share / 2, atol=0.08)
        assert all(set(out["image"][0, 0]) <= {0, 1, 2, 3} for out in outs)
