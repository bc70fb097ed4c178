"""Images with a text each: load("emoji"), load("emoji_styles"), load("pictures/"),
load("captions.csv"), load(any TFDS name)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformer.data.records import Records
from transformer.data.sources import (
    HELD_OUT,
    column_names,
    held_out_fraction,
    own_path,
    refuse_columns,
)


def load(
    source: str | Path,
    image_size: int | None = None,
    *,
    language: str = "en",
    columns: str = "",
    held_out: float = HELD_OUT,
) -> Records:
    """`image` uint8 [N, rows, columns, channels] and `text`, an array of strings.

    image_size: as in `images.load`. language: which text, where there is one for each
        of several languages.
    columns: the names of a table's columns of images and of their captions, divided by
        a comma, as file,en,pt; by default those of usual names.
    `style`, int32 [N], counts `labels` where the source says styles, as emoji_styles.
    A TFDS data set needs one 8-bit image feature, and a text feature called as the
    language, or text, or caption, or a single one.
    """
    path = own_path(source, "images with captions", held_out)
    options: Any = {"held_out": held_out, "image_size": image_size}
    if path is not None:
        from transformer.data.readers import caption_table

        options["held_out"] = held_out_fraction(source, held_out)
        options["columns"] = column_names(columns, 2, 3) if columns else ()
        return caption_table.read(path, language=language, **options)
    refuse_columns(columns, source)
    from transformer.data.tfds import arrays

    return arrays.captions(str(source), language=language, **options)
