"""Videos in class folders: frames at even places, and faults in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pretrained_folder
import pytest
from PIL import Image
from test_readers_refused import refused

from transformer.data.readers import video_folder
from transformer.data.sources import videos


def load(path: Path) -> Any:
    return videos.load(path, frames=4)


def test_frames_are_the_middles_of_equal_parts() -> None:
    assert video_folder.even_places(4, 4).tolist() == [0, 1, 2, 3]
    assert video_folder.even_places(4, 12).tolist() == [1, 4, 7, 10]
    assert video_folder.even_places(2, 5).tolist() == [1, 3]
    assert video_folder.even_places(4, 2).tolist() == [0, 0, 1, 1]
    for count in range(1, 40):
        places = video_folder.even_places(16, count)
        assert 0 <= places.min() and places.max() < count
        assert (np.diff(places) >= 0).all()


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "npz"])
def test_every_format_has_the_same_frames(suffix: str, tmp_path: Path) -> None:
    """Of one color each, which all of them store without loss, in order."""
    frames = np.zeros((12, 6, 8, 3), np.uint8) + 20 * np.arange(12)[:, None, None, None]
    frames = frames.astype(np.uint8)
    file = pretrained_folder.write_video(tmp_path / f"a.{suffix}", frames)
    found = video_folder.read_video(file, 4)
    assert found.shape == (4, 6, 8, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(found, frames[[1, 4, 7, 10]])


def test_transparency_becomes_white(tmp_path: Path) -> None:
    clear = [Image.new("RGBA", (4, 4), (0, 0, n, 0)) for n in range(3)]
    clear[0].save(tmp_path / "a.png", save_all=True, append_images=clear[1:])
    assert (video_folder.read_video(tmp_path / "a.png", 2) == 255).all()


def test_videos_of_each_class_are_held_out(tmp_path: Path, capsys: Any) -> None:
    """And those with few frames are counted; no pixels are kept."""
    pretrained_folder.write_videos(tmp_path, 6)
    pretrained_folder.write_video(
        tmp_path / "down" / "0.gif", np.arange(3 * 64 * 3).reshape(3, 8, 8, 3) % 256
    )
    data = load(tmp_path)
    assert data.labels == ("down", "up")
    assert len(data.train["file"]) == 10 and len(data.validation["file"]) == 2
    assert sorted(data.validation["label"]) == [0, 1]
    for part in (data.train, data.validation):
        for file, label in zip(part["file"], part["label"], strict=True):
            assert Path(file).parent.name == data.labels[label]
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}: 1 of 12 videos have fewer than 4 frames, some of which are "
        "repeated"
    ]
    (tmp_path / "split").mkdir()
    for split in ("train", "validation"):
        pretrained_folder.write_videos(tmp_path / "split" / split, 2)
    data = load(tmp_path / "split")
    assert len(data.train["file"]) == len(data.validation["file"]) == 4


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    pretrained_folder.write_videos(tmp_path, 3)
    file = tmp_path / "up" / "1.gif"
    whole = file.read_bytes()
    for content, message in (
        (b"hello", "up/1.gif: expected an image, got another kind of file"),
        (whole[: len(whole) // 2], "up/1.gif: expected"),
    ):
        file.write_bytes(content)
        refused(load, tmp_path, message)
    Image.new("RGB", (8, 8)).save(file, "PNG")
    refused(load, tmp_path, "expected several frames, in GIF, PNG, WEBP, got one")
    file.unlink()
    np.savez(tmp_path / "up" / "1.npz", frames=np.zeros((4, 8, 8), np.uint8))
    refused(load, tmp_path, "expected frames uint8 [frames, rows, columns, 3], got")
    np.savez(tmp_path / "up" / "1.npz", other=np.zeros(3))
    refused(load, tmp_path, "1.npz: expected an array 'frames', got other")
    (tmp_path / "up" / "1.npz").unlink()
    (tmp_path / "flat").mkdir()
    refused(load, tmp_path, "flat: expected videos, got an empty class")
    refused(load, tmp_path / "up", "expected a folder for each of 2 classes or more")
    with pytest.raises(ValueError, match="--columns: expected none for videos"):
        videos.load(tmp_path, frames=4, columns="a")
    with pytest.raises(ValueError, match="expected a folder of videos, got none at"):
        videos.load("x", frames=4)
