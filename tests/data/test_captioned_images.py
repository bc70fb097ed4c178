"""Captioned images as rows of patches and of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from transformer.data import captioned_images, records
from transformer.data.text import tokenizers


def test_decoder_rows_are_shifted_and_encoder_rows_closed() -> None:
    tokenizer = tokenizers.bytes_()
    rows = captioned_images.decoder_rows(tokenizer, ["ab", ""], 4)
    end = tokenizer.end
    assert rows["ids_BL"].tolist() == [[end, 97, 98, 0], [end, 0, 0, 0]]
    assert rows["targets_BL"].tolist() == [[97, 98, end, 0], [end, 0, 0, 0]]
    assert rows["weight_BL"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    with pytest.raises(ValueError, match="'abcd': expected at most 4 .* got 5"):
        captioned_images.encoder_rows(tokenizer, ["ab", "abcd"], 4)


def captioned(count: int = 5) -> captioned_images.CaptionedImages:
    """Images of noise, 8 x 12 pixels, and the names n0, n1, ..."""
    rng = np.random.default_rng(0)
    parts = [
        {
            "image": rng.integers(0, 256, (count, 8, 12, 3)).astype(np.uint8),
            "text": np.array([f"n{first + n}" for n in range(count)]),
        }
        for first in (0, count)
    ]
    return captioned_images.CaptionedImages(
        data=records.Records("noise", "0", *parts),
        tokenizer=tokenizers.bytes_(),
        patch=(4, 4),
        grid=(2, 3),
        patch_features=48,
        length=4,
    )


def test_the_sizes_are_those_of_the_rows() -> None:
    """And images are decoded from their patches."""
    captions = captioned()
    images = captions.data.train["image"]
    raw_BLP = captions.to_patches(images)
    assert captions.abstract_row.shape == raw_BLP[:1].shape == (1, captions.patches, 48)
    assert captions.abstract_row.dtype == raw_BLP.dtype
    np.testing.assert_array_equal(captions.to_images(raw_BLP), images)
    assert captions.sizes == {
        "grid": (2, 3),
        "patch_features": 48,
        "vocab_size": captions.tokenizer.vocab_size,
    }


def test_encoded_texts_are_the_encoder_rows() -> None:
    captions = captioned()
    ids_BL, segment_BL = captions.encode(["ab", ""])
    rows = captions.encoder_rows(["ab", ""])
    np.testing.assert_array_equal(ids_BL, rows["ids_BL"])
    np.testing.assert_array_equal(segment_BL, rows["segment_BL"])
    assert segment_BL.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]


def test_prepare_replaces_the_image_by_its_patches_in_a_copy() -> None:
    captions = captioned()
    image, weight = captions.data.train["image"][0], np.float32(1)
    example = {"image": image, "weight": weight}
    row = captions.prepare(example, np.random.default_rng(0))
    assert set(row) == {"raw_BLP", "weight"} and set(example) == {"image", "weight"}
    np.testing.assert_array_equal(row["raw_BLP"], captions.to_patches(image))


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_each_image_of_a_split_is_beside_its_text(kind: str) -> None:
    """Each one once in an epoch and in the evaluation; distorted in training only."""
    captions = captioned()
    rows = getattr(captions, f"{kind}_split")

    def indices(batch: dict[str, np.ndarray], part: Any) -> list[int]:
        """Of the images, whose texts are the batch's."""
        images = captions.to_images(batch["raw_BLP"])
        differ = (images[:, None] != part["image"][None]).any((2, 3, 4))
        found = differ.argmin(1)
        assert not differ.min(1).any()
        of_texts = getattr(captions, f"{kind}_rows")(part["text"][found])
        for name, array in of_texts.items():
            np.testing.assert_array_equal(batch[name], array)
        return found.tolist()

    train, held_out = captions.splits(rows, batch_size=5, seed=1, augment=0.0)
    batch = train.batch(0, range(5))
    assert sorted(indices(batch, captions.data.train)) == [0, 1, 2, 3, 4]
    assert batch["weight_B"].tolist() == [1] * 5
    batch = held_out.batch(0, range(5))
    assert held_out.batches == 1
    assert indices(batch, captions.data.validation) == [0, 1, 2, 3, 4]
    distorted = captions.splits(rows, batch_size=5, seed=1, augment=1.0)
    plain = train, held_out
    for one, other, same in zip(distorted, plain, (False, True), strict=True):
        first, second = (split.batch(0, range(5))["raw_BLP"] for split in (one, other))
        assert (first == second).all() == same
