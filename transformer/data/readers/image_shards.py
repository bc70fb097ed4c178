"""The user's own images in tar files, with the names of WebDataset.

    000001.png, 000001.cls, 000002.png, 000002.json, ...

The files of one example follow each other and share their name up to its first dot. A
label is the text of `.cls`, `label` or `cls` in `.json`, or the text of `.txt`; a
caption is the text of `.txt`, or `text` or `caption` in `.json`. Images are read where
they are: nothing is unpacked, so a tar file that is compressed as a whole is refused.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformer import checks, storage
from transformer.data.readers import files as own_files
from transformer.data.readers import image_table, table, text_files
from transformer.data.readers.image_files import ImageFile

LABEL = {"cls": None, "json": ("label", "cls"), "txt": None}
CAPTION = {"txt": None, "json": ("text", "caption")}


def find(path: Path) -> list[Path]:
    """The tar files: `path` itself, or those in a folder without other folders; none
    where it is something else."""
    found = [path]
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if not p.name.startswith("."))
        if any(inside.is_dir() for inside in found):
            return []
    return [checks.regular_file(file) for file in found if file.suffix == ".tar"]


def report_unread(path: Path, shards: list[Path]) -> None:
    """Say in one line what is beside the tar files of a folder."""
    if path.is_dir():
        text_files.report_unread(path, [shard.name for shard in shards])


def _check_end(shard: Path, offset: int) -> None:
    """ValueError unless the bytes from `offset` on are the mark that ends an archive.
    tarfile stops in silence in a header that is cut, at the end of a file that is cut
    between two members, and behind the first of several archives in one file."""
    with open(shard, "rb") as file:
        file.seek(offset)
        mark = file.read(tarfile.BLOCKSIZE)
        if len(mark) < tarfile.BLOCKSIZE or mark.strip(b"\0"):
            raise ValueError(
                f"{shard}: expected a tar file up to the mark of its end, got a part"
            )
        if any(block.strip(b"\0") for block in iter(lambda: file.read(2**20), b"")):
            raise ValueError(
                f"{shard}: expected one tar archive, got more behind its end"
            )


def _members(shard: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Each example's name and its files by extension."""
    name, found = "", {}
    with tarfile.open(shard, "r:") as archive:
        for member in archive:
            folder, _, base = member.name.rpartition("/")
            stem, _, extension = base.partition(".")
            if member.isdir() or not stem:
                continue
            if not member.isfile() or member.issparse():
                raise ValueError(
                    f"{shard}: {member.name}: expected a file, got a link, a device "
                    "or a sparse file"
                )
            key, kind = f"{folder}/{stem}" if folder else stem, extension.lower()
            if key != name and found:
                yield name, found
                found = {}
            if kind in found:
                raise ValueError(f"{shard}: {key}.{kind}: expected once, got it again")
            name = key
            found[kind] = member
        _check_end(shard, archive.offset)
    if found:
        yield name, found


def _text(
    shard: Path, name: str, example: dict[str, tarfile.TarInfo], columns: dict[str, Any]
) -> str:
    """What the example is labeled with."""
    for extension, keys in columns.items():
        if extension not in example:
            continue
        member, where = example[extension], f"{shard}: {name}.{extension}"
        with open(shard, "rb") as file:
            file.seek(member.offset_data)
            content = file.read(member.size)
        try:
            value: Any = content.decode("utf-8").strip()
            if keys is not None:
                record = storage.parse_json(value)
                value = next((record[key] for key in keys if key in record), "")
        except (ValueError, TypeError) as error:
            got = own_files.one_line(error)
            raise ValueError(f"{where}: expected UTF-8 text, got {got}") from None
        text = table.cell_text(where, value)
        if text:
            return text
    expected = " or ".join(f".{extension}" for extension in columns)
    got = ", ".join(f".{extension}" for extension in example)
    raise ValueError(f"{shard}: {name}: expected {expected}, got {got}")


def read(
    shards: list[Path], root: Path, columns: dict[str, Any]
) -> tuple[list[ImageFile], list[str]]:
    """The images of all shards, and the text of each. columns: LABEL or CAPTION.

    ValueError, naming shard and example, where one has no image or text, or where a
    file is no tar file.
    """
    files, texts = [], []
    for shard in shards:
        inside = shard.relative_to(root) if shard != root else Path(shard.name)
        try:
            examples = list(_members(shard))
        except (tarfile.TarError, OSError) as error:
            got = own_files.one_line(error)
            raise ValueError(f"{shard}: expected a tar file, got {got}") from None
        known: set[str] = set()
        for name, found in examples:
            if name in known:
                raise ValueError(f"{shard}: {name}: expected one example, got several")
            known.add(name)
            images = [found[kind] for kind in image_table.SUFFIXES if kind in found]
            if len(images) != 1:
                got = ", ".join(f".{extension}" for extension in found)
                raise ValueError(f"{shard}: {name}: expected one image, got {got}")
            (member,) = images
            start = member.offset_data
            place = f"{inside.as_posix()}/{member.name}"
            files.append(ImageFile(shard, place, start, start + member.size))
            texts.append(_text(shard, name, found, columns))
    return files, texts
