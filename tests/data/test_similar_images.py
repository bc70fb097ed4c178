"""Training images of similar captions as examples, and styles in texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from transformer.data import captioned_images, similar_images
from transformer.data.captioned_images import CaptionedImages
from transformer.data.similar_images import ABSENT, SimilarImages
from transformer.data.text import tfidf

TEXTS = ["red cat", "red cat, blob", "red dog", "red dog, blob", "blue dog", "moon"]
NAMES = ["red cat", "red cat", "red dog", "red dog", "blue dog", "moon"]
OPTIONS: Any = {"language": "en", "patch": 8, "vocab_size": 300, "workdir": None}


@pytest.fixture(scope="module")
def styled() -> CaptionedImages:
    return captioned_images.load("emoji_styles", **OPTIONS, styles=True)


@pytest.fixture(scope="module")
def similar(styled: CaptionedImages) -> SimilarImages:
    return similar_images.similar_images(styled, count=2)


def test_the_nearest_texts_are_one_of_each_other_name() -> None:
    index = tfidf.Index(TEXTS, NAMES)
    queries = ["red cat", "red cat, blob", "red dog", "blue moon", "green", ""]
    names = ["red cat", "red cat", "red dog", "", "", ""]
    got = index.nearest(queries, exclude=names, count=2, absent=ABSENT)
    assert got.tolist() == [
        [2, ABSENT],
        [3, ABSENT],
        [4, 0],
        [5, 4],
        [ABSENT, ABSENT],
        [ABSENT, ABSENT],
    ]
    # A name that is not among the queries' excludes nothing.
    assert index.nearest(["red cat"], exclude=[""], count=1, absent=ABSENT) == [[0]]
    assert index.nearest(["red cat"], exclude=[""], count=0, absent=ABSENT).size == 0


def test_a_text_says_its_style_and_the_first_goes_without_saying(
    styled: CaptionedImages,
) -> None:
    train, held = styled.data.train, styled.data.validation
    for text, name, style in zip(
        train["text"], train["name"], train["style"], strict=True
    ):
        suffix = f", {styled.data.labels[style]}" if style else ""
        assert text == name + suffix
    assert not set(train["name"]) & set(held["name"])
    assert (held["text"] == held["name"]).all()
    plain = captioned_images.load("emoji_styles", **OPTIONS)
    assert (plain.data.train["text"] == train["name"]).all()


def test_examples_are_images_of_other_names(similar: SimilarImages) -> None:
    data = similar.captions.data
    for arrays in (data.train, data.validation):
        found = similar.nearest(list(arrays["text"]), list(arrays["name"]))
        for index, name in zip(found, arrays["name"], strict=True):
            near = data.train["name"][index[index != ABSENT]]
            assert name not in near and len({*near}) == len(near)
        assert (found != ABSENT).mean() > 0.9


def test_encoded_texts_have_the_patches_of_their_examples(
    similar: SimilarImages,
) -> None:
    ids_BL, segment_BL, example_BLP = similar.encode(["woman surfing", ""])
    assert len(ids_BL) == len(segment_BL) == 2
    assert example_BLP.shape == (2, 16, 2 * 192)
    data = similar.captions.data
    for number, name in enumerate(("man surfing", "person surfing")):
        image = data.train["image"][list(data.train["text"]).index(name)]
        expected = similar.captions.to_patches(image)
        np.testing.assert_array_equal(
            example_BLP[0, :, number * 192 : (number + 1) * 192], expected
        )
    assert np.abs(example_BLP[1]).max() < 0.01  # gray, for no text
    first_BLP, is_known_B = similar.first(["woman surfing", ""])
    np.testing.assert_array_equal(first_BLP, example_BLP[..., :192])
    assert is_known_B.tolist() == [True, False]


def test_examples_are_distorted_as_the_image_is(similar: SimilarImages) -> None:
    """Where all examples are the image itself, they stay it."""
    captions = similar.captions
    same = similar._replace(
        nearest=lambda texts, names: np.tile(np.arange(len(texts))[:, None], 2)
    )
    train, held_out = same.splits(batch_size=4, seed=0, augment=1.0)
    batch = train.batch(0, range(4))
    for part in np.split(batch["example_BLP"], 2, -1):
        np.testing.assert_array_equal(part, batch["raw_BLP"])
    undistorted, _ = same.splits(batch_size=4, seed=0, augment=0.0)
    assert (undistorted.batch(0, range(4))["raw_BLP"] != batch["raw_BLP"]).any()
    held = held_out.batch(0, range(2))
    images = captions.data.validation["image"][:2]
    np.testing.assert_array_equal(held["raw_BLP"], captions.to_patches(images))


def test_an_own_folder_needs_no_styles(tmp_path: Path) -> None:
    """Nor as many captions as examples."""
    lines = ["file,text"]
    for number, color in enumerate(("red", "green", "blue", "gray")):
        name = f"{number}.png"
        Image.new("RGB", (16, 16), color).save(tmp_path / name)
        lines.append(f"{name},{color} square")
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    options: Any = {**OPTIONS, "vocab_size": 260, "styles": True}
    captions = captioned_images.load(str(tmp_path), **options)
    similar = similar_images.similar_images(captions, count=3)
    train, _ = similar.splits(batch_size=2, seed=0, augment=0.3)
    batch = train.batch(0, range(2))
    assert batch["raw_BLP"].shape == (2, 4, 192)
    assert batch["example_BLP"].shape == (2, 4, 3 * 192)
    assert similar.encode(["red square"])[2].any()
    empty = similar_images.similar_images(captions, count=0)
    assert empty.encode(["red square"])[2].shape == (1, 4, 0)
    assert empty.first(["red square"])[1].tolist() == [False]
