"""What is wrong with the user's own files is said in one line, file and row named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_data_own import draw, episode, netcdf, photographs, series

from transformer.data import sources


def refused(read: Callable[[Any], Any], path: Path, *said: str) -> None:
    with pytest.raises(ValueError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    for part in said:
        assert part in message, message


def test_images(tmp_path: Path) -> None:
    photographs(tmp_path)
    (tmp_path / "c").mkdir()
    refused(
        sources.images, tmp_path, f"{tmp_path / 'c'}: expected images, got an empty"
    )
    (tmp_path / "c/note.txt").write_text("hello")
    refused(sources.images, tmp_path, "note.txt: expected an image, got")
    (tmp_path / "c/note.txt").unlink()
    draw(tmp_path / "c/1.png", size=(5, 6))
    said = "c/1.png: expected 4 x 6 pixels of 3 channels as in 0.png, got 5 x 6"
    refused(sources.images, tmp_path, said)
    draw(tmp_path / "c/1.png", mode="L")
    refused(sources.images, tmp_path, "c/1.png: expected 4 x 6", "of 1 channel")
    draw(tmp_path / "c/1.png")
    refused(sources.images, tmp_path, "expected 2 images or more", "got 1")
    whole = (tmp_path / "a/1.png").read_bytes()
    (tmp_path / "a/1.png").write_bytes(whole[: len(whole) // 2])
    refused(sources.images, tmp_path, "a/1.png: expected an image, got")
    refused(sources.images, tmp_path / "a", "expected a folder for each of 2 classes")
    refused(sources.images, tmp_path / "a/0.png", "got a file")


def test_image_splits(tmp_path: Path) -> None:
    photographs(tmp_path / "train")
    photographs(tmp_path / "validation", classes="ac")
    refused(sources.images, tmp_path, "expected the classes of train, a, b; got a, c")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"one\ttwo\nalone\n", "row 2: expected 2 columns, got 1"),
        (b"one\ttwo\n\tempty\n", "row 2: expected text, got an empty column 1"),
        (
            b"one\ttwo\nbad \xff\tx\n",
            "row 2: expected UTF-8, got byte 0xff at",
        ),
        (b"a\tb\tc\n", "row 1: expected 2 columns, got 3"),
        (b"", "expected sentence pairs, got none"),
        (b"#en\tpt\n", "expected sentence pairs, got none"),
        (b"same\ta\nsame\tb\n", "expected 2 different sentences or more"),
    ],
)
def test_pairs(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_bytes(content)
    refused(sources.pairs, file, said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("#file\tfr\tde\n1.png\ta\tb\n", "expected captions in 'en', got fr, de"),
        ("1.png\ta\tb\n", "row 1: expected a file and a caption"),
        ("1.png\ta\n2.png\tb\n", "row 2: expected an image, got no file '2.png'"),
        ("1.png\ta\n1.png\tb\n", "row 2: expected each image once"),
        ("1.png\ta\n", "expected 2 images or more"),
        ("1.png\ta\nx\n", "row 2: expected 2 columns, got 1"),
        ("", "expected images and captions, got none"),
    ],
)
def test_captions(tmp_path: Path, content: str, said: str) -> None:
    draw(tmp_path / "1.png")
    (tmp_path / "captions.tsv").write_text(content)
    refused(sources.captions, tmp_path, said)


def test_captions_without_a_table(tmp_path: Path) -> None:
    refused(sources.captions, tmp_path, "captions.tsv: expected a file")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"latitude": np.arange(5.0)}, "expected 3 of latitude"),
        ({"values": np.zeros((4, 3, 4))}, "got float64 [4, 3, 4]"),
        ({"variables": ["u"]}, "expected 2 of variables"),
        ({"values": np.zeros((1, 2, 3, 4))}, "expected 2 steps of time or more, got 1"),
        ({"values": np.array([None])}, "expected arrays in .npz"),
    ],
)
def test_fields(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    np.savez(tmp_path / "a.npz", **series(**changed))
    refused(sources.fields, tmp_path / "a.npz", said)


def test_files_that_hold_no_fields(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    np.savez(file, latitude=np.arange(3))
    refused(sources.fields, file, "expected an array 'values', got latitude")
    file.write_bytes(b"\x89HDF\r\n")
    refused(sources.fields, file, "got NetCDF 4 (HDF5)")
    file.write_bytes(b"something")
    refused(sources.fields, file, "got another kind of file")
    netcdf(file, np.zeros((2, 3, 4), np.float32))
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"lat", b"row"))
    refused(sources.fields, file, "expected a variable over", "sst(time, row, lon)")
    refused(sources.fields, tmp_path, "got a folder")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rewards": np.zeros(3)}, "'rewards': 3"),
        ({"observations": np.zeros((4, 2))}, "expected observations of float32 [3]"),
        ({"observations": np.zeros(4)}, "expected observations [T, O]"),
        ({"actions": np.array(list("abcd"))}, "expected actions of numbers, got <U1"),
        ({"actions": np.array([None] * 4)}, "expected arrays in .npz"),
    ],
)
def test_episodes(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    np.savez(tmp_path / "0.npz", **episode())
    refused(sources.episodes, tmp_path, "expected a folder of 2 .npz files or more")
    np.savez(tmp_path / "1.npz", **episode(**changed))
    refused(sources.episodes, tmp_path, "1.npz", said)
    np.savez(tmp_path / "1.npz", actions=np.zeros(3))
    refused(sources.episodes, tmp_path, "1.npz: expected an array 'observations'")
