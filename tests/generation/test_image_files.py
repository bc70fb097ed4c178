"""Images for texts, in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from transformer.generation import image_files

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 3)).astype(np.uint8)


def test_the_images_of_all_texts_are_written_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four times as large; the seed changes the sampler's key."""
    calls = []

    def sample(params: str, texts: list[str], key: jax.Array, *, steps: int) -> Any:
        calls.append((params, texts, steps, jax.random.key_data(key).tolist()))
        return PIXELS

    path, key = tmp_path / "out.png", jax.random.key(0)
    for seed in (0, 0, 1):
        got = image_files.generate(
            sample,
            "params",
            key,
            text="red cat;  blue dog",
            sampling_steps=7,
            sample_seed=seed,
            output=path,
        )
        np.testing.assert_array_equal(got, PIXELS)
    assert calls[0][:3] == ("params", ["red cat", "blue dog"], 7)
    assert calls[0] == calls[1] and calls[0][3] != calls[2][3]
    assert capsys.readouterr().out.splitlines()[0] == f"red cat, blue dog: see {path}"
    with Image.open(path) as file:
        written = np.asarray(file)
    assert written.shape == (12, 40, 3)
    np.testing.assert_array_equal(written[::4, ::4], np.concatenate(list(PIXELS), 1))


def test_texts_that_are_not_utf8_are_refused() -> None:
    def sample(*_: Any, **__: Any) -> Any:
        pytest.fail("computed")

    with pytest.raises(ValueError, match="text: expected text in UTF-8, got '.udcff'"):
        image_files.generate(sample, {}, jax.random.key(0), text="red \udcff")
