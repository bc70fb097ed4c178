"""Videos as raw tubelets for VideoMAE: each frame is prepared as the folder says, as an
image is (`image_rows`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer import checks
from transformer.data import records
from transformer.data.images import patches
from transformer.data.readers import video_folder
from transformer.data.records import Records
from transformer.data.shuffling import EvaluationSplit, TrainingSplit
from transformer.interchange import image_rows
from transformer.interchange.architectures import videomae

EVALUATION_BATCH = 16


def read_tubelets(
    path: Path | str, sizes: videomae.Sizes, how: image_rows.Preprocessing
) -> np.ndarray:
    """Raw tubelets [L, P], float32, of as many frames of a video as the model has.
    ValueError, naming the file, for what is no video, and where its frames are not of
    the model's size when they are prepared."""
    side, channels = sizes.image.side, sizes.image.channels
    found = video_folder.read_video(path, sizes.frames)
    pixels = np.stack([image_rows.prepare(frame, how) for frame in found])
    if pixels.shape[1:] != (side, side, channels):
        raise ValueError(
            f"{path}: expected frames of {side} x {side} pixels and {channels} "
            f"channels, got {' x '.join(map(str, pixels.shape[1:3]))} and "
            f"{pixels.shape[3]}"
        )
    read = pixels[:, : sizes.image.patched_side, : sizes.image.patched_side]
    return patches.patchify(read, (sizes.tubelet, *[sizes.image.patch] * 2))


def read_all(folder: Path, sizes: videomae.Sizes, paths: Sequence[Path]) -> np.ndarray:
    """Raw tubelets [N, L, P] of videos, prepared as a folder says."""
    how = image_rows.read_preprocessing(folder, sizes.image)
    size = sizes.length * sizes.tubelet * sizes.image.features * len(paths)
    checks.fits_memory("videos", 4 * size)
    return np.stack([read_tubelets(path, sizes, how) for path in paths])


def splits(
    data: Records,
    how: image_rows.Preprocessing,
    sizes: videomae.Sizes,
    *,
    batch_size: int,
    seed: int,
) -> tuple[TrainingSplit, EvaluationSplit]:
    """Shuffled training videos and all held-out ones in order: `raw_BLP`, `label_B` and
    `weight_B`. data: of `sources.videos`; a video is read when its batch is."""

    def prepare(example: Any, rng: Any) -> dict[str, np.ndarray]:
        raw_BLP = read_tubelets(example["file"], sizes, how)
        return {"raw_BLP": raw_BLP, "label_B": example["label"]}

    train = records.training(
        data.train, batch_size=batch_size, seed=seed, name=data.name, prepare=prepare
    )
    held_out = records.evaluation(
        data.validation, batch_size=EVALUATION_BATCH, prepare=prepare
    )
    return train, held_out
