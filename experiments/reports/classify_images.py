"""Accuracy of an image classifier beside baselines, where its attention looks, and a
deletion test of that; the trained classifier for other experiments."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import classify_images
from transformer import storage
from transformer.data import records
from transformer.data.images import patches
from transformer.data.sources import images as image_source
from transformer.evaluation import image_classifier
from transformer.evaluation.baselines import linear_probe
from transformer.interpretability import (
    attention_rollout,
    attention_weights,
    deletion,
    input_gradients,
)
from transformer.models import vit
from transformer.plots import heatmaps
from transformer.training import pretrained, workdir

DELETION_IMAGES = 500
SHOWN_CLASSES = 10


def _load(folder: Path | None) -> tuple[Any, Any]:
    fingerprint = image_source.load("digits").fingerprint
    version = storage.short_hash(fingerprint, workdir.source_code_of(vit.classifier))
    return pretrained.load_or_train(classify_images.experiment, folder, version=version)


def load_classifier(folder: Path | None = None) -> image_classifier.ImageClassifier:
    """The classifier of the run in `folder`; if None, of the default run, which is
    trained once (three minutes) and cached."""
    made, params = _load(folder)
    return from_net(made.net, made.tokenizer, params)


def classifier_for(
    data: records.Records, folder: Path | None
) -> image_classifier.ImageClassifier | None:
    """`load_classifier`, or None where that has other classes than `data` or images of
    another shape, which is printed in one line."""

    def kind(records: Any) -> tuple[Any, ...]:
        return records.train["image"].shape[1:], records.labels

    made, params = (None, None) if folder is None else _load(folder)
    known = image_source.load("digits") if made is None else made.data
    name = "the default classifier, of digits," if folder is None else str(folder)
    if kind(known) != kind(data):
        print(
            f"{data.name}: {name} has other classes or images of another shape, so the "
            "report has no accuracy; --classifier=RUN names one of classify_images",
            flush=True,
        )
        return None
    if made is None:
        made, params = _load(None)
    return from_net(made.net, made.tokenizer, params)


def from_net(
    net: Any, tokenizer: patches.PatchTokenizer, params: Any
) -> image_classifier.ImageClassifier:
    """The network with these parameters as functions of 8-bit images."""
    apply = partial(vit.apply, net)
    return image_classifier.from_apply(
        apply, params, raw=tokenizer.encode, shape=tokenizer.shape
    )


def patch_relevance(net: Any, params: Any, raw_BLP: jax.Array) -> jax.Array:
    """Attention rollout from each patch to the pooled features, (B, L)."""
    _, variables = vit.apply(net, params, raw_BLP, mutable="intermediates")
    layers = attention_weights.self_attention_weights(variables["intermediates"])
    return vit.pooling_of(net).patch_relevance(attention_rollout.rollout(layers))


def blank_patch(tokenizer: patches.PatchTokenizer, data: records.Records) -> np.ndarray:
    """A raw patch of the training images' median pixel."""
    median = np.median(data.train["image"][:1000], axis=(0, 1, 2))
    return tokenizer.encode(np.broadcast_to(np.uint8(median), tokenizer.shape))[0]


def deletion_study(
    net: Any,
    tokenizer: patches.PatchTokenizer,
    data: records.Records,
    params: Any,
    key: jax.Array,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Mean accuracy as patches are erased by attribution, and figures by file name: the
    deletion curves, and images with their rollout, erased until the class changes."""
    predict = jax.jit(partial(vit.apply, net, params))
    image, label = data.validation["image"], data.validation["label"]
    chosen = np.asarray(jax.random.permutation(key, len(image))[:DELETION_IMAGES])
    image, label_B, raw_BLP = (
        image[chosen],
        label[chosen],
        tokenizer.encode(image[chosen]),
    )
    blank_P = blank_patch(tokenizer, data)
    relevance_BL = jax.jit(partial(patch_relevance, net))(params, raw_BLP)
    gradient_BL = input_gradients.gradient_times_input(predict, raw_BLP, blank_P)
    scores = {
        "rollout": relevance_BL,
        "rollout_ascending": -relevance_BL,
        "gradient_times_input": gradient_BL,
        **deletion.baseline_scores(raw_BLP, blank_P, key),
    }
    curves = deletion.deletion_curves(
        predict, raw_BLP, label_B, scores, blank_P=blank_P
    )
    shown = np.unique(label_B, return_index=True)[1][:SHOWN_CLASSES]
    flip = deletion.erase_until_flip(
        predict, raw_BLP[shown], relevance_BL[shown], blank_P
    )
    names = data.labels
    ends = zip(flip.label, flip.count, strict=True)
    heat = np.asarray(relevance_BL[shown]).reshape(-1, *tokenizer.grid)
    rows = [
        heatmaps.ImageRow("image", image[shown], [names[c] for c in label_B[shown]]),
        heatmaps.ImageRow("rollout", image[shown], heat=heat),
        heatmaps.ImageRow(
            "erased",
            tokenizer.decode(flip.remaining_BLP),
            [f"{names[c]} after {count}" for c, count in ends],
        ),
    ]
    return curves.mean_accuracy, {
        "rollout.png": heatmaps.plot_rows(rows),
        "deletion.png": heatmaps.plot_deletion_curves(curves),
    }


def report(
    net: Any,
    tokenizer: patches.PatchTokenizer,
    data: records.Records,
    params: Any,
    key: jax.Array,
) -> dict[str, Any]:
    """Numbers beside baselines on pixels, and figures, by file name."""
    train = data.train["image"], data.train["label"]
    image, label = data.validation["image"], data.validation["label"]
    logits = from_net(net, tokenizer, params).logits(image)
    deletion_accuracy, figures = deletion_study(net, tokenizer, data, params, key)
    return {
        "results.json": {
            "accuracy": float(np.mean(logits.argmax(1) == label)),
            **linear_probe.pixel_baselines(*train, image, label),
            **{f"deletion_accuracy/{k}": v for k, v in deletion_accuracy.items()},
        },
        "mistakes.png": heatmaps.plot_mistakes(image, label, logits, data.labels),
        **figures,
    }
