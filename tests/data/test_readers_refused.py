"""Faults of the user's own files are refused in one line that names file and row."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import refusals
from PIL import Image
from scipy.io import netcdf_file
from test_readers import episode, netcdf, photographs, series, write_image

from transformer.data.preparation import corpus
from transformer.data.sources import captions as caption_source
from transformer.data.sources import episodes as episode_source
from transformer.data.sources import fields as field_source
from transformer.data.sources import images as image_source
from transformer.data.sources import labeled_text as labeled_text_source
from transformer.data.sources import pairs as pair_source
from transformer.data.sources import text as text_source


def refused(read: Callable[[Any], Any], path: Path, *parts: str) -> None:
    refusals.refused(lambda: read(path), str(path), *parts)


@pytest.mark.parametrize("name", ["labels.csv", "labels.csv.gz", "labels.parquet"])
def test_a_pipe_is_not_waited_for(name: str, tmp_path: Path) -> None:
    """Opening it would wait until somebody writes to it."""
    os.mkfifo(tmp_path / name)
    expected = f"{name}: expected a file, got a pipe"
    refused(image_source.load, tmp_path, expected)
    (tmp_path / name).rename(tmp_path / "a.tar")
    refused(image_source.load, tmp_path, "a.tar: expected a file, got a pipe")


def test_faulty_images_are_refused(tmp_path: Path) -> None:
    photographs(tmp_path)
    (tmp_path / "c").mkdir()
    refused(
        image_source.load, tmp_path, f"{tmp_path / 'c'}: expected images, got an empty"
    )
    (tmp_path / "c/note.txt").write_text("hello")
    refused(image_source.load, tmp_path, "c: expected 2 images or more", "got 1")
    write_image(tmp_path / "c/2.png")
    refused(image_source.load, tmp_path, "note.txt: expected an image, got")
    (tmp_path / "c/note.txt").unlink()
    write_image(tmp_path / "c/1.png", size=(5, 6))
    message = "c/1.png: expected 4 x 6 pixels like the others, got 5 x 6; --image_size="
    refused(image_source.load, tmp_path, message)
    Image.fromarray(np.full((4, 6), 0.5, np.float32)).save(tmp_path / "c/1.png", "TIFF")
    message = "c/1.png: expected 8 or 16 bits a channel, got the mode F"
    refused(image_source.load, tmp_path, message)
    write_image(tmp_path / "c/1.png")
    whole = (tmp_path / "a/1.png").read_bytes()
    (tmp_path / "a/1.png").write_bytes(whole[: len(whole) // 2])
    refused(image_source.load, tmp_path, "a/1.png: expected an image, got")
    refused(
        image_source.load, tmp_path / "a", "expected a folder for each of 2 classes"
    )
    refused(image_source.load, tmp_path / "a/0.png", "or a .tar, got a file")


@pytest.mark.parametrize(
    "names", [("train", "test"), ("Train", "val"), ("train", "dev")]
)
def test_splits_of_other_names_are_no_classes(
    names: tuple[str, str], tmp_path: Path
) -> None:
    """A model would learn which split an image is from; a corpus would have its test
    texts in training."""
    for name in names:
        photographs(tmp_path / "images" / name)
        (tmp_path / f"{name}.txt").write_text("It is a truth.\n" * 9)
    message = "expected a folder for each class, or folders train and validation"
    refused(image_source.load, tmp_path / "images", message)
    (tmp_path / "text").mkdir()
    for name in names:
        (tmp_path / f"{name}.txt").rename(tmp_path / f"text/{name}.txt")
    got = ", ".join(sorted(names))
    refused(text_source.load, tmp_path / "text", f"got {got}: all would be trained on")
    with pytest.raises(ValueError, match="all would be trained on"):
        corpus.find_sources(str(tmp_path / "text"))


def test_what_is_beside_the_splits_is_told(tmp_path: Path, capsys: Any) -> None:
    """A third split, and links to folders, which may have no end."""
    for name in ("train", "validation", "test"):
        photographs(tmp_path / name)
    (tmp_path / "train/a/loop").symlink_to(tmp_path / "train")
    assert len(image_source.load(tmp_path).train["label"])
    output = capsys.readouterr().out
    assert f"{tmp_path}: 1 others not read: test\n" in output
    assert f"{tmp_path}/train/a: 1 links to folders are not followed\n" in output


def test_faulty_image_splits_are_refused(tmp_path: Path) -> None:
    photographs(tmp_path / "train")
    photographs(tmp_path / "validation", classes="ac")
    refused(
        image_source.load, tmp_path, "expected the classes of train, a, b; got a, c"
    )
    (tmp_path / "validation/c").rename(tmp_path / "validation/b")
    for name in "ab":
        for number in range(5):
            write_image(tmp_path / f"validation/{name}/{number}.png", size=(3, 6))
    message = "validation/a/0.png: expected 4 x 6 pixels like the others, got 3 x 6"
    refused(image_source.load, tmp_path, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\ttwo\nalone\n", "row 2: expected 2 columns divided by tabs, got 1"),
        (b"alone\none\ttwo\n", "row 1: expected 2 columns divided by tabs, got 1"),
        (b"a\tb\tc\na\tb\n", "row 1: expected 2 columns divided by tabs, got 3"),
        (b"#\tpt\na\tb\n", "row 1: expected two different names, got"),
        (b"#en\ten\na\tb\n", "expected one column 'en', got en, en"),
        (b"one\ttwo\n\tempty\n", "row 2: expected text, got an empty column 1"),
        (
            b"one\ttwo\nbad \xff\tx\n",
            "row 2: expected UTF-8, got byte 0xff at",
        ),
        (b"", "expected sentence pairs, got none"),
        (b"#en\tpt\n", "expected sentence pairs, got none"),
        (b"same\ta\nsame\tb\n", "expected 2 different sentences or more"),
        (b"one,two\n", "row 1: expected 2 columns divided by tabs, got commas"),
    ],
)
def test_faulty_pairs_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_bytes(content)
    refused(pair_source.load, file, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\n", "row 1: expected 2 columns divided by tabs, got commas"),
        ("a\tx\nb, c\n", "row 2: expected 2 columns divided by tabs, got commas"),
        ("a\tx\ty\n", "row 1: expected 2 columns divided by tabs, got 3"),
        ("a\t\n", "row 1: expected text, got an empty column 2"),
        ("", "expected labeled text, got none"),
        ("a\tx\nb\tx\n", "expected 2 labels or more, got x"),
        ("a\tx\nb\tx\nc\ty\n", "2 different texts or more with the label 'y'"),
        ("a\tx\na\tx\nb\ty\nc\ty\n", "more with the label 'x', one to hold out, got 1"),
        # By sha256 d comes before f, f before c: x holds out f, y holds out d.
        ("f\tx\nc\tx\nd\ty\nf\ty\n", "expected each text with one label"),
    ],
)
def test_faulty_labeled_text_is_refused(
    tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "reviews.tsv"
    file.write_text(content)
    refused(labeled_text_source.load, file, message)


def test_labels_of_validation_alone_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("a\tx\nb\ty\n")
    (tmp_path / "validation.tsv").write_text("c\tz\n")
    message = "validation.tsv: expected the labels of train.tsv, x, y; got z"
    refused(labeled_text_source.load, tmp_path, message)


def test_a_missing_package_is_asked_for_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netcdf(tmp_path / "a.nc", np.zeros((2, 3, 4), np.float32))
    monkeypatch.setitem(sys.modules, "xarray", None)
    message = "expected what NetCDF 3 needs, pip install -e '.[fields]', got: "
    refused(field_source.load, tmp_path / "a.nc", message)


def test_faulty_pair_splits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("#en\tpt\na\tb\n")
    refused(pair_source.load, tmp_path, "sentence pairs called validation", "got none")
    (tmp_path / "validation.tsv").write_text("#pt\ten\na\tb\n")
    refused(pair_source.load, tmp_path, "validation.tsv: expected the columns of train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "#file\tfr\tde\n1.png\ta\tb\n",
            "one column 'en', got file, fr, de; --col",
        ),
        (
            "1.png\ta\tb\n",
            "row 1: expected 2 columns divided by tabs, got 3; --col",
        ),
        ("#img\ten\n1.png\ta\n", "one column 'path', got img, en; --columns names"),
        ("1.png\ta\n2.png\tb\n", "row 2: expected an image, got no file '2.png'"),
        ("1.png\ta\n1.png\tb\n", "row 2: expected each image once"),
        ("1.png\ta\n", "expected 2 images or more"),
        ("#file\tpt\n1.png\ta\n", "expected one column 'en', got file, pt"),
        ("1.png\ta\n./1.png\tb\n", "row 2: expected each image once"),
        ("../1.png\ta\n", "row 1: expected a path in the folder, got '../1.png'"),
        ("/1.png\ta\n", "row 1: expected a path in the folder, got '/1.png'"),
        ("1.png\n2.png\tb\n", "row 1: expected 2 columns divided by tabs, got 1"),
        ("1.png\ta\nx\n", "row 2: expected 2 columns divided by tabs, got 1"),
        ("1.png\ta\n2.png\t\n", "row 2: expected text, got an empty column 2"),
        ("", "expected 2 images or more, one to hold out, got 0"),
    ],
)
def test_faulty_captions_are_refused(
    tmp_path: Path, content: str, message: str
) -> None:
    write_image(tmp_path / "1.png")
    (tmp_path / "captions.tsv").write_text(content)
    refused(caption_source.load, tmp_path, message)


def test_captions_without_a_table_are_refused(tmp_path: Path) -> None:
    refused(caption_source.load, tmp_path, "expected a table called captions (.csv, ")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"latitude": np.arange(5.0)}, "expected 3 of latitude"),
        ({"values": np.zeros((4, 3, 4))}, "got float64 [4, 3, 4]"),
        ({"variables": ["u"]}, "expected 2 of variables"),
        ({"values": np.zeros((1, 2, 3, 4))}, "expected 2 steps of time or more, got 1"),
        ({"values": np.array([None])}, "expected arrays in .npz"),
        ({"values": np.zeros((4, 0, 3, 4))}, "got float64 [4, 0, 3, 4]"),
        ({"values": np.full((4, 1, 3, 4), 1e39)}, "got inf in variable 0 at step 0"),
        ({"latitude": np.array([0, 45, 91])}, "latitude in degrees, -90 to 90, got 91"),
        ({"latitude": np.array([0, 45, 45])}, "expected each latitude once, got 45"),
        ({"longitude": np.zeros(4)}, "expected each longitude once, got 0.0 again"),
        ({"longitude": np.array(list("abcd"))}, "longitude in degrees, got <U1"),
        ({"longitude": np.array([0, 90, 180, 541])}, "-540 to 540, got 541"),
        ({"longitude": np.full(4, np.nan)}, "-540 to 540, got nan"),
        ({"time": np.arange(10)[::-1]}, "to increase, got 8 after 9 at step 1"),
        ({"time": np.array(["NaT"] * 10, "M8[D]")}, "to increase, got NaT after NaT"),
        ({"time": np.array(["June"] * 10)}, "in datetime64 or numbers, got <U4"),
    ],
)
def test_faulty_fields_are_refused(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    np.savez(tmp_path / "a.npz", **series(**changed))
    refused(field_source.load, tmp_path / "a.npz", message)


@pytest.mark.parametrize("first", [-280, 20, 180])
def test_a_turn_may_begin_at_any_longitude(tmp_path: Path, first: int) -> None:
    degrees = first + 90.0 * np.arange(4)
    np.savez(tmp_path / "a.npz", **series(longitude=degrees))
    made = field_source.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(made.longitude, degrees)


def test_files_without_fields_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    np.savez(file, latitude=np.arange(3))
    refused(field_source.load, file, "expected an array 'values', got latitude")
    file.write_bytes(b"\x89HDF\r\n")
    refused(field_source.load, file, "expected NetCDF 4, got")
    file.write_bytes(b"something")
    refused(field_source.load, file, "got another kind of file")
    netcdf(file, np.zeros((2, 3, 4), np.float32))
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"lat", b"row"))
    refused(field_source.load, file, "expected a variable over", "sst(time, row, lon)")
    for stop in (8, 100, len(whole) - 9):
        file.write_bytes(whole[:stop])
        refused(field_source.load, file, "expected NetCDF 3, got")
    netcdf(file, np.zeros((2, 3, 4), np.float32), scale_factor="tenth")
    refused(
        field_source.load, file, "sst: expected a number as scale_factor, got 'tenth'"
    )
    netcdf(file, np.zeros((2, 3, 4), "c"))
    refused(field_source.load, file, "sst: expected numbers, got |S1")
    refused(field_source.load, tmp_path, "got a folder")
    with netcdf_file(str(file), "w") as opened:
        for name, length in {"time": 2, "lat": 3, "lon": 4}.items():
            opened.createDimension(name, length)
        opened.createVariable("sst", "f4", ("time", "lat", "lon"))
    refused(field_source.load, file, "expected the coordinate 'lat', got none")


def test_variables_on_two_grids_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.nc"
    netcdf(file, np.zeros((2, 3, 4), np.float32))
    with netcdf_file(str(file), "a") as opened:
        opened.createDimension("latitude_v", 2)
        added = opened.createVariable("v", "f4", ("time", "latitude_v", "lon"))
        added[:] = np.zeros((2, 2, 4))
    message = "expected v over (time, lat, lon) like sst, got (time, latitude_v, lon)"
    refused(field_source.load, file, message)


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    for number in (0, 1):
        np.savez_compressed(tmp_path / f"{number}.npz", **episode(400))
    whole = (tmp_path / "1.npz").read_bytes()
    spoilt = whole[:900] + bytes(99) + whole[999:]
    (tmp_path / "1.npz").write_bytes(b"something")
    refused(episode_source.load, tmp_path, "in .npz, got another kind of file")
    for content in (spoilt, whole[:999], b"", whole[:2]):
        (tmp_path / "1.npz").write_bytes(content)
        refused(episode_source.load, tmp_path, "1.npz: expected arrays in .npz, got")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rewards": np.zeros(3)}, "'rewards': 3"),
        ({"observations": np.zeros((4, 2))}, "expected observations of float32 [3]"),
        ({"observations": np.zeros(4)}, "expected observations [T, O]"),
        (episode(0), "at least 1, got {'observations': 0, 'actions': 0"),
        ({"actions": np.zeros(4)}, "got actions of float64 [4]"),
        ({"actions": np.array([0, 1, 2, -1])}, "1048575, got -1 at step 3"),
        ({"actions": np.array([0, 2**40, 1, 1])}, "got 1099511627776 at step 1"),
        ({"rewards": np.array([0, 0, np.nan, 0])}, "finite rewards, got nan at step 2"),
        ({"observations": np.full((4, 3), 1e39)}, "observations, got 1e+39 at step 0"),
        ({"actions": np.array(list("abcd"))}, "expected actions of numbers, got <U1"),
        ({"actions": np.array([None] * 4)}, "expected arrays in .npz"),
    ],
)
def test_faulty_episodes_are_refused(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    np.savez(tmp_path / "0.npz", **episode())
    refused(episode_source.load, tmp_path, "expected a folder of 2 .npz files or more")
    np.savez(tmp_path / "1.npz", **episode(**changed))
    refused(episode_source.load, tmp_path, "1.npz", message)
    np.savez(tmp_path / "1.npz", actions=np.zeros(3))
    refused(episode_source.load, tmp_path, "1.npz: expected an array 'observations'")
