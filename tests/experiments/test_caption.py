"""The captioning experiment: attention of words to patches, and names of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import short_training
from PIL import Image

from experiments import caption
from experiments.reports import caption as study

RNG = np.random.default_rng(0)
TINY: Any = {
    **{"depth": 1, "decoder_depth": 1, "width": 32, "patch": 8, "vocab_size": 300},
    **{"seed": 1, "dtype": "float32"},
}


def test_training_lowers_the_loss_and_each_word_of_a_caption_has_a_heatmap() -> None:
    made = caption.experiment(**TINY, batch_size=16, steps=20)
    trained = short_training.train(made)
    assert trained.ratio(3) < 0.8
    # Output projections start at zero, and move little in 20 steps.
    params = jax.tree.map(
        lambda a: jnp.add(a, 0.1 * RNG.normal(size=a.shape)), trained.params
    )
    image = made.data.data.validation["image"][:1]
    words, heat = study.word_heatmaps(
        made.net, made.data, params, image, ["red apple"]
    )[0]
    assert words == ["red", "apple"] and heat.shape == (2, 4, 4)
    np.testing.assert_allclose(heat.sum((1, 2)), 1, rtol=1e-4)
    assert np.ptp(heat) > 0


def test_the_image_in_a_file_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(study, "SAMPLES", 2)
    path = tmp_path / "tall.png"
    pixels = RNG.integers(0, 256, (64, 32, 2)).astype(np.uint8)
    Image.fromarray(pixels, "LA").save(path)
    made = caption.experiment(**TINY, steps=1)
    key = jax.random.key(0)
    params = jax.jit(made.init)(key)
    name = made.generate(params, key, image=path)
    assert capsys.readouterr().out == f"{path}: {name}\n"
    neighbor = name.split("nearest in training: ")[1].removesuffix(")")
    assert neighbor in made.data.data.train["text"]
