"""Text: load("austen"), load("letters.txt"), load("posts.jsonl.zst"), load("folder/"),
load(any TFDS name), load("austen:0.7,letters.txt:0.3"), load("prepared/")."""

from __future__ import annotations

import re
from pathlib import Path

from transformer.data.shipped import BUILDERS
from transformer.data.sources import ALL, HELD_OUT, exists, held_out_fraction, own_path
from transformer.data.text import documents

COLUMN = "text"
WEIGHT = re.compile(r"(.+):([0-9.]+(?:[eE][+-]?[0-9]+)?)")


def load(
    source: str | Path, *, column: str = COLUMN, held_out: float = HELD_OUT
) -> documents.TextDataset:
    """The documents of `source` in a train and a validation split.

    source: may be several with weights, `a:0.7,b:0.3`: each part then gives that share
        of the training rows, and validation is that of all.
    column: the column of a table, or the text feature of a TFDS data set, where it has
        several.
    """
    parts = mixture_parts(source)
    if not parts:
        return _load_one(source, column, held_out)
    from transformer.data.notices import print_once

    total = sum(weight for _, weight in parts)
    shares = [(name, weight / total) for name, weight in parts]
    words = ", ".join(f"{share:.1%} {name}" for name, share in shares)
    print_once(f"training rows: {words}")
    return documents.mix(
        str(source), [(_load_one(name, column, held_out), w) for name, w in shares]
    )


def mixture_parts(source: str | Path) -> list[tuple[str, float]]:
    """The sources and weights of `a:0.7,b:0.3`; none where `source` is one source, such
    as a path with a comma. ValueError for a part without a weight above 0."""
    if isinstance(source, Path) or "," not in source or exists(source):
        return []
    names = source.split(",")
    matches = [WEIGHT.fullmatch(name.strip()) for name in names]
    if not any(matches):
        return []
    parts = []
    for name, match in zip(names, matches, strict=True):
        weight = float(match[2]) if match and match[2].count(".") < 2 else 0.0
        if match is None or not 0 < weight < float("inf"):
            raise ValueError(
                f"mixture of texts: expected name:weight with a weight above 0 in each "
                f"part, as in a:0.7,b:0.3, got {name!r}"
            )
        parts.append((match[1], weight))
    if len({name for name, _ in parts}) < len(parts):
        raise ValueError(f"mixture of texts: expected each once, got {source!r}")
    return parts


def _load_one(
    source: str | Path, column: str, held_out: float
) -> documents.TextDataset:
    # Imported here, so that a run imports only the reader of its own data.
    if source not in BUILDERS:
        from transformer.data.text import token_shards

        folder = token_shards.find(source)
        if folder is not None:
            return token_shards.read(folder)
    path = own_path(source, "text", held_out)
    if path is not None:
        from transformer.data.readers import text_files

        held_out = held_out_fraction(source, held_out)
        text = text_files.read(path, held_out=held_out, column=column)
        return text._replace(evaluation_only=held_out == ALL)
    from transformer.data.tfds import text as tfds_text

    feature = None if column == COLUMN else column
    return tfds_text.read(str(source), feature=feature, held_out=held_out)
