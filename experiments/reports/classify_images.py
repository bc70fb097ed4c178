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


def load_classifier(folder: Path | None = None) -> image_classifier.ImageClassifier:
    """The classifier of the run in `folder`; if None, of the default run, which is
    trained once (three minutes) and cached."""
    identity = image_source.load("digits").identity
    version = storage.short_hash(identity, workdir.source_of(vit.classifier))
    made, params = pretrained.load_or_train(
        classify_images.experiment, folder, version=version
    )
    return from_net(made.net, made.tokenizer, params)


def from_net(
    net: Any, tokens: patches.PatchTokenizer, params: Any
) -> image_classifier.ImageClassifier:
    """The network with these parameters as functions of 8-bit images."""
    apply = partial(vit.apply, net)
    return image_classifier.from_apply(
        apply, params, raw=tokens.encode, shape=tokens.shape
    )


def report(
    net: Any,
    tokens: patches.PatchTokenizer,
    data: records.Records,
    params: Any,
    key: jax.Array,
) -> dict[str, Any]:
    """Numbers, and figures by file name."""
    image, label = data.validation["image"], data.validation["label"]
    train = data.train["image"], data.train["label"]
    logits = from_net(net, tokens, params).logits(image)
    chosen = np.asarray(jax.random.permutation(key, len(image))[:DELETION_IMAGES])
    image_B, label_B = image[chosen], label[chosen]
    raw_BLP = tokens.encode(image_B)
    blank_P = blank_patch(tokens, data)
    predict = jax.jit(partial(vit.apply, net, params))
    relevance_BL = jax.jit(partial(patch_relevance, net))(params, raw_BLP)
    scores = {
        "rollout": relevance_BL,
        "rollout_ascending": -relevance_BL,
        "gradient_times_input": input_gradients.gradient_times_input(
            predict, raw_BLP, blank_P
        ),
        **deletion.baseline_scores(raw_BLP, blank_P, key),
    }
    curves = deletion.deletion_curves(predict, raw_BLP, label_B, scores, blank_P=blank_P)
    shown = np.unique(label_B, return_index=True)[1][:SHOWN_CLASSES]
    flip = deletion.erase_until_flip(
        predict, raw_BLP[shown], relevance_BL[shown], blank_P
    )
    names = [data.labels[c] for c in label_B[shown]]
    return {
        "results.json": {
            "accuracy": float(np.mean(logits.argmax(1) == label)),
            **linear_probe.pixel_baselines(*train, image, label),
            **{f"deletion_accuracy/{k}": v for k, v in curves.mean_accuracy.items()},
        },
        "mistakes.png": heatmaps.plot_mistakes(image, label, logits, data.labels),
        "rollout.png": plot_rollout(
            tokens, image_B[shown], names, relevance_BL[shown], flip, data.labels
        ),
        "deletion.png": heatmaps.plot_deletion_curves(curves),
    }
