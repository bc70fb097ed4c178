"""The user's own images with captions: a folder with `captions.tsv` in it.

    #file<tab>en<tab>pt
    cats/1.png<tab>a cat asleep<tab>um gato a dormir

UTF-8, columns divided by tabs: the image's path within the folder, and its caption in
one language or several. The first row names the columns, starting with `#`; it may be
left out where there is one caption. The images with the smallest sha256 of their path
are held out.
"""

from __future__ import annotations

from pathlib import Path

from transformer.data import own_files
from transformer.data.records import Records

TABLE = "captions.tsv"


def _column(path: Path, rows: list[list[str]], language: str) -> int:
    """Where the captions stand; ValueError where the language has no column."""
    columns = rows[0][1:]
    if not rows[0][0].startswith("#"):
        if len(columns) == 1:
            return 1
        raise ValueError(
            f"{path}, row 1: expected a file and a caption, or a row of names that "
            f"starts with #, got {len(rows[0])} columns"
        )
    if language in columns:
        return 1 + columns.index(language)
    if len(columns) == 1:
        return 1
    raise ValueError(
        f"{path}: expected captions in {language!r}, got {', '.join(columns) or 'none'}"
    )


def read(path: Path, *, held_out: float, language: str) -> Records:
    """`image` uint8 [N, rows, columns, channels] and `text`, an array of texts.
    ValueError, naming file and row, for a missing image or caption, an image named
    twice, and images of different sizes."""
    listing = path / TABLE if path.is_dir() else path
    rows = own_files.table(listing)
    if not rows:
        raise ValueError(f"{listing}: expected images and captions, got none")
    column = _column(listing, rows, language)
    skipped = int(rows[0][0].startswith("#"))
    rows, seen = rows[skipped:], set()
    for number, row in enumerate(rows, 1 + skipped):
        where = f"{listing}, row {number}"
        if not (listing.parent / row[0]).is_file():
            raise ValueError(f"{where}: expected an image, got no file {row[0]!r}")
        if row[0] in seen:
            raise ValueError(f"{where}: expected each image once, got {row[0]!r} again")
        seen.add(row[0])
    if len(rows) < 2:
        raise ValueError(
            f"{listing}: expected 2 images or more, one to hold out, got {len(rows)}"
        )
    names = [row[0] for row in rows]
    files = [listing.parent / name for name in names]
    arrays = {
        "image": own_files.pictures(files),
        "text": own_files.texts([row[column] for row in rows]),
    }
    held = own_files.held_out(names, held_out)
    train, validation = own_files.parted(arrays, held)
    identity = own_files.identity(listing.parent, [listing, *files])
    return Records(str(path), identity, train, validation)
