"""Names written from patches."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_match import TINY, trained

from experiments import caption
from transformer.data.readers import files
from transformer.objectives import cross_entropy

RNG = np.random.default_rng(0)


def test_each_word_of_a_caption_has_a_heatmap() -> None:
    made = caption.experiment(
        **TINY, written_depth=1, batch_size=16, steps=20, dtype="float32"
    )
    params = trained(made, 20, 0.8)
    model = made.report.args[0]
    held = {name: a[:3] for name, a in model.of.data.validation.items()}
    opened = [0.1 * RNG.normal(size=a.shape) for a in jax.tree.leaves(params)]
    opened = jax.tree.unflatten(jax.tree.structure(params), opened)
    params = jax.tree.map(jnp.add, params, opened)
    words, shares = model.attention(params, held["image"][:1], ["red apple"])[0]
    assert words == ["red", "apple"] and shares.shape == (2, 4, 4)
    np.testing.assert_allclose(shares.sum((1, 2)), 1, rtol=1e-4)


def test_what_is_hidden_is_never_where_writing_starts() -> None:
    ids_BL, key = jnp.arange(2000).reshape(200, 10) % 250, jax.random.key(0)
    seen_BL = np.asarray(cross_entropy.word_dropout(ids_BL, key, 0.3, mask_id=250))
    hidden_BL = seen_BL == 250
    np.testing.assert_array_equal(seen_BL[~hidden_BL], ids_BL[~hidden_BL])
    assert not hidden_BL[:, 0].any() and 0.25 < hidden_BL[:, 1:].mean() < 0.35
    assert not (cross_entropy.word_dropout(ids_BL, key, 0.0, mask_id=250) == 250).any()


def test_a_picture_of_the_user_s_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tall grey one with a transparent rim: fitted, not bent, on white."""
    from PIL import Image

    tall = np.zeros((64, 32, 2), np.uint8)
    tall[8:56, 8:24, 1] = 255
    Image.fromarray(tall, "LA").save(tmp_path / "tall.png")
    fitted = files.resized_image(tmp_path / "tall.png", (32, 32, 3))
    assert fitted.shape == (32, 32, 3) and fitted[0, 0].tolist() == [255, 255, 255]
    down, across = np.nonzero((fitted < 128).all(-1))
    assert np.ptp(down) == 23 and np.ptp(across) == 7
    made = caption.experiment(**TINY, written_depth=1, steps=1, dtype="float32")
    model, params = made.report.args[0], made.init(jax.random.key(0))
    short = model._replace(namer=model.namer._replace(max_tokens=3))
    caption.generate(short, params, jax.random.key(0), image=tmp_path / "tall.png")
    said = capsys.readouterr().out
    assert (
        said.startswith(f"{tmp_path / 'tall.png'}: ") and "nearest in training" in said
    )
