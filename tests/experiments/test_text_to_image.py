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
from transformer.data import similar_images
from transformer.models import text_to_image as model
from transformer.objectives import denoising
from transformer.processes import flow_matching

RNG = np.random.default_rng(0)
TINY: Any = {
    **{"depth": 1, "text_depth": 1, "width": 32, "patch": 8, "vocab_size": 300},
    **{"seed": 1, "dtype": "float32"},
}


def similar(made: Any) -> similar_images.SimilarImages:
    """The examples of texts as the experiment has them."""
    return similar_images.similar_images(made.data, count=3)


@pytest.fixture(scope="module")
def made() -> Any:
    """The experiment."""
    return text_to_image.experiment(**TINY, batch_size=16, steps=20)


@pytest.fixture(scope="module")
def params(made: Any) -> Any:
    """Near the initial ones, of which output projections are zero."""
    initial = jax.jit(made.init)(jax.random.key(0))
    return jax.tree.map(lambda a: a + 0.05 * RNG.normal(size=a.shape), initial)


def test_training_lowers_the_loss_and_samples_follow_the_text(
    made: Any, tmp_path: Path
) -> None:
    short = short_training.train(made)
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
    made: Any, params: Any
) -> None:
    """Every parameter of the cross-attention has a gradient. The examples are those of
    one text."""
    x_BLP = jax.random.normal(jax.random.key(2), (1, 16, 192))
    x_BLP = jnp.broadcast_to(x_BLP, (3, 16, 192))
    example_BLP = similar(made).encode(["red apple"] * 3)[-1]
    text = *made.data.encode(["red apple", "blue heart", ""]), example_BLP

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradient(params: Any) -> Any:
        arguments = params, text, x_BLP, jnp.full(3, 0.5)
        prediction = model.predict(made.net, *arguments)
        return prediction.sum(), prediction

    slope, prediction = jax.device_get(gradient(params))
    for leaf in jax.tree.leaves(slope["stack"]["layers_0"]["cross_attention"]):
        assert leaf.any()
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(prediction[one] - prediction[other]).max() > 1e-3


def test_the_prediction_depends_on_the_style_and_on_each_example(
    made: Any, params: Any
) -> None:
    x_BLP = jax.random.normal(jax.random.key(2), (1, 16, 192))
    x_BLP = jnp.broadcast_to(x_BLP, (4, 16, 192))
    texts = ["red apple", "red apple, blob", "red apple, fluent", "red apple, twemoji"]
    ids_BL, segment_BL, example_BLP = similar(made).encode(texts)
    example_BLP = np.repeat(example_BLP[:1], 4, 0)

    @jax.jit
    def predict(example_BLP: Any) -> Any:
        text = ids_BL, segment_BL, example_BLP
        return model.predict(made.net, params, text, x_BLP, jnp.full(4, 0.5))

    prediction = np.asarray(predict(example_BLP))
    for one in range(1, 4):
        assert np.abs(prediction[0] - prediction[one]).max() > 1e-3
    for number in range(3):
        changed = np.array(example_BLP)
        changed[:, :, number * 192 : (number + 1) * 192] += 1
        assert np.abs(prediction - np.asarray(predict(changed))).max() > 1e-2


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_the_weights_of_the_images_copy_them(made: Any, number: int) -> None:
    """The noisy one and three examples: a bias of 1 for one of them, all other output
    0, is that one as the residual."""
    initial = jax.jit(made.init)(jax.random.key(0))
    bias_P = np.zeros(192 + 4, np.float32)
    bias_P[192 + number] = 1
    text = similar(made).encode(["red apple", "blue heart"])
    x_BLP = jax.random.normal(jax.random.key(2), (2, 16, 192))
    arguments = text, x_BLP, jnp.full(2, 0.25)
    predict = jax.jit(partial(model.predict, made.net))
    got = predict({**initial, "b_out_P": bias_P}, *arguments)
    images = [x_BLP, *np.split(text[2], 3, -1)]
    expected = flow_matching.precondition(images[number], *arguments[1:])
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_tenth_of_the_texts_is_dropped_in_training_only(
    made: Any, params: Any
) -> None:
    """The training loss is the validation loss of the batch after `drop_texts`."""
    batch, key = made.batch(0, range(16)), jax.random.key(0)
    names = "ids_BL", "segment_BL", "example_BLP"
    text = tuple(batch[name] for name in names)
    null_text = similar(made).encode([""])
    chosen = denoising.drop_texts(text, null_text, key, rate=0.1)
    ids_BL = chosen[0]
    dropped = {**batch, **dict(zip(names, chosen, strict=True))}
    rows = (np.asarray(ids_BL) != batch["ids_BL"]).any(1)
    assert 0 < rows.sum() < 8
    validation = jax.jit(made.evaluations["validation"].loss)
    expected = validation(params, dropped, key)
    close(expected, jax.jit(made.loss)(params, batch, key))
    assert float(validation(params, batch, key).total) != float(expected.total)


def test_samples_start_from_the_nearest_example(params: Any, tmp_path: Path) -> None:
    """At time 1 they are that example. A text that shares no word with a name has none:
    it starts from noise."""
    made = text_to_image.experiment(**TINY, start_time=1.0)
    train = made.data.data.train
    images = made.generate(
        params,
        jax.random.key(0),
        text=f"{train['text'][5]}; qqq",
        sampling_steps=1,
        output=tmp_path / "sample.png",
    )
    np.testing.assert_array_equal(images[0], train["image"][5])
    assert images[1].std() > 10
