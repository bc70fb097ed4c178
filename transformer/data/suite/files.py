"""The shipped files, read only if their sha256 agrees with the record beside them."""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent


def record(member: str) -> dict:
    """The provenance of a member: origin, licence, and each document's facts."""
    return json.loads((ROOT / member / "provenance.json").read_text(encoding="utf-8"))


def checked(path: Path, sha256: str) -> bytes:
    """The bytes of `path`; ValueError unless they have that hash."""
    if not path.is_file():
        raise ValueError(f"{path}: expected a shipped file, got none")
    data = path.read_bytes()
    got = hashlib.sha256(data).hexdigest()
    if got != sha256:
        raise ValueError(f"{path}: expected sha256 {sha256}, got {got}")
    return data


def documents(member: str, split: str) -> Iterator[tuple[str, str]]:
    """(title, text) of each document of `split`, in the record's order."""
    for facts in record(member)["documents"]:
        if facts["split"] == split:
            packed = checked(ROOT / member / facts["file"], facts["sha256"])
            yield facts["title"], lzma.decompress(packed).decode("utf-8")
