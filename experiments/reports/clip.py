"""Retrieval of held-out images by their names, and of names by their images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import clip
from transformer.data.captioned_images import CaptionedImages
from transformer.evaluation import image_text_encoder, retrieval
from transformer.evaluation.baselines import tfidf
from transformer.models.clip import DualEncoder
from transformer.plots import caption_grid
from transformer.training import pretrained

SHOWN = 10


def encoder_for(
    captions: CaptionedImages, folder: Path | None
) -> image_text_encoder.ImageTextEncoder | None:
    """The trained encoders of the run in `folder`; if None, of a run with default
    flags, trained once in the user's cache folder. None where these know other images
    than emoji or images of another shape, which is printed in one line."""
    name = captions.data.name
    if folder is None and (not name.startswith("emoji") or captions.is_cropped):
        fault = "the default scorer knows emoji of 32 x 32 pixels alone"
    else:
        made, params = pretrained.load_or_train(clip.experiment, folder, version="1")
        known, got = (x.data.train["image"].shape[1:] for x in (made.data, captions))
        if known == got:
            return image_text_encoder.from_net(made.net, made.data, params)
        fault = f"{folder} knows images of {known}, not of {got}"
    print(
        f"{name}: {fault}, so the report has no retrieval; --scorer=RUN names a run of "
        "experiments.clip",
        flush=True,
    )
    return None


def report(
    net: DualEncoder, captions: CaptionedImages, params: Any, key: jax.Array
) -> dict[str, Any]:
    """Recall and ranks, some retrievals, and the rank of every name."""
    held, train = captions.data.validation, captions.data.train
    encoder = image_text_encoder.from_net(net, captions, params)
    images, names = encoder.images(held["image"]), encoder.texts(held["text"])
    rank = retrieval.ranks(names @ images.T)
    # The training image of the nearest name, then the image nearest to that.
    near = tfidf.nearest(list(train["text"]), list(held["text"])).index
    distance = retrieval.negative_squared_distance(train["image"][near], held["image"])
    ranks = {
        "text_to_image": rank,
        "image_to_text": retrieval.ranks(images @ names.T),
        "text_to_image/tfidf_nn": retrieval.ranks(distance),
    }
    results: dict[str, Any] = {"images": len(rank), "chance": 1 / len(rank)}
    for name, one in ranks.items():
        for metric, number in retrieval.recall_at_k(one).items():
            results[f"{name}/{metric}"] = number
    shown = np.asarray(jax.random.permutation(key, len(rank)))[:SHOWN]
    ordered = sorted(zip(rank, held["text"], strict=True))
    return {
        "results.json": results,
        "retrieval.png": caption_grid.plot_retrieval(
            names, images, held["text"], held["image"], shown
        ),
        "ranks.txt": "\n".join(f"{r:4d}  {name}" for r, name in ordered),
    }
