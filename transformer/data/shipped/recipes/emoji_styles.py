"""The emoji of the training split as other artists draw them.

The drawings are the SVG of icon sets. Needs resvg_py, which renders them the same on
every machine: `pip install resvg_py==0.5.0`.
"""

from __future__ import annotations

import importlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer.data.shipped.recipes import packages

PACKAGES = (
    packages.Package(
        "npm",
        "@iconify-json/twemoji",
        "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    ),
    packages.Package(
        "npm",
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    packages.Package(
        "npm",
        "@iconify-json/noto-v1",
        "1.2.5",
        "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
    ),
)
STYLES = ("twemoji", "fluent", "blob")  # of the packages, in their order
RENDERER = "0.5.0"
PIXELS = 128
AS_PICTURE = "\ufe0f"
PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="{xlink}" {box}>{body}'


class Drawing(NamedTuple):
    """One emoji in a style: its characters and image [32, 32, 3]."""

    style: str
    characters: str
    image: np.ndarray


def render(svg: str) -> bytes:
    """A PNG of PIXELS x PIXELS; ValueError with another renderer than the pinned."""
    resvg = importlib.import_module("resvg_py")
    if resvg.__version__ != RENDERER:
        raise ValueError(f"expected resvg_py {RENDERER}, got {resvg.__version__}")
    png = resvg.svg_to_bytes(svg_string=svg, width=PIXELS, skip_system_fonts=True)
    return bytes(png)


def codes(characters: str) -> str:
    """The code points in hexadecimal, without the selector of pictures."""
    return "-".join(f"{ord(c):x}" for c in characters if c != AS_PICTURE)


def slug(name: str) -> str:
    """An English name as icon sets write it: woman-s-hat is womans-hat."""
    plain = re.sub("['’]", "", unicodedata.normalize("NFKD", name).casefold())
    return re.sub("[^a-z0-9]+", "-", plain.encode("ascii", "ignore").decode()).strip(
        "-"
    )


class IconSet:
    """The icons of a package by characters, or by name where it lists none."""

    def __init__(self, root: Path) -> None:
        folder = root / "package"
        read = {name: folder / f"{name}.json" for name in ("icons", "chars")}
        self.icons, chars = (
            json.loads(file.read_text(encoding="utf-8")) for file in read.values()
        )
        self.by_codes = {key.replace("-fe0f", ""): icon for key, icon in chars.items()}

    def svg(self, characters: str, name: str) -> str | None:
        """The drawing; None where the set has none, or only another one turned."""
        if self.by_codes:
            icon = self.by_codes.get(codes(characters))
        else:
            icon = slug(name)
        alias = self.icons.get("aliases", {}).get(icon)
        if alias is not None:
            icon = alias["parent"] if alias.keys() == {"parent"} else None
        drawing = self.icons["icons"].get(icon)
        if drawing is None:
            return None
        sides = (drawing.get(key, self.icons[key]) for key in ("width", "height"))
        box = 'viewBox="0 0 {} {}"'.format(*sides)
        xlink = "http://www.w3.org/1999/xlink"
        return PICTURE.format(xlink=xlink, box=box, body=drawing["body"] + "</svg>")


def drawings(
    root: Path,
    style: str,
    emoji: Sequence[Any],
    held_out: set[str],
    shrink: Callable[[bytes], np.ndarray],
) -> Iterator[Drawing]:
    """The emoji of train in one style, each image once and none that is also the image
    of a held-out emoji; sorted by characters. emoji: of `recipes.emoji`, both splits.
    """
    icons = IconSet(root)
    chosen: dict[bytes, tuple[Any, np.ndarray]] = {}
    # Held-out emoji first, then the shortest names: the first of an image keeps it.
    order = lambda one: (  # noqa: E731
        one.characters not in held_out,
        len(one.names[0]),
        one.characters,
    )
    for one in sorted(emoji, key=order):
        svg = icons.svg(one.characters, one.names[0])
        if svg is not None:
            image = shrink(render(svg))
            chosen.setdefault(image.tobytes(), (one, image))
    for one, image in sorted(chosen.values(), key=lambda pair: pair[0].characters):
        if one.characters not in held_out:
            yield Drawing(style, one.characters, image)


def build(
    roots: Sequence[Path],
    emoji: Sequence[Any],
    held_out: set[str],
    shrink: Callable[[bytes], np.ndarray],
) -> tuple[Mapping[str, bytes], dict[str, int]]:
    """The files of the drawings, and the number of drawings of each style."""
    made = [
        one
        for root, style in zip(roots, STYLES, strict=True)
        for one in drawings(root, style, emoji, held_out, shrink)
    ]
    pixels = b"".join(one.image.tobytes() for one in made)
    lines = "".join(f"{one.style}\t{one.characters}\n" for one in made)
    files = {
        "train.styles.images.xz": packages.pack(pixels),
        "train.styles.tsv.xz": packages.pack(lines.encode()),
    }
    counts = {style: sum(one.style == style for one in made) for style in STYLES}
    return files, counts
