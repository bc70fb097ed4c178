"""The shipped files, verified by the sha256 in the record beside them."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer import storage

ROOT = Path(__file__).parent


class NamedEmoji(NamedTuple):
    """An emoji's characters, and its name and keywords by language."""

    characters: str
    name: dict[str, str]
    keywords: dict[str, list[str]]


def record(member: str) -> dict[str, Any]:
    """The provenance of a shipped data set: origin, license, facts of its files."""
    return json.loads((ROOT / member / "provenance.json").read_text(encoding="utf-8"))


def license(member: str) -> str:
    """The text of the licenses of a shipped data set's files."""
    return (ROOT / member / "LICENCE").read_text(encoding="utf-8")


def read_verified(path: Path, sha256: str) -> bytes:
    """The bytes of `path`; ValueError unless they have that hash."""
    if not path.is_file():
        raise ValueError(f"{path}: expected a shipped file, got none")
    data = path.read_bytes()
    got = storage.sha256(data)
    if got != sha256:
        raise ValueError(f"{path}: expected sha256 {sha256}, got {got}")
    return data


def content(member: str, name: str) -> bytes:
    """The unpacked content of the file `name` of a shipped data set."""
    packed = read_verified(ROOT / member / name, record(member)["files"][name])
    return lzma.decompress(packed)


def documents(member: str, split: str) -> Iterator[tuple[str, str]]:
    """(title, text) of each document of `split`, in the record's order."""
    for facts in record(member)["documents"]:
        if facts["split"] == split:
            packed = read_verified(ROOT / member / facts["file"], facts["sha256"])
            yield facts["title"], lzma.decompress(packed).decode("utf-8")


def digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 28, 28, 1] and labels uint8 [N]."""
    pixels = np.frombuffer(content("digits", f"{split}.images.xz"), np.uint8)
    labels = np.frombuffer(content("digits", f"{split}.labels.xz"), np.uint8)
    return pixels.reshape(-1, 28, 28, 1), labels


def _rows(member: str, name: str) -> list[list[str]]:
    lines = content(member, name).decode("utf-8").split("\n")
    return [line.split("\t") for line in lines[:-1]]


def sentences(split: str) -> list[tuple[int, str, str]]:
    """(number of the help page, English, Portuguese) of each pair."""
    rows = _rows("en_pt", f"{split}.tsv.xz")
    return [(int(page), first, second) for page, first, second in rows]


def _pixels(name: str) -> np.ndarray:
    pixels = np.frombuffer(content("emoji", name), np.uint8)
    return pixels.reshape(-1, 32, 32, 3)


def emoji(split: str) -> tuple[np.ndarray, list[NamedEmoji]]:
    """Images uint8 [N, 32, 32, 3] and their names."""
    named = []
    for characters, en, pt, keys_en, keys_pt in _rows("emoji", f"{split}.names.tsv.xz"):
        keywords = {"en": keys_en.split("|"), "pt": keys_pt.split("|")}
        named.append(NamedEmoji(characters, {"en": en, "pt": pt}, keywords))
    return _pixels(f"{split}.images.xz"), named


def emoji_styles() -> tuple[np.ndarray, list[tuple[str, NamedEmoji]]]:
    """Further images uint8 [N, 32, 32, 3] of emoji of train, in other styles than
    `emoji`'s: their styles, by the name of the artists, and their names."""
    by_characters = {named.characters: named for named in emoji("train")[1]}
    rows = _rows("emoji", "train.styles.tsv.xz")
    listed = [(style, by_characters[characters]) for style, characters in rows]
    return _pixels("train.styles.images.xz"), listed
