"""The recogniser of images, and the judge that it becomes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import classify_images
from transformer import axes, storage
from transformer.data.sources import images as image_source
from transformer.training import loop, update, workdir

TINY = {"patch": 7, "depth": 1, "width": 32, "dtype": "float32", "batch_size": 32}


@pytest.mark.parametrize("gather", ["mean", "class"])
def test_a_few_steps_on_a_batch_lower_its_loss(gather):
    made = classify_images.experiment(**TINY, gather=gather, steps=30)
    advance = jax.jit(lambda *given: update.update(made, *given))
    state = jax.jit(lambda: update.init_state(made))()
    losses = []
    batch = made.batch(0, range(32))
    for _ in range(made.steps):
        state, told = advance(state, batch)
        losses.append(made.metrics(told.loss)["loss"])
    assert losses[0] == pytest.approx(np.log(10), abs=1e-3)
    assert np.mean(losses[-5:]) < 1.5, np.round(losses, 2)


def test_held_out_images_are_counted_once():
    made = classify_images.experiment(**TINY)
    held_out = made.evaluations["validation"]
    rows = range(held_out.batch_size)
    weight = [held_out.batch(n, rows)["weight_B"] for n in range(held_out.batches)]
    assert np.sum(weight) == len(image_source.load("digits").validation["label"])


def test_patches_that_do_not_fill_the_image_are_refused():
    with pytest.raises(ValueError, match="multiple of the patch 5 x 5, got 28 x 28"):
        classify_images.experiment(patch=5)


@pytest.fixture
def tiny(monkeypatch):
    """The experiment with other defaults, of two steps."""
    made = partial(classify_images.experiment, **TINY, steps=2)
    monkeypatch.setattr(classify_images, "experiment", made)
    return made


def test_the_judge_is_trained_once(tiny, tmp_path, monkeypatch):
    images = image_source.load("digits").validation["image"][:300]
    monkeypatch.setattr(storage, "home", lambda: tmp_path)
    judge = classify_images.judge()
    logits, features = judge.logits(images), judge.features(images)
    assert logits.shape == (300, 10) and features.shape == (300, 32)
    (trained,) = (p for p in tmp_path.glob("judge-*") if p.is_dir())
    monkeypatch.setattr(loop, "train", None)
    for again in (classify_images.judge(), classify_images.judge(trained)):
        np.testing.assert_array_equal(again.logits(images), logits)
    params = loop.finished_params(tiny(), trained, axes.mesh())
    readout = params["unembedding_VD"], params["b_V"]
    by_hand = features @ readout[0].T + readout[1][None]
    np.testing.assert_allclose(logits, by_hand, atol=1e-4)
    assert workdir.read_record(trained)["flags"]["width"] == 32


def test_a_judge_needs_a_run(tmp_path):
    with pytest.raises(ValueError, match="expected a sound checkpoint, got none"):
        classify_images.judge(tmp_path)


def expert_of(gather):
    shape = {"patch": 7, "depth": 1, "width": 32, "gather": gather}
    expert = classify_images.recogniser("digits", **shape)
    params = expert.init(jax.random.key(0))
    params["unembedding_VD"] = jax.random.normal(jax.random.key(1), (10, 32))
    return expert, params


@pytest.mark.parametrize("gather", ["mean", "class"])
def test_what_it_looks_at_is_a_share(gather):
    expert, params = expert_of(gather)
    raw = expert.raw(expert.data.validation["image"][:3])
    share = jax.jit(expert.share)(params, jnp.asarray(raw))
    assert share.shape == (3, 16) and (share >= 0).all()
    # A class token keeps half of itself in each layer's residual stream.
    most = 1.0 if gather == "mean" else 0.5
    assert (share.sum(-1) <= most + 1e-5).all() and (share.sum(-1) > 0.1).all()


def test_where_it_looks_is_told_and_drawn(monkeypatch):
    monkeypatch.setattr(classify_images, "ERASED_IMAGES", 12)
    expert, params = expert_of("mean")
    means, drawn = classify_images.looked_at(expert, params, jax.random.key(0))
    assert len(means) == 6 and all(0 <= mean <= 1 for mean in means.values())
    assert set(drawn) == {"regions.png", "erasing.png"}
    across = len(drawn["regions.png"].axes) // 3
    layers = [len(axes.images) for axes in drawn["regions.png"].axes[::across]]
    assert layers == [1, 2, 1]  # images; images under heat; what was left of them
