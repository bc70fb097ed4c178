"""Training images with similar captions, as examples that a model of images is
conditioned on (Re-Imagen, Chen et al. 2022, arXiv 2209.14491)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from transformer.data import records
from transformer.data.captioned_images import CaptionedImages, Texts
from transformer.data.images import augment as augmentation
from transformer.data.shuffling import EvaluationSplit, TrainingSplit
from transformer.data.text import tfidf

ABSENT = -1


class SimilarImages(NamedTuple):
    """Captioned images, and the `count` training images whose captions are the most
    similar to a text by tf-idf. No caption is similar that shares no word with it.

    nearest(texts, names): their indices [N, count], ABSENT where there are no more.
    """

    captions: CaptionedImages
    count: int
    nearest: Callable[[Sequence[str], Sequence[str]], np.ndarray]

    def images(self, index: np.ndarray) -> np.ndarray:
        """8-bit images [..., rows, columns, channels * count]; 128 where absent."""
        train = self.captions.data.train["image"]
        found = train[np.maximum(index, 0)]
        found = np.where((index == ABSENT)[..., None, None, None], 128, found)
        found = np.moveaxis(found.astype(train.dtype), -4, -2)
        return found.reshape(*found.shape[:-2], -1)

    def first(self, texts: Texts) -> tuple[np.ndarray, np.ndarray]:
        """Raw patches [N, L, P] of the first example of each text, and whether it has
        one, bool [N]."""
        index = np.full((len(texts), 1), ABSENT)
        index[:, : self.count] = self.nearest(list(texts), [""] * len(texts))[:, :1]
        return self.captions.to_patches(self.images(index)), index[:, 0] != ABSENT

    def encode(self, texts: Texts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`ids_BL` and `segment_BL` of texts, and their examples `example_BLP`."""
        found = self.images(self.nearest(list(texts), [""] * len(texts)))
        return *self.captions.encode(texts), self._patches(found)

    def _patches(self, images: np.ndarray) -> np.ndarray:
        """Raw patches [..., L, channels of all * patch area] of stacked images."""
        each = np.split(images, self.count, -1) if self.count else []
        empty = np.zeros((*images.shape[:-3], self.captions.patches, 0), np.float32)
        return np.concatenate([empty, *map(self.captions.to_patches, each)], -1)

    def prepare(
        self, example: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """A `records.Prepare`: of the stacked images `raw_BLP` and `example_BLP`."""
        example = dict(example)
        images = example.pop("image")
        channels = self.captions.data.train["image"].shape[-1]
        return {
            "raw_BLP": self.captions.to_patches(images[..., :channels]),
            "example_BLP": self._patches(images[..., channels:]),
            **example,
        }

    def _stack(
        self, example: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """A `records.Prepare`: the examples as further channels of the image, so that
        all of them are distorted alike."""
        example = dict(example)
        images = self.images(example.pop("nearest"))
        return {**example, "image": np.concatenate([example["image"], images], -1)}

    def splits(
        self, batch_size: int, seed: int, *, augment: float, symmetry: float = 0.0
    ) -> tuple[TrainingSplit, EvaluationSplit]:
        """Both splits: encoder rows of the texts, `raw_BLP` and `example_BLP`; of a
        training row from training images of other names. augment: distortion of
        training images. symmetry: the share of them that are mirrored or recolored
        together with their examples."""
        data = self.captions.data
        train, held_out = (
            {
                **self.captions.encoder_split(arrays),
                "nearest": self.nearest(list(arrays["text"]), list(arrays["name"])),
            }
            for arrays in (data.train, data.validation)
        )
        distort = augmentation.random_distortion(augment)
        channels = data.train["image"].shape[-1]
        change = augmentation.random_symmetry(symmetry, channels=channels)
        options: Any = {"batch_size": batch_size, "seed": seed, "name": data.name}
        prepare = augmentation.chain(self._stack, change, distort, self.prepare)
        return records.training(train, **options, prepare=prepare), records.evaluation(
            held_out,
            batch_size=64,
            prepare=augmentation.chain(self._stack, self.prepare),
        )


def similar_images(captions: CaptionedImages, *, count: int) -> SimilarImages:
    """The `count` examples of each text among the training images of `captions`."""
    train = captions.data.train
    search = tfidf.Index(list(train["text"]), list(train["name"]))

    def nearest(texts: Sequence[str], names: Sequence[str]) -> np.ndarray:
        return search.nearest(texts, exclude=names, count=count, absent=ABSENT)

    return SimilarImages(captions, count, nearest)
