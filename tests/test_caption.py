"""Names written from patches."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_match import TINY, trained

from experiments import caption
from transformer.data.readers import files
from transformer.generation import captioning, minimum_bayes_risk
from transformer.objectives import cross_entropy

RNG = np.random.default_rng(0)


def test_captions_are_what_the_whole_model_finds_likeliest() -> None:
    made = caption.experiment(
        **TINY, written_depth=1, batch_size=16, steps=20, dtype="float32"
    )
    params = trained(made, 20, 0.8)
    model = made.report.args[0]
    held = {name: a[:3] for name, a in model.of.data.validation.items()}
    raw_BLP = model.of.to_patches(held["image"])
    namer = model.namer._replace(length=6)
    opened = [0.1 * RNG.normal(size=a.shape) for a in jax.tree.leaves(params)]
    opened = jax.tree.unflatten(jax.tree.structure(params), opened)
    params = jax.tree.map(jnp.add, params, opened)
    said = captioning.greedy_captions(namer, params, raw_BLP, batch_size=4)
    assert len(said) == 3
    ids_BL = np.asarray(
        jax.jit(partial(captioning.decode_captions, namer))(
            params, raw_BLP, jax.random.key(0)
        ).ids_BL
    )
    assert (ids_BL[:, 0] == model.of.tokenizer.end).all() and len(np.unique(ids_BL)) > 3
    batch = {"raw_BLP": raw_BLP, "ids_BL": ids_BL[:, :-1]}
    batch["segment_BL"] = np.ones_like(batch["ids_BL"])
    x_BLD, w_VD = jax.jit(model.apply)(params, batch)
    best_BL = np.asarray(x_BLD @ w_VD.T).argmax(-1)
    for row, best in zip(ids_BL, best_BL, strict=True):
        ends = np.flatnonzero(row[1:] == model.of.tokenizer.end)
        size = ends[0] + 1 if len(ends) else len(best)
        np.testing.assert_array_equal(row[1 : 1 + size], best[:size])
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


def test_the_consensus_is_the_text_of_greatest_expected_likeness() -> None:
    draws = minimum_bayes_risk.from_samples(
        ["red cat", "red cat", "red hat", "blue car"]
    )
    assert draws == {"red cat": 0.5, "red hat": 0.25, "blue car": 0.25}
    near = minimum_bayes_risk.from_neighbors(
        ["a", "b", "a", "c"], np.array([3.0, 1.0, 2.0, 9.0]), most=3, fade=0.5
    )
    weight = np.exp([-4.0, 0.0, -2.0])
    weight /= weight.sum()
    assert near == pytest.approx({"a": weight[0] + weight[2], "b": weight[1]})
    both = minimum_bayes_risk.interpolate(draws, {"blue car": 1.0}, share=0.25)
    assert both["blue car"] == pytest.approx(0.4375)
    assert sum(both.values()) == pytest.approx(1)

    def letters(one: str, other: str) -> float:
        return len(set(one) & set(other)) / len(set(one) | set(other))

    # By hand: not the likeliest text, but the one between the others.
    belief = {"aaa": 0.4, "bcd": 0.3, "bce": 0.3}
    risk = {
        text: sum(p * letters(text, right) for right, p in belief.items())
        for text in belief
    }
    assert (
        minimum_bayes_risk.best_text(belief, letters)
        == max(risk, key=risk.__getitem__)
        != "aaa"
    )
    with pytest.raises(ValueError, match="expected draws, got none"):
        minimum_bayes_risk.from_samples([])


def test_draws_are_of_the_row_and_the_key_alone() -> None:
    made = caption.experiment(
        **TINY, written_depth=1, batch_size=16, steps=20, dtype="float32"
    )
    params, model = made.init(jax.random.key(2)), made.report.args[0]
    raw_BLP = model.of.to_patches(model.of.data.validation["image"][:3])
    how: Any = {"draws": 4, "batch_size": 4}
    drawn, again = (
        captioning.sample_captions(
            model.namer._replace(length=5), params, raw_BLP, key, **how
        )
        for key in [jax.random.key(0)] * 2
    )
    assert drawn == again and [len(texts) for texts in drawn] == [4, 4, 4]
    assert len({text for texts in drawn for text in texts}) > 6


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
    short = model._replace(namer=model.namer._replace(length=3))
    caption.generate(short, params, jax.random.key(0), image=tmp_path / "tall.png")
    said = capsys.readouterr().out
    assert (
        said.startswith(f"{tmp_path / 'tall.png'}: ") and "nearest in training" in said
    )
