"""The image classifier, where its attention looks, and the classifier of reports."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import classify_images
from experiments.reports import classify_images as report
from transformer import axes, storage
from transformer.data.sources import images as image_source
from transformer.training import loop, update, workdir
from transformer.training.declaration import derive

TINY: Any = {"patch": 7, "depth": 1, "width": 32, "dtype": "float32", "batch_size": 32}
POOLS = pytest.mark.parametrize("pool", ["mean", "class"])


@POOLS
def test_training_on_one_batch_lowers_its_loss(pool: str) -> None:
    made = classify_images.experiment(**TINY, pool=pool, steps=30)
    step = jax.jit(lambda *arguments: update.update(made, *arguments))
    state = jax.jit(lambda: update.init_state(made))()
    losses = []
    batch = made.batch(0, range(32))
    for _ in range(made.steps):
        state, metrics = step(state, batch)
        losses.append(made.metrics(metrics.loss)["loss"])
    assert losses[0] == pytest.approx(np.log(10), abs=1e-3)
    assert np.mean(losses[-5:]) < 1.5, np.round(losses, 2)


def test_each_held_out_image_counts_once() -> None:
    made = classify_images.experiment(**TINY)
    held_out = made.evaluations["validation"]
    rows = range(held_out.batch_size)
    weight = [held_out.batch(n, rows)["weight_B"] for n in range(held_out.batches)]
    assert np.sum(weight) == len(image_source.load("digits").validation["label"])


def test_patches_that_do_not_fill_the_image_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of the patch 5 x 5, got 28 x 28"):
        classify_images.experiment(patch=5)


DEFAULT = classify_images.experiment


@derive(DEFAULT, **TINY, steps=2)
def tiny(**rest: Any) -> Any:
    """The experiment with other defaults."""
    return DEFAULT(**rest)


def test_the_default_classifier_is_trained_once(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the cache folder. Its logits are the linear map of its features."""
    images = image_source.load("digits").validation["image"][:300]
    monkeypatch.setattr(classify_images, "experiment", tiny)
    for folder in storage.cache_home().iterdir():
        if folder.name != "pretrained":
            (tmp_path / folder.name).symlink_to(folder)
    monkeypatch.setattr(storage, "cache_home", lambda: tmp_path)
    classifier = report.load_classifier()
    logits, features = classifier.logits(images), classifier.features(images)
    assert logits.shape == (300, 10) and features.shape == (300, 32)
    (folder,) = (p for p in (tmp_path / "pretrained").iterdir() if p.is_dir())
    monkeypatch.setattr(loop, "train", None)
    for again in (report.load_classifier(), report.load_classifier(folder)):
        np.testing.assert_array_equal(again.logits(images), logits)
    params = loop.restore_run_params(tiny(), folder, axes.make_mesh())
    unembedding = params["unembedding_VD"], params["b_V"]
    expected = features @ unembedding[0].T + unembedding[1][None]
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    record = workdir.read_record(folder)
    assert record is not None and record["flags"]["width"] == 32


def test_a_folder_without_a_run_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="expected a run of classify_images, got non"):
        report.load_classifier(tmp_path)


def random_classifier(pool: str) -> tuple[Any, Any]:
    """The experiment and parameters whose logits are not all zero."""
    made = classify_images.experiment(**TINY, pool=pool)
    params = jax.jit(made.init)(jax.random.key(0))
    params["unembedding_VD"] = jax.random.normal(jax.random.key(1), (10, 32))
    return made, params


@POOLS
def test_patch_relevance_is_a_fraction_of_the_pooled_features(pool: str) -> None:
    made, params = random_classifier(pool)
    raw = made.tokenizer.encode(made.data.validation["image"][:3])
    relevance = jax.jit(report.patch_relevance, static_argnums=0)(
        made.net, params, jnp.asarray(raw)
    )
    assert relevance.shape == (3, 16) and (relevance >= 0).all()
    # A class token keeps half of itself in each layer's residual stream.
    most = 1.0 if pool == "mean" else 0.5
    total = relevance.sum(-1)
    assert (total <= most + 1e-5).all() and (total > 0.1).all()


def test_the_deletion_study_has_numbers_and_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(report, "DELETION_IMAGES", 12)
    made, params = random_classifier("mean")
    means, figures = report.deletion_study(
        made.net, made.tokenizer, made.data, params, jax.random.key(0)
    )
    assert len(means) == 6 and all(0 <= mean <= 1 for mean in means.values())
    assert set(figures) == {"rollout.png", "deletion.png"}
    across = len(figures["rollout.png"].axes) // 3
    layers = [len(axes.images) for axes in figures["rollout.png"].axes[::across]]
    assert layers == [1, 2, 1]  # images; images under heat; what remains of them
