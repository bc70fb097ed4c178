"""The user's own images with captions: a table of them or tar files (`image_shards`).

    #file<tab>en<tab>pt
    cats/1.png<tab>a cat asleep<tab>um gato a dormir

The table is called captions in a folder, or a source by itself: the image's path within
the folder (`image_table`), and its caption in one language or several. A column called
text or caption serves any language. The images with the smallest sha256 of their path
are held out; images that no row names are ignored.
"""

from __future__ import annotations

from pathlib import Path

from transformer.data.readers import files as own_files
from transformer.data.readers import image_arrays, image_shards, image_table, table
from transformer.data.records import Records

TABLE = "captions"
ANY = ("text", "caption")


def _columns(columns: tuple[str, ...], language: str) -> table.Columns:
    """Of the image and of its caption; ValueError where several columns of captions are
    named, none of them by the language."""
    if not columns:
        return image_table.default_columns(language, *ANY)
    image, *captions = columns
    if len(captions) > 1 and language not in captions:
        raise ValueError(
            f"--columns: expected one caption, or one called {language!r} as the "
            f"language, got {', '.join(captions)}"
        )
    return image, language if len(captions) > 1 else captions[0]


def _find(path: Path) -> Path:
    """The table of a folder, or the one at `path`."""
    found = table.find(path, TABLE) if path.is_dir() else path
    if found is None:
        raise ValueError(
            f"{path}: expected a table called captions (.csv, .tsv, .jsonl, .parquet) "
            "or .tar files, got neither"
        )
    return found


def read(
    path: Path,
    *,
    held_out: float,
    language: str,
    columns: tuple[str, ...] = (),
    image_size: int | None,
) -> Records:
    """`image` uint8 [N, rows, columns, channels] and `text`, an array of strings.

    columns: of the image and of its captions, one or one for each language. ValueError,
    naming file and row, for a missing image or caption, an image named twice, and
    images of different sizes where there is no `image_size`.
    """
    root = path if path.is_dir() else path.parent
    shards = [] if table.find(path, TABLE) else image_shards.find(path)
    if shards:
        image_table.refuse_columns(columns, path)
        tables = []
        images, texts = image_shards.read(shards, root, image_shards.CAPTION)
        image_shards.report_unread(path, shards)
    else:
        tables = [_find(path)]
        images, texts = image_table.read(tables[0], _columns(columns, language))
    if len(images) < 2:
        raise ValueError(
            f"{(*tables, path)[0]}: expected 2 images or more, one to hold out, got "
            f"{len(images)}"
        )
    held = own_files.held_out([image.name for image in images], held_out)
    return image_arrays.split_records(
        path,
        images,
        {"text": own_files.strings(texts)},
        held,
        root=root,
        tables=tables,
        image_size=image_size,
    )
