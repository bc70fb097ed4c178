"""One door to text: a shipped member, the user's own file or folder, or a TFDS name.

    text("austen")                     six novels shipped with the project
    text("letters.txt"), text("letters/")
    text("tiny_shakespeare")           any TFDS name with a text feature

The shipped member is a TFDS builder and is read like any other.
"""

from __future__ import annotations

import re
from pathlib import Path

from transformer.data import documents, own, published

HELD_OUT = 0.05
TFDS_NAME = re.compile(r"\w+(:\w+)?(/[\w.,=+-]+)*(:[\d.*]+)?")  # name/config:version


def text(
    source: str | Path, *, feature: str | None = None, held_out: float = HELD_OUT
) -> documents.Text:
    """The documents of `source` in a train and a validation split.

    source: a shipped member's name, else a path that exists, else a TFDS name (a folder
        called austen is reached as ./austen).
    feature: which text feature of a TFDS data set, where it has several.
    held_out: the tail that becomes validation where the source has no such split.
    ValueError for what is missing, empty, unknown or without text.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out: expected a share between 0 and 1, got {held_out}")
    path = Path(source).expanduser()
    if source not in ("", *published.SHIPPED) and path.exists():
        return own.text(path, held_out=held_out)
    if isinstance(source, Path) or not TFDS_NAME.fullmatch(source):
        raise ValueError(
            f"expected a file or folder of text, got none at {str(source)!r}"
        )
    return published.text(source, feature=feature, held_out=held_out)
