"""Emoji as small images with their names in English and Portuguese.

The images are the bitmaps of the font Noto Color Emoji, the names those of Unicode's
CLDR. Needs fontTools and Pillow, which matplotlib depends on. `emoji_styles.py` adds
other drawings of the same emoji to the training split.
"""

from __future__ import annotations

import collections
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer import storage
from transformer.data.shipped.recipes import emoji_styles, packages

PACKAGES = (
    packages.Package(
        "Debian",
        "fonts-noto-color-emoji",
        "2.042-0+deb12u1",
        "a5ab0f69c7938423862320d9aca5dd187b3fd879d6a9a57dd52e17c3fa8d2751",
    ),
    packages.Package(
        "Debian",
        "unicode-cldr-core",
        "41-0.1",
        "35d30d5d3bee4d8244e95236259c4c2a0db06e21bad696515751fcfeee4d0260",
    ),
    *emoji_styles.PACKAGES,
)
FONT = "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
NAMES = "usr/share/unicode/cldr/common/{}/{}.xml"
LANGUAGES = ("en", "pt")
SIDE = 32
HELD_OUT = 0.1
SKIN_TONE = re.compile("[\U0001f3fb-\U0001f3ff]")
AS_PICTURE = emoji_styles.AS_PICTURE
ORIGIN = {
    "name": "emoji",
    "what": "emoji, 32 x 32 pixels in colour on white, with names and keywords in "
    "English and Portuguese; no variants by skin tone",
    "licence": "pictures: SIL Open Font License 1.1, Copyright 2013-2017 Google Inc. "
    "and Arjen Nienhuis (Noto Color Emoji); names and keywords: Unicode-DFS-2016, "
    "Copyright 1991-2022 Unicode, Inc. (CLDR); pictures of train in other styles: "
    "Twemoji, Copyright Twitter, Inc. and other contributors, CC BY 4.0; Fluent Emoji, "
    "Copyright Microsoft Corporation, MIT; Noto Emoji as until 2017 (blob), Copyright "
    "Google Inc., Apache License 2.0",
    "homepage": "https://github.com/googlefonts/noto-emoji",
    "packages": packages.facts(PACKAGES),
    "built_by": "transformer/data/shipped/build.py",
    "format": "images: red, green and blue byte for each pixel, row by row, image "
    "after image; names: one line for each image: emoji, name en, name pt, keywords "
    "en, keywords pt, with a tab between and | between keywords; styles: pictures of "
    "emoji of train in other styles, as images, and one line for each: style, tab, "
    "emoji; UTF-8; all xz",
    "selection": "of several emoji with one picture that with the shortest English "
    "name; not the keys 0-9, # and * themselves. In each style likewise, and none that "
    "is the picture of a validation emoji in that style",
    "split": "in the order of sha256(emoji), those of which each word of either name "
    "is also in the name of an emoji of train go to validation until a tenth is there: "
    "new combinations of known words. Variants of one motif (man, woman, person; hours "
    "of the clock) can be in both splits, the same picture or name cannot",
}


class Emoji(NamedTuple):
    """One emoji: its characters, image [32, 32, 3], and words in each language."""

    characters: str
    image: np.ndarray
    names: tuple[str, ...]
    keywords: tuple[tuple[str, ...], ...]


class Words(NamedTuple):
    """Name and keywords of one emoji in one language, from CLDR."""

    name: str
    keywords: tuple[str, ...]


def words(root: Path, language: str) -> dict[str, Words]:
    """Characters -> words in that language."""
    found = collections.defaultdict(lambda: Words("", ()))
    for folder in ("annotations", "annotationsDerived"):
        tree = ET.parse(root / NAMES.format(folder, language))
        for annotation in tree.getroot().iter("annotation"):
            key, text = annotation.attrib["cp"], annotation.text or ""
            if annotation.get("type") == "tts":
                found[key] = found[key]._replace(name=text)
            else:
                listed = tuple(part.strip() for part in text.split("|"))
                found[key] = found[key]._replace(keywords=listed)
    return dict(found)


def ligatures(font: Any) -> dict[tuple[str, ...], str]:
    """Sequences of glyphs -> the ligature glyph that replaces them."""
    joined = {}
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for table in lookup.SubTable:
            table = getattr(table, "ExtSubTable", table)
            for first, candidates in getattr(table, "ligatures", {}).items():
                for one in candidates:
                    joined[(first, *one.Component)] = one.LigGlyph
    return joined


def bitmaps(path: Path, emoji: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """(characters, PNG) of those that the font has as one color bitmap."""
    from fontTools.ttLib import TTFont

    font = TTFont(path)
    glyphs, joined = font.getBestCmap() or {}, ligatures(font)
    pictures = font["CBDT"].strikeData[0]
    for characters in emoji:
        row = tuple(glyphs.get(ord(c), "") for c in characters if c != AS_PICTURE)
        glyph = row[0] if len(row) == 1 else joined.get(row)
        if glyph in pictures:
            yield characters, bytes(pictures[glyph].imageData)


def overlaps(size: int) -> np.ndarray:
    """Integers [32, size]: the overlap of small pixel i with pixel j."""
    edges = np.arange(SIDE + 1) * size
    pixels = np.arange(size + 1) * SIDE
    low = np.maximum(edges[:-1, None], pixels[None, :-1])
    high = np.minimum(edges[1:, None], pixels[None, 1:])
    return np.maximum(high - low, 0)


def downscale(png: bytes) -> np.ndarray:
    """The image on a white square, area-averaged to uint8 [32, 32, 3]."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    side = max(picture.size)
    square = Image.new("RGBA", (side, side), (255, 255, 255, 0))
    place = ((side - picture.width) // 2, (side - picture.height) // 2)
    square.paste(picture, place)
    colors = np.asarray(square).astype(np.int64)
    opaque = colors[..., 3:]
    white = colors[..., :3] * opaque + 255 * (255 - opaque)  # times 255
    weights = overlaps(side)
    rows = (weights @ white.reshape(side, -1)).reshape(SIDE, side, 3)
    summed = weights @ rows
    whole = 255 * side * side
    return ((summed + whole // 2) // whole).astype(np.uint8)


def all_emoji(roots: Sequence[Path]) -> list[Emoji]:
    """All emoji with names in both languages, each image once, sorted by characters."""
    named = [words(roots[1], language) for language in LANGUAGES]
    known = [
        key
        for key, first in named[0].items()
        if first.name and named[1].get(key, Words("", ())).name
        if not SKIN_TONE.search(key) and not key.isascii()
    ]
    found: dict[bytes, Emoji] = {}
    for key, png in bitmaps(roots[0] / FONT, sorted(known)):
        of_key = [language[key] for language in named]
        names = tuple(one.name for one in of_key)
        one = Emoji(key, downscale(png), names, tuple(w.keywords for w in of_key))
        pixels = one.image.tobytes()
        if pixels not in found or len(names[0]) < len(found[pixels].names[0]):
            found[pixels] = one
    return sorted(found.values(), key=lambda one: one.characters)


def vocabulary(one: Emoji) -> set[tuple[str, str]]:
    """(language, word) for each word of its names."""
    return {
        (language, word)
        for language, name in zip(LANGUAGES, one.names, strict=True)
        for word in re.findall(r"\w+", name.casefold())
    }


def held_out(emoji: Sequence[Emoji]) -> set[str]:
    """The characters of the validation emoji."""
    left = collections.Counter(word for one in emoji for word in vocabulary(one))
    names = collections.Counter(name for one in emoji for name in set(one.names))
    chosen: set[str] = set()
    for one in sorted(emoji, key=lambda one: storage.sha256(one.characters.encode())):
        mine = vocabulary(one)
        known = all(left[word] > 1 for word in mine)
        if known and all(names[name] == 1 for name in one.names):
            left.subtract(mine)
            chosen.add(one.characters)
        if len(chosen) >= HELD_OUT * len(emoji):
            break
    return chosen


def line(one: Emoji) -> str:
    """An emoji's line in the file of names."""
    listed = ["|".join(keywords) for keywords in one.keywords]
    return "\t".join([one.characters, *one.names, *listed]) + "\n"


def build(roots: Sequence[Path]) -> packages.Dataset:
    """Images and names of both splits."""
    emoji = all_emoji(roots)
    chosen = held_out(emoji)
    parts: Mapping[str, list[Emoji]] = {"train": [], "validation": []}
    for one in emoji:
        parts["validation" if one.characters in chosen else "train"].append(one)
    files = {}
    for split, rows in parts.items():
        pixels = b"".join(one.image.tobytes() for one in rows)
        names = "".join(map(line, rows)).encode()
        files[f"{split}.images.xz"] = packages.pack(pixels)
        files[f"{split}.names.tsv.xz"] = packages.pack(names)
    counts = {split: len(rows) for split, rows in parts.items()}
    styled = emoji_styles.build(roots[2:], emoji, chosen, downscale)
    record = {**ORIGIN, "examples": counts, "styles": styled[1]}
    return packages.Dataset({**files, **styled[0]}, record)
