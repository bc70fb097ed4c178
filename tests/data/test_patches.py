"""Grids as sequences of patches and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.data.images import patches

GRIDS = [
    ((6,), (2,)),
    ((4, 6), (2, 3)),
    ((4, 6), (4, 1)),
    ((2, 4, 6), (2, 2, 3)),
    ((4, 2, 4, 6), (2, 1, 4, 2)),
]


def test_patches_run_in_reading_order_with_channels_fastest():
    pixels = np.arange(2 * 4 * 2).reshape(2, 4, 2)
    raw = patches.patchify(pixels, (2, 2))
    np.testing.assert_array_equal(
        raw, [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]]
    )
    video = patches.patchify(np.arange(2 * 2 * 2).reshape(2, 2, 2, 1), (2, 1, 2))
    np.testing.assert_array_equal(video, [[0, 1, 4, 5], [2, 3, 6, 7]])


@pytest.mark.parametrize(
    ("compiled", "lead"),
    [(False, ()), (False, (3,)), (False, (2, 3)), (True, (2, 3))],
    ids=str,
)
@pytest.mark.parametrize("shape, size", GRIDS, ids=str)
def test_join_is_the_inverse_of_cut(compiled, shape, size, lead):
    pixels = np.arange(np.prod((*lead, *shape, 3)), dtype=np.int32)
    pixels = pixels.reshape(*lead, *shape, 3)

    def cut_and_join(pixels):
        raw = patches.patchify(pixels, size)
        back = patches.unpatchify(raw, shape, size)
        return raw, back, patches.patchify(back, size)

    run = jax.jit(cut_and_join) if compiled else cut_and_join
    raw, back, again = run(pixels)
    places = patches.grid(shape, size)
    assert raw.shape == (*lead, np.prod(places), np.prod(size) * 3)
    assert isinstance(back, jax.Array if compiled else np.ndarray)
    assert back.dtype == pixels.dtype
    np.testing.assert_array_equal(back, pixels)
    np.testing.assert_array_equal(again, raw)


def test_shapes_that_do_not_divide_are_refused():
    pixels, raw = np.zeros((6, 4, 1)), np.zeros((6, 4))
    with pytest.raises(ValueError, match="multiple of the patch 4 x 2, got 6 x 4"):
        patches.patchify(pixels, (4, 2))
    with pytest.raises(ValueError, match="expected 3 dimensions of pixels"):
        patches.patchify(pixels, (2, 2, 2))
    with pytest.raises(ValueError, match="multiple of the patch"):
        patches.grid((6, 4), (2, 2, 2))
    with pytest.raises(ValueError, match="expected 4 patches of a multiple of 6"):
        patches.unpatchify(raw, (6, 4), (3, 2))
    with pytest.raises(ValueError, match="expected 6 patches of a multiple of 4"):
        patches.unpatchify(raw[:, :3], (6, 4), (2, 2))


def test_images_round_trip_through_raw_patches():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    raw = patches.from_images(images, (4, 4))
    assert raw.dtype == np.float32 and raw.min() == -1 and raw.max() == 1
    back = patches.to_images(jnp.asarray(raw), (16, 16), (4, 4))
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, images)
    assert patches.to_images(raw * 2, (16, 16), (4, 4)).max() == 255


def test_patch_tokenizer_round_trips_images_of_its_shape():
    tokens = patches.PatchTokenizer((4, 6, 3), (2, 3))
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3)).astype(np.uint8)
    raw = tokens.encode(images)
    assert (tokens.grid, tokens.length, tokens.features) == ((2, 2), 4, 18)
    assert (
        raw.shape[1:] == tokens.abstract_row.shape[1:]
        and raw.dtype == tokens.abstract_row.dtype
    )
    np.testing.assert_array_equal(tokens.decode(raw), images)
    example = {"image": images[0], "label": np.int32(7)}
    row = tokens.prepare(example, np.random.default_rng(0))
    assert set(row) == {"raw_BLP", "label_B"} and row["label_B"] == 7
    np.testing.assert_array_equal(row["raw_BLP"], raw[0])
