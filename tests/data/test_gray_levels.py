"""Images in a few gray levels as tokens and back."""

from __future__ import annotations

import numpy as np
import pytest

from transformer.data.images import gray_levels
from transformer.data.sources import images as image_source

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("levels", "patch", "channels"), [(4, 1, 1), (4, 2, 1), (4, 1, 3), (2, 2, 3)]
)
def test_images_of_few_gray_levels_round_trip(
    levels: int, patch: int, channels: int
) -> None:
    values = np.rint(np.linspace(0, 255, levels))
    images = RNG.choice(values, (3, 4, 4, channels)).astype(np.uint8)
    symbols = gray_levels.quantize(images, levels, patch=patch)
    assert symbols.shape == (3, 16 // patch**2) and symbols.dtype == np.int32
    assert symbols.max() < levels ** (patch**2 * channels)
    sizes = {"patch": patch, "channels": channels}
    back = gray_levels.dequantize(symbols, levels, 4, **sizes)
    np.testing.assert_array_equal(back, images)


def test_a_color_is_a_token_of_its_channels() -> None:
    data = image_source.load("digits")
    color = [
        {"image": RNG.integers(0, 256, (9, 8, 8, 3), np.uint8), "label": np.arange(9)}
        for _ in range(2)
    ]
    made = gray_levels.quantize_records(
        data._replace(train=color[0], validation=color[1]), gray_levels=4, factor=2
    )
    assert (made.patch, made.channels, made.vocab_size, made.length) == (1, 3, 64, 16)
    ids = made.train["ids_BL"]
    small = gray_levels.downsample(color[0]["image"], 2).reshape(9, 16, 3)
    # Red counts ones, green fours, blue sixteens.
    nearest = np.rint(small / 85.0).astype(int)
    np.testing.assert_array_equal(ids, nearest @ [1, 4, 16])
    np.testing.assert_array_equal(made.palette[ids], nearest * 85)
    np.testing.assert_array_equal(made.levels(ids), nearest.reshape(9, 48))
    assert made.decode(ids).shape == (9, 8, 8, 3)
    gray = gray_levels.quantize_records(data, gray_levels=4, factor=2)
    assert (gray.patch, gray.channels, gray.vocab_size) == (2, 1, 256)


def test_a_pixel_becomes_its_nearest_gray_level() -> None:
    images = np.array([0, 42, 43, 127, 128, 255], np.uint8).reshape(1, 2, 3, 1)
    assert gray_levels.quantize(images, 4).tolist() == [[0, 0, 1, 1, 2, 3]]
    small = gray_levels.downsample(images.repeat(2, 1).repeat(2, 2), 2)
    np.testing.assert_array_equal(small, images)
    assert gray_levels.downsample(images[:, :, :2], 2).item() == round(
        (0 + 42 + 127 + 128) / 4
    )
    flat = np.full((1, 3, 3, 1), 170, np.uint8)
    assert (gray_levels.resize(flat, 6, 6) == 170).all()


def test_images_that_do_not_divide_are_refused() -> None:
    images = np.zeros((2, 6, 6, 1), np.uint8)
    with pytest.raises(ValueError, match="multiples of 4, got 6 x 6"):
        gray_levels.downsample(images, 4)
    with pytest.raises(ValueError, match="got 1 levels in patches of 1"):
        gray_levels.quantize(images, 1)
    with pytest.raises(ValueError, match="got 8 levels in patches of 3"):
        gray_levels.quantize(images, 8, patch=3)
    with pytest.raises(ValueError, match="got 4 levels in patches of 2 of 3 channels"):
        gray_levels.quantize(images.repeat(3, -1), 4, patch=2)
    data = image_source.load("digits")
    wide = {"image": data.train["image"][:, :, :14], "label": data.train["label"]}
    with pytest.raises(
        ValueError, match="digits: expected square.* got 28 x 14; --image"
    ):
        gray_levels.quantize_records(data._replace(train=wide), gray_levels=4, factor=2)
