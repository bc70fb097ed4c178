"""Text: load("austen"), load("letters.txt"), load("folder/"), load(any TFDS name)."""

from __future__ import annotations

from pathlib import Path

from transformer.data.sources import HELD_OUT, own_path
from transformer.data.text import documents


def load(
    source: str | Path, *, feature: str | None = None, held_out: float = HELD_OUT
) -> documents.TextDataset:
    """The documents of `source` in a train and a validation split.

    feature: the text feature of a TFDS data set, where it has several.
    """
    path = own_path(source, "text", held_out)
    # Imported here, so that a run imports only the reader of its own data.
    if path is not None:
        from transformer.data.readers import text_files

        return text_files.read(path, held_out=held_out)
    from transformer.data.tfds import text as tfds_text

    return tfds_text.read(str(source), feature=feature, held_out=held_out)
