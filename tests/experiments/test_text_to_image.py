"""The text-to-image experiment: samples follow the text."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import short_training
from cases import close
from PIL import Image

from experiments import text_to_image
from transformer.models import dit
from transformer.objectives import denoising

RNG = np.random.default_rng(0)
TINY: Any = {
    **{"depth": 1, "text_depth": 1, "width": 32, "patch": 8, "vocab_size": 300},
    **{"seed": 1, "dtype": "float32"},
}


@pytest.fixture(scope="module")
def trained() -> tuple[Any, short_training.Short]:
    """The experiment, and its training of 20 steps."""
    made = text_to_image.experiment(**TINY, batch_size=16, steps=20)
    return made, short_training.train(made)


@pytest.fixture(scope="module")
def params(trained: Any) -> Any:
    """Output projections start at zero, and move little in 20 steps."""
    return jax.tree.map(
        lambda a: a + 0.05 * RNG.normal(size=a.shape), trained[1].params
    )


def test_training_lowers_the_loss_and_samples_follow_the_text(
    trained: Any, tmp_path: Path
) -> None:
    made, short = trained
    assert short.ratio(3) < 0.8
    sample = partial(
        made.generate,
        short.params,
        jax.random.key(0),
        text="red apple; red apple; blue heart",
        sampling_steps=2,
        output=tmp_path / "sample.png",
    )
    first, again, other = sample(), sample(), sample(sample_seed=1)
    assert first.shape == (3, 32, 32, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and (first[0] != first[1]).any()
    with Image.open(tmp_path / "sample.png") as file:
        assert file.size == (3 * 32 * 4, 32 * 4)


def test_the_prediction_depends_on_the_text_and_no_text_is_a_text(
    trained: Any, params: Any
) -> None:
    """Every parameter of the cross-attention has a gradient."""
    made, _ = trained
    x_BLP = jax.random.normal(jax.random.key(2), (1, 16, 192))
    x_BLP = jnp.broadcast_to(x_BLP, (3, 16, 192))
    text = made.data.encode(["red apple", "blue heart", ""])

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradient(params: Any) -> Any:
        prediction = dit.predict(made.net, params, text, x_BLP, jnp.full(3, 0.5))
        return prediction.sum(), prediction

    slope, prediction = jax.device_get(gradient(params))
    for leaf in jax.tree.leaves(slope["stack"]["layers_0"]["cross_attention"]):
        assert leaf.any()
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(prediction[one] - prediction[other]).max() > 1e-3


def test_a_tenth_of_the_texts_is_dropped_in_training_only(
    trained: Any, params: Any
) -> None:
    """The training loss is the validation loss of the batch after `drop_texts`."""
    made, _ = trained
    batch, key = made.batch(0, range(16)), jax.random.key(0)
    text = batch["ids_BL"], batch["segment_BL"]
    null_text = made.data.encode([""])
    ids_BL, segment_BL = denoising.drop_texts(text, null_text, key, rate=0.1)
    dropped = {**batch, "ids_BL": ids_BL, "segment_BL": segment_BL}
    rows = (np.asarray(ids_BL) != batch["ids_BL"]).any(1)
    assert 0 < rows.sum() < 8
    validation = jax.jit(made.evaluations["validation"].loss)
    expected = validation(params, dropped, key)
    close(expected, jax.jit(made.loss)(params, batch, key))
    assert float(validation(params, batch, key).total) != float(expected.total)
