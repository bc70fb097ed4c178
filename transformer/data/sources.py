"""One door to text: a shipped member, a TFDS name, or the user's own file or folder.

    text("austen")                     six novels shipped with the project
    text("wikipedia/20230601.en")      any TFDS name with a text feature
    text("letters.txt"), text("letters/")

The shipped member is a TFDS builder and is read like any other.
"""

from __future__ import annotations

from pathlib import Path

from transformer.data import documents, own, published

HELD_OUT = 0.05


def text(
    source: str | Path, *, feature: str | None = None, held_out: float = HELD_OUT
) -> documents.Text:
    """The documents of `source` in a train and a validation split.

    source: a shipped member's name, a path, or a TFDS name; a path that exists wins
        over a TFDS name, a shipped member over both (write ./austen for such a folder).
    feature: which text feature of a TFDS data set, where it has several.
    held_out: the tail that becomes validation where the source has no such split.
    ValueError for what is missing, empty, unknown or without text.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out: expected a share between 0 and 1, got {held_out}")
    name, path = str(source), Path(source).expanduser()
    if isinstance(source, str) and name in published.SHIPPED:
        return published.text(name, feature=feature, held_out=held_out)
    if path.exists():
        return own.text(path, held_out=held_out)
    looks_like_path = isinstance(source, Path) or path.suffix or name[:1] in "./~"
    if looks_like_path and not (":" in name or name[:1].isalnum() and "/" in name):
        raise ValueError(f"{path}: expected a file or folder of text, got none there")
    return published.text(name, feature=feature, held_out=held_out)
