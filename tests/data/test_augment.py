"""Random image augmentation."""

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
