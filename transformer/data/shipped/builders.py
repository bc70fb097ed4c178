"""The shipped data sets as TFDS builders, so that they take the path of any TFDS name.

Importing this module registers them: then `tfds.builder("austen", ...)` works like any
other name, without TensorFlow (which TFDS needs to encode an image given as an array,
so that images are passed as Pillow's).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from transformer.data.shipped import BUILDERS, files, winds
from transformer.data.text import documents

SPLITS = documents.SPLITS


def _info(builder: Any, homepage: str, features: dict[str, Any], **metadata: Any):
    member = BUILDERS[builder.name]
    about = files.record(member)
    packages = about.get("packages", [])
    origin = [f"{p['archive']} {p['name']} {p['version']}" for p in packages]
    licence = about.get("licence") or about["text"]
    where = ", ".join(origin) or about["package"]
    return tfds.core.DatasetInfo(
        builder=builder,
        description=f"{about['what']}. {licence}. Made from {where}.",
        features=tfds.features.FeaturesDict(
            {"id": tfds.features.Scalar(dtype=np.int64), **features}
        ),
        license=f"{licence}\n\n{files.license(member)}",
        homepage=homepage,
        metadata=tfds.core.MetadataDict(metadata) if metadata else None,
        disable_shuffling=True,
    )


class Austen(tfds.core.GeneratorBasedBuilder):
    """Six novels by Jane Austen; one example is one novel, Emma is validation."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        homepage = "https://github.com/juliasilge/janeaustenr"
        return _info(self, homepage, {"title": text, "text": text})

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split):
        for number, (title, text) in enumerate(files.documents("austen", split)):
            yield number, {"id": number, "title": title, "text": text}


class Digits(tfds.core.GeneratorBasedBuilder):
    """10,000 digits of MNIST with their labels, 8,000 of them for training."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(28, 28, 1), encoding_format="png"),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return _info(self, files.record("digits")["homepage"], features)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split):
        for number, (image, label) in enumerate(zip(*files.digits(split), strict=True)):
            picture = Image.fromarray(image[..., 0])
            yield number, {"id": number, "image": picture, "label": int(label)}


class EnPt(tfds.core.GeneratorBasedBuilder):
    """English - Portuguese pairs out of LibreOffice's help, divided by help page."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "page": tfds.features.Scalar(dtype=np.int64),
            "translation": tfds.features.Translation(languages=("en", "pt")),
        }
        return _info(self, files.record("en_pt")["homepage"], features)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split):
        for number, (page, en, pt) in enumerate(files.sentences(split)):
            pair = {"en": en, "pt": pt}
            yield number, {"id": number, "page": page, "translation": pair}


def _emoji_features() -> dict[str, Any]:
    text, languages = tfds.features.Text(), ("en", "pt")
    return {
        "image": tfds.features.Image(shape=(32, 32, 3), encoding_format="png"),
        "emoji": text,
        "name": tfds.features.Translation(languages=languages),
        "keywords": {one: tfds.features.Sequence(text) for one in languages},
    }


def _emoji_example(image: np.ndarray, named: files.NamedEmoji) -> dict[str, Any]:
    return {
        "image": Image.fromarray(image),
        "emoji": named.characters,
        "name": named.name,
        "keywords": named.keywords,
    }


class Emoji(tfds.core.GeneratorBasedBuilder):
    """Pictures of emoji with names and keywords in English and Portuguese."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self, files.record("emoji")["homepage"], _emoji_features())

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split):
        for number, (image, named) in enumerate(zip(*files.emoji(split), strict=True)):
            yield number, {"id": number, **_emoji_example(image, named)}


class EmojiStyles(tfds.core.GeneratorBasedBuilder):
    """Emoji in several styles: those of `emoji` first, as style noto, then more
    pictures of emoji of train. No picture of a validation emoji is in train."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        about = files.record("emoji")
        style = tfds.features.ClassLabel(names=["noto", *about["styles"]])
        return _info(self, about["homepage"], {**_emoji_features(), "style": style})

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split):
        images, named = files.emoji(split)
        rows = [(image, "noto", one) for image, one in zip(images, named, strict=True)]
        if split == "train":
            pictures, styled = files.emoji_styles()
            rows += [(i, *one) for i, one in zip(pictures, styled, strict=True)]
        for number, (image, style, one) in enumerate(rows):
            example = {"id": number, "style": style, **_emoji_example(image, one)}
            yield number, example


class Winds(tfds.core.GeneratorBasedBuilder):
    """Monthly winds on a grid of 2.5 degrees; one example is one month."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        about = files.record("winds")
        shape = tuple(about["shape"][1:])
        features = {
            "month": tfds.features.Text(),
            "values": tfds.features.Tensor(shape=shape, dtype=np.float32),
        }
        facts = {key: about[key] for key in ("variables", "unit")}
        axes = {key: about[key] for key in ("latitude", "longitude")}
        return _info(self, about["homepage"], features, **facts, **axes)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split):
        wind = winds.load()
        middle, months = wind.train_steps, len(wind.values)
        steps = range(middle) if split == "train" else range(middle, months)
        for number in steps:
            month = str(wind.time[number].astype("datetime64[M]"))
            yield number, {"id": number, "month": month, "values": wind.values[number]}
