"""Images of one's own, of any size, in every experiment that takes images."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from transformer import flags

LABELED = ("classify_images", "dit_flow", "maskgit", "image_gpt", "video")
CAPTIONED = ("caption", "clip", "text_to_image")


def write_images(folder: Path) -> None:
    """Gray ones of different sizes: two classes, and a caption for each."""
    rng = np.random.default_rng(0)
    captions = []
    for number in range(16):
        name = f"{'ab'[number % 2]}/{number}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (30 + number, 50 - number), np.uint8)
        Image.fromarray(pixels).save(folder / name)
        captions.append(f"{name}\timage number {number}, of noise")
    (folder / "captions.tsv").write_text("\n".join(captions))


@pytest.mark.parametrize("name", LABELED + CAPTIONED)
def test_image_size_is_that_of_the_data(name: str, tmp_path: Path) -> None:
    write_images(tmp_path)
    make = importlib.import_module(f"experiments.{name}").experiment
    options: Any = {"source": str(tmp_path), "batch_size": 4}
    if "vocab_size" in flags.parameters(make):
        options["vocab_size"] = 258
    with pytest.raises(ValueError, match="--image_size=N resizes and crops"):
        make(**options)
    made = make(**options, image_size=32)
    data = made.data if name in LABELED else made.data.data
    side = 16 if name == "video" else 32  # videos are of halved digits
    assert data.train["image"].shape[1:3] == (side, side)
    batch = made.batch(0, range(4))
    assert all(np.isfinite(array).all() for array in batch.values())
