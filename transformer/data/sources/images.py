"""Labeled images: load("digits"), load("photos/"), load("mnist")."""

from __future__ import annotations

from pathlib import Path

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
    columns: str = "",
    held_out: float = HELD_OUT,
) -> Records:
    """`image` uint8 [N, rows, columns, channels] and `label` int32 [N]; `labels` are
    the classes.

    image_size: pixels along the side of a square, to which images are resized and
        cropped; without it they must be of one size.
    columns: the names of a table's columns of paths and labels, divided by a comma; by
        default those of usual names.
    A TFDS data set needs one 8-bit image and one ClassLabel feature.
    """
    path = own_path(source, "images", held_out)
    if path is not None:
        from transformer.data.readers import image_folder

        return image_folder.read(
            path,
            held_out=held_out_fraction(source, held_out),
            columns=column_names(columns, 2) if columns else (),
            image_size=image_size,
        )
    refuse_columns(columns, source)
    from transformer.data.tfds import arrays

    return arrays.images(str(source), held_out=held_out, image_size=image_size)
