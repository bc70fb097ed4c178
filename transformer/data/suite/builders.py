"""The shipped members as TFDS builders, so that they take the path of any TFDS name.

Importing this module registers them: then `tfds.builder("austen", ...)` works like any
other name, without TensorFlow.
"""

from __future__ import annotations

import numpy as np
import tensorflow_datasets as tfds

from transformer.data.suite import files


class Austen(tfds.core.GeneratorBasedBuilder):
    """Six novels by Jane Austen; one example is one novel, Emma is validation."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        about = files.record("austen")
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{about['what']}. {about['text']}. {about['package']}.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Scalar(dtype=np.int64),
                    "title": tfds.features.Text(),
                    "text": tfds.features.Text(),
                }
            ),
            license=about["text"],
            homepage="https://github.com/juliasilge/janeaustenr",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {
            split: self._generate_examples(split) for split in ("train", "validation")
        }

    def _generate_examples(self, split):
        for number, (title, text) in enumerate(files.documents("austen", split)):
            yield number, {"id": number, "title": title, "text": text}
