"""VideoMAE is trained further to classify videos, from a folder to a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pretrained_folder
import pytest

import transformer
from experiments import pretrained_classifier
from transformer import main
from transformer.data.images import patches
from transformer.interchange import folder, image_rows, video_rows
from transformer.training import loop


def test_tubelets_are_those_of_the_frames_as_images(tmp_path: Path) -> None:
    """The frames at even places, each prepared as an image is."""
    source = pretrained_folder.write_videomae(tmp_path / "videomae")
    sizes: Any = folder.read_config(source)[1]
    how = image_rows.read_preprocessing(source, sizes.image)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (8, 10, 12, 3)).astype(np.uint8)
    file = pretrained_folder.write_video(tmp_path / "a.npz", frames)
    raw_LP = video_rows.read_tubelets(file, sizes, how)
    assert raw_LP.shape == (sizes.length, 2 * 4 * 4 * 3)
    prepared = [image_rows.prepare(frames[place], how) for place in (1, 3, 5, 7)]
    back = patches.unpatchify(raw_LP, (4, 8, 8), (2, 4, 4))
    np.testing.assert_array_equal(back, np.stack(prepared))
    small = how._replace(crop=None)
    with pytest.raises(ValueError, match=r"a.npz: expected frames of 8 x 8 .* 8 x 9"):
        video_rows.read_tubelets(file, sizes, small)


def test_a_run_goes_from_an_encoder_to_a_classifier_of_videos(
    tmp_path: Path, capsys: Any
) -> None:
    """Trained, evaluated, exported as the class of transformers, and loaded again."""
    source = pretrained_folder.write_videomae(tmp_path / "videomae")
    videos = pretrained_folder.write_videos(tmp_path / "videos", 12)
    make, run = pretrained_classifier.experiment, tmp_path / "run"
    flags: Any = {"source": str(videos), "batch_size": 8, "dtype": "float32"}
    flags |= {"steps": 60, "learning_rate": 0.004}
    with pytest.raises(ValueError, match="--init_partial begins them anew"):
        main.run(make, run, init_from=source, **flags)
    state = main.run(make, run, init_from=source, init_partial=True, **flags)
    assert "validation: loss" in capsys.readouterr().out
    params, made = loop.params_of(state), make(workdir=run, **flags)
    folder_of_videos = ",".join(str(videos / label) for label in ("down", "up"))
    found = made.verbs["classify"](params, run, videos=folder_of_videos)
    # Chance would be 12.
    correct = (found[:12].argmax(1) == 0).sum() + (found[12:].argmax(1) == 1).sum()
    assert found.shape == (24, 2) and correct >= 20
    with pytest.raises(ValueError, match="VideoClassification: expected no --images"):
        made.verbs["classify"](params, run, images=folder_of_videos)
    out = made.verbs["export"](params, run)
    again = folder.open_folder(out, scanned=True)
    assert again.architecture.name(again.sizes) == "VideoMAEForVideoClassification"
    assert again.sizes.labels == ("down", "up")
    jax.tree.map(np.testing.assert_array_equal, again.read_params(), params)
    (first,) = transformer.load(out).classify([videos / "up" / "0.gif"])
    assert first["up"] == pytest.approx(found[12, 1], abs=1e-5)
