"""The user's own images with captions: a folder with `captions.tsv` or tar files.

    #file<tab>en<tab>pt
    cats/1.png<tab>a cat asleep<tab>um gato a dormir

UTF-8, columns divided by tabs: the image's path within the folder, and its caption in
one language or several. The first row names the columns, starting with `#`; it may be
omitted where there is one caption. A column called text or caption serves any language.
The images with the smallest sha256 of their path are held out; images that no row names
are ignored. Tar files: `image_shards`.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from transformer.data.readers import files as own_files
from transformer.data.readers import image_arrays, image_shards
from transformer.data.readers.image_files import ImageFile
from transformer.data.records import Records

TABLE = "captions.tsv"
ANY = ("text", "caption")


def _column(path: Path, rows: list[list[str]], language: str) -> int:
    """The column of the captions; ValueError where the language has none."""
    columns = rows[0][1:]
    if not rows[0][0].startswith("#"):
        if len(columns) == 1:
            return 1
        raise ValueError(
            f"{path}, row 1: expected a file and a caption, or a row of names that "
            f"starts with #, got {len(rows[0])} columns"
        )
    for name in (language, *ANY):
        if name in columns:
            return 1 + columns.index(name)
    raise ValueError(
        f"{path}, row 1: expected captions in {language!r}, got {', '.join(columns)}"
    )


def _table_rows(
    path: Path, language: str
) -> tuple[list[ImageFile], list[str], list[Path]]:
    """The images that the table names, their captions, and the table."""
    listing = path / TABLE if path.is_dir() else path
    rows = own_files.tsv_rows(listing, columns=None)
    if not rows:
        raise ValueError(f"{listing}: expected images and captions, got none")
    column = _column(listing, rows, language)
    header = int(rows[0][0].startswith("#"))
    names: list[str] = []
    seen: set[str] = set()
    for number, row in enumerate(rows[header:], 1 + header):
        where = f"{listing}, row {number}"
        name = PurePosixPath(row[0])
        if name.is_absolute() or ".." in name.parts:
            raise ValueError(f"{where}: expected a path in the folder, got {row[0]!r}")
        if not (listing.parent / name).is_file():
            raise ValueError(f"{where}: expected an image, got no file {row[0]!r}")
        if str(name) in seen:
            raise ValueError(f"{where}: expected each image once, got {row[0]!r} again")
        seen.add(str(name))
        names.append(str(name))
    texts = [row[column] for row in rows[header:]]
    return [ImageFile(listing.parent / n, n) for n in names], texts, [listing]


def read(
    path: Path, *, held_out: float, language: str, image_size: int | None
) -> Records:
    """`image` uint8 [N, rows, columns, channels] and `text`, an array of strings.
    ValueError, naming file and row, for a missing image or caption, an image named
    twice, and images of different sizes where there is no `image_size`."""
    root = path if path.is_dir() else path.parent
    shards = [] if (path / TABLE).is_file() else image_shards.find(path)
    if shards:
        tables = []
        images, texts = image_shards.read(shards, root, image_shards.CAPTION)
    else:
        images, texts, tables = _table_rows(path, language)
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
