"""Captioned images for a dual encoder of another library (CLIP, SigLIP): rows of one
pair each, and the contrastive loss of a batch by the model's own scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from transformer.data import records
from transformer.data.records import Records
from transformer.data.shuffling import EvaluationSplit, TrainingSplit
from transformer.interchange import image_rows, tasks
from transformer.interchange.architectures.encoders import ImageSizes
from transformer.interchange.text_rows import TextRows
from transformer.models import clip
from transformer.network import masks
from transformer.network.precision import cast_weights
from transformer.objectives import contrastive
from transformer.objectives.loss import Loss


class PairCodec(NamedTuple):
    """How a folder prepares images of the sizes `image`, and texts. is_clip: whether
    there is a class token before the patches and a text has any length; SigLIP's have
    one length, at whose end they are pooled, and padding is read like other tokens."""

    rows: TextRows
    image: ImageSizes
    how: image_rows.Preprocessing
    is_clip: bool


class PairSplits(NamedTuple):
    """splits: training rows, and held-out rows. tokens: of a pair."""

    splits: tuple[TrainingSplit, EvaluationSplit]
    tokens: int


def read(model: tasks.Model) -> PairCodec:
    """The tokenizer and the preprocessing of a folder. ValueError for another kind of
    model, and where either is missing or not expressed here."""
    if not isinstance(model.net, clip.ScoredDualEncoder):
        raise ValueError(f"{model.folder}: expected CLIP or SigLIP, got {model.name}")
    image = model.sizes.image
    how = image_rows.read_preprocessing(model.folder, image)
    is_clip = model.sizes.model_type == "clip"
    return PairCodec(tasks.rows_of(model), image, how, is_clip)


def _require_end(encoded: Iterable[np.ndarray]) -> None:
    ends = {int(ids[-1]) if len(ids) else None for ids in encoded}
    if len(ends) > 1 or None in ends:
        raise ValueError(
            "expected a tokenizer that ends each text with one special token, at which "
            f"CLIP reads it, got texts with {len(ends)} ends"
        )


def encode(
    codec: PairCodec, texts: Sequence[Sequence[str]]
) -> list[dict[str, np.ndarray]]:
    """`ids_BL` and `segment_BL` of each of several lists of texts, int32, padded to the
    longest of all or, for SigLIP, to the model's length; segments are 1 for a token
    that is read and 0 for CLIP's padding. ValueError where CLIP's texts have no common
    end, at which they are pooled."""
    encoded = [codec.rows.encode_pieces(some) for some in texts]
    if codec.is_clip:
        _require_end(ids for some in encoded for ids in some)
    longest = max(len(ids) for some in encoded for ids in some)
    length = longest if codec.is_clip else codec.rows.length
    found = []
    for some in encoded:
        ids_BL = np.full((len(some), length), codec.rows.padding, np.int32)
        segment_BL = np.full_like(ids_BL, int(not codec.is_clip))
        for row, ids in enumerate(some):
            ids_BL[row, : len(ids)] = ids
            segment_BL[row, : len(ids)] = 1
        found.append({"ids_BL": ids_BL, "segment_BL": segment_BL})
    return found


def splits(
    data: Records, codec: PairCodec, *, batch_size: int, seed: int
) -> PairSplits:
    """Shuffled training pairs, and all held-out ones in order: `raw_BLP`, as the folder
    prepares images, `ids_BL`, `segment_BL` and `weight_B`. data: of `sources.captions`.
    Texts that are cut and gray images are counted in a line. ValueError where the pairs
    are fewer than a batch."""
    channels = data.train["image"].shape[-1]
    to_patches = image_rows.preparation(data.name, channels, codec.image, codec.how)
    parts = data.train, data.validation
    encoded = encode(codec, [list(arrays["text"]) for arrays in parts])
    train, held_out = (
        {"image": arrays["image"], **ids}
        for arrays, ids in zip(parts, encoded, strict=True)
    )

    def prepare(example: Any, rng: Any) -> dict[str, np.ndarray]:
        example = dict(example)
        return {"raw_BLP": to_patches(example.pop("image")), **example}

    # The loss compares the pairs of a batch: the same size in both splits.
    rows = partial(records.training, batch_size=batch_size, prepare=prepare)
    made = (
        rows(train, seed=seed, name=data.name),
        records.evaluation(held_out, batch_size=batch_size, prepare=prepare),
    )
    tokens = codec.image.patches + codec.is_clip + train["ids_BL"].shape[1]
    return PairSplits(made, tokens)


def loss(
    net: Any, dtype: Any, codec: PairCodec
) -> Callable[[Any, Any, jax.Array], Loss]:
    """(params, batch, key) -> the loss that the model was made with: of CLIP a softmax
    over the pairs of a batch, of SigLIP a sigmoid of each, by scores with the learned
    scale and bias."""
    is_clip = codec.is_clip
    objective = contrastive.softmax_loss if is_clip else contrastive.sigmoid_loss

    def apply(params: Any, batch: Any, key: jax.Array) -> Loss:
        weights = cast_weights(params, dtype)
        raw_BLP = batch["raw_BLP"]
        patches = masks.single_document(raw_BLP.shape[1] + is_clip)
        image_BZ = net.apply(
            {"params": weights}, raw_BLP, patches, method="encode_image"
        )
        text_BZ = clip.encode_texts(net, weights, batch["ids_BL"], batch["segment_BL"])
        score_BC = net.apply({"params": weights}, image_BZ, text_BZ, method="scores")
        return objective(score_BC, batch["weight_B"])

    return apply
