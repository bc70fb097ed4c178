"""Text: load("austen"), load("letters.txt"), load("folder/"), load(any TFDS name)."""

from __future__ import annotations

from pathlib import Path

from transformer.data.readers import text_files
from transformer.data.sources.name import HELD_OUT, own_path
from transformer.data.text import documents
from transformer.data.tfds import text as tfds_text


def load(
    source: str | Path, *, feature: str | None = None, held_out: float = HELD_OUT
) -> documents.TextDataset:
    """The documents of `source` in a train and a validation split.

    feature: the text feature of a TFDS data set, where it has several.
    """
    path = own_path(source, "text", held_out)
    if path is not None:
        return text_files.read(path, held_out=held_out)
    return tfds_text.read(str(source), feature=feature, held_out=held_out)
