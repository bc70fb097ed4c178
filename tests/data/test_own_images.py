"""The user's own images: modes, sizes, layouts, and the cache."""

from __future__ import annotations

import csv
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from refusals import refused

from transformer.data.readers import image_arrays, image_files
from transformer.data.sources import captions as caption_source
from transformer.data.sources import images as image_source

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (6, 4, 4), np.uint8)


def in_classes(folder: Path, images: dict[str, Any], **options: Any) -> None:
    """Two class folders with all of these images each."""
    for label in "ab":
        (folder / label).mkdir(parents=True, exist_ok=True)
        for name, image in images.items():
            image.save(folder / label / name, **options)


def by_class(made: Any) -> list[np.ndarray]:
    """All images of both splits."""
    return [*made.train["image"], *made.validation["image"]]


def on_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:].astype(np.float64) / 255
    return rgba[..., :-1] * alpha + 255 * (1 - alpha)


def test_any_mode_is_read_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rgb, gray = Image.fromarray(NOISE[..., :3]), Image.fromarray(NOISE[..., 0])
    palette = rgb.quantize(4)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    other = RNG.integers(0, 256, (6, 4, 3), np.uint8)
    upside_down = Image.fromarray(other[::-1, ::-1])
    upside_down.info["exif"] = exif.tobytes()
    modes = {
        "1.png": (rgb, NOISE[..., :3]),
        "2.png": (gray, np.repeat(NOISE[..., :1], 3, -1)),
        "3.png": (Image.fromarray(NOISE, "RGBA"), on_white(NOISE)),
        "4.png": (palette, np.asarray(palette.convert("RGB"))),
        "5.png": (
            Image.fromarray(NOISE[..., 0] > 99),
            255 * (NOISE[..., [0] * 3] > 99),
        ),
        "6.tif": (Image.fromarray(255 - NOISE, "CMYK"), None),
    }
    in_classes(tmp_path, {name: image for name, (image, _) in modes.items()})
    for label in "ab":
        upside_down.save(tmp_path / label / "7.png", exif=exif)
    made = image_source.load(tmp_path, held_out=0.5)
    line = capsys.readouterr().out
    assert line.startswith(f"{tmp_path}: 12 of 14 images: 4 gray to RGB, 2 ")
    for words in (
        *("alpha composited on white", "palette to RGB", "CMYK to RGB"),
        *("1 bit to gray", "rotated by EXIF"),
    ):
        assert f"2 {words}" in line
    assert line.count("\n") == 1
    found = by_class(made)
    expected = [value for _, value in modes.values() if value is not None]
    for value in [*expected, other]:
        errors = [np.abs(image - np.asarray(value, float)).max() for image in found]
        assert sorted(errors)[1] <= 1  # in both classes
    in_classes(tmp_path / "gray", {n: modes[n][0] for n in ("2.png", "5.png")})
    assert image_source.load(tmp_path / "gray").train["image"].shape[1:] == (6, 4, 1)


def bicubic(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Bicubic resampling, a = -1/2, its kernel widened where it shrinks, float64."""

    def weights(size: int, target: int) -> np.ndarray:
        scale = size / target
        wide = max(scale, 1.0)
        center = (np.arange(target)[:, None] + 0.5) * scale
        x = np.abs((np.arange(size) + 0.5 - center) / wide)
        near = 1.5 * x**3 - 2.5 * x**2 + 1
        far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        found = np.where(x < 1, near, np.where(x < 2, far, 0))
        return found / found.sum(1, keepdims=True)

    across, down = weights(image.shape[1], columns), weights(len(image), rows)
    return np.einsum("ry,cx,yxd->rcd", down, across, image.astype(np.float64))


def test_the_short_side_is_resized_and_the_center_cropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"wide": (40, 61), "tall": (53, 24), "small": (9, 12), "same": (16, 16)}
    images = {}
    for name, size in sizes.items():
        # Not so bright and dark that the first of two passes would be cut.
        pixels = RNG.integers(64, 192, (*size, 3), np.uint8)
        images[name] = pixels
        in_classes(tmp_path, {f"{name}.png": Image.fromarray(pixels)})
    refused(lambda: image_source.load(tmp_path), "--image_size=N resizes and crops")
    made = image_source.load(tmp_path, 16, held_out=0.5)
    line = capsys.readouterr().out
    assert line == f"{tmp_path}: 6 of 8 images: 6 resized and cropped to 16 x 16\n"
    found = by_class(made)
    for pixels in images.values():
        short = min(pixels.shape[:2])
        rows, columns = (16 * side // short for side in pixels.shape[:2])
        top, left = (rows - 16) // 2, (columns - 16) // 2
        expected = bicubic(pixels, rows, columns)
        expected = expected[top : top + 16, left : left + 16]
        assert sorted(np.abs(image - expected).max() for image in found)[1] < 1.6
    assert made.fingerprint != image_source.load(tmp_path, 8).fingerprint


def test_large_sets_are_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By other processes, into the cache; a second start reads no image."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = RNG.integers(0, 256, (40, 5, 5, 3), np.uint8)
    photos = tmp_path / "photos"
    in_classes(photos, {f"{n}.png": Image.fromarray(rows[n]) for n in range(40)})
    expected = image_source.load(photos, 4)
    told = capsys.readouterr().out
    monkeypatch.setattr(image_arrays, "FEWEST_CACHED", 9)
    monkeypatch.setattr(image_arrays, "BATCH", 7)
    made = image_source.load(photos, 4)
    assert made.fingerprint == expected.fingerprint
    assert capsys.readouterr().out == told != ""
    for split in ("train", "validation"):
        np.testing.assert_equal(getattr(made, split), getattr(expected, split))
    assert made.train["image"].base is not None  # a view of the mapped file
    monkeypatch.setattr(image_files, "read_header", None)
    again = image_source.load(photos, 4)
    np.testing.assert_array_equal(again.train["image"], made.train["image"])
    assert capsys.readouterr().out == told
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(image_arrays, "FEWEST_CACHED", 9)
    Image.fromarray(rows[5]).save(photos / "a/0.png")
    changed = image_source.load(photos, 4)
    assert changed.fingerprint != made.fingerprint
    assert any(map(np.any, map(np.subtract, by_class(changed), by_class(made))))
    (photos / "a/0.png").write_text("no image")
    refused(lambda: image_source.load(photos, 4), "a/0.png: expected an image, got")


def write_table(path: Path, names: list[str], rows: list[list[str]]) -> None:
    if path.suffix == ".parquet":
        from pyarrow import Table, parquet

        columns = {n: [row[i] for row in rows] for i, n in enumerate(names)}
        parquet.write_table(Table.from_pydict(columns), path)
    elif path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
        path.write_text("\n".join(lines))
    else:
        cells = "\t" if path.suffix == ".tsv" else ","
        with open(path, "w", newline="") as file:
            csv.writer(file, delimiter=cells).writerows([names, *rows])


SUFFIXES = pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])


@SUFFIXES
def test_a_table_names_images_and_labels(tmp_path: Path, suffix: str) -> None:
    rows = []
    for number in range(6):
        image = Image.fromarray(np.full((2, 2), number, np.uint8))
        image.save(tmp_path / f"{number}, {suffix}.png")
        rows.append([f"{number}, {suffix}.png", "10" if number % 2 else "9"])
    table = tmp_path / f"labels{suffix}"

    def check(*sources: Path, columns: str = "") -> None:
        for source in sources:
            made = image_source.load(source, held_out=0.3, columns=columns)
            assert made.labels == ("9", "10")  # numbers by number
            for part in (made.train, made.validation):
                for image, label in zip(part["image"], part["label"], strict=True):
                    assert image[0, 0, 0] % 2 == label

    write_table(table, ["Label", "id", "file_name"], [[b, "0", a] for a, b in rows])
    check(tmp_path, table)
    write_table(table, ["path", "label", "kind"], [[b, "0", a] for a, b in rows])
    check(tmp_path, table, columns="kind,path")
    for columns, message in (
        ("kind,class", "expected one column 'class', got path, label, kind"),
        ("kind", "--columns: expected 2 different names divided by a comma, got 'k"),
    ):
        if suffix != ".tsv" or "," not in columns:  # a TSV need not name its columns
            refused(lambda c=columns: image_source.load(table, columns=c), message)
    first = "got no file 'path'" if suffix == ".tsv" else "expected one column 'label'"
    fault = [
        (["path", "label"], [["x.png", "a"]], "expected an image, got no file 'x.png'"),
        (["path", "label"], [["../x", "a"]], "expected a path in the folder"),
        (["path", "label"], [rows[0], rows[0]], "expected each image once"),
        (["path", "label"], [[rows[0][0], ""]], "expected text, got an empty column 2"),
        (["path", "label"], rows[:1], "expected 2 images or more"),
        (["path", "label"], rows[::2], "expected 2 classes or more, got 9"),
        (["path", "kind"], rows, first),
    ]
    for names, content, message in fault:
        write_table(table, names, content)
        refused(lambda: image_source.load(table), str(table), message)
    if suffix == ".csv":
        table.write_text("path,label\na.png\n")
        refused(lambda: image_source.load(table), "row 2: expected 2 columns divided")
        (tmp_path / "labels.tsv").write_text("path\tlabel\n")
        refused(lambda: image_source.load(tmp_path), "one table called labels, got lab")


@SUFFIXES
def test_a_table_names_images_and_captions(tmp_path: Path, suffix: str) -> None:
    rows = []
    for number in range(6):
        image = Image.fromarray(np.full((2, 2), number, np.uint8))
        (tmp_path / "in").mkdir(exist_ok=True)
        image.save(tmp_path / f"in/{number}.png")
        rows.append([f"é {number}, a", str(number), f"b {number}", f"in/{number}.png"])

    def check(language: str, columns: str, word: str) -> None:
        for source in (tmp_path, tmp_path / f"captions{suffix}"):
            made = caption_source.load(source, language=language, columns=columns)
            found = [
                (text, f"{word}{image[0, 0, 0]}")
                for part in (made.train, made.validation)
                for image, text in zip(part["image"], part["text"], strict=True)
            ]
            assert len(found) == 6
            assert all(text.startswith(start) for text, start in found)

    table = tmp_path / f"captions{suffix}"
    write_table(table, ["en", "id", "caption", "Image"], rows)
    check("en", "", "é ")
    check("pt", "", "b ")
    check("en", "Image,caption", "b ")
    check("pt", "Image,en", "é ")
    write_table(table, ["a", "id", "pt", "x"], rows)
    check("pt", "x,a,pt", "b ")
    message = "--columns: expected one caption, or one called 'en' as the language, got"
    refused(lambda: caption_source.load(table, columns="x,a,pt"), message)
    message = "expected 2 or 3 different names divided by a comma, got 'x'"
    refused(lambda: caption_source.load(table, columns="x"), message)


def test_columns_without_a_table_are_refused(tmp_path: Path) -> None:
    in_classes(tmp_path / "a", {"1.png": Image.fromarray(NOISE[..., 0])})
    (tmp_path / "b").mkdir()
    with tarfile.open(tmp_path / "b/1.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("1.txt"))
    message = "--columns: expected a table, got "
    for load, name in (
        (image_source.load, "a"),
        (image_source.load, "b"),
        (caption_source.load, "b"),
    ):
        refused(lambda f=load, n=name: f(tmp_path / n, columns="a,b"), message)
    for load, name in ((image_source.load, "digits"), (caption_source.load, "emoji")):
        message = f"--columns: expected a table of one's own, got '{name}'"
        refused(lambda f=load, n=name: f(n, columns="a,b"), message)


def test_images_that_are_not_read_are_counted(tmp_path: Path, capsys: Any) -> None:
    """Those beside class folders, and those that no row of a table names."""
    in_classes(tmp_path / "classes", {f"{n}.png": Image.new("L", (2, 2)) for n in "ab"})
    Image.new("L", (2, 2)).save(tmp_path / "classes/c.png")
    image_source.load(tmp_path / "classes", held_out=0.5)
    assert "classes: 1 files beside the class folders" in capsys.readouterr().out
    table = tmp_path / "classes/a/labels.csv"
    for number in range(5):
        Image.new("L", (2, 2)).save(table.parent / f"{number}.png")
    rows = [f"{number}.png,{number % 2}" for number in range(4)]
    table.write_text("\n".join(["path,label", *rows]))
    image_source.load(table, held_out=0.5)
    assert "3 images beside those of its rows are not" in capsys.readouterr().out


def test_images_beyond_the_memory_are_refused(tmp_path: Path, monkeypatch: Any) -> None:
    """Before any is decoded."""
    in_classes(tmp_path, {f"{n}.png": Image.new("L", (2, 2)) for n in "ab"})
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 15}.get)
    refused(lambda: image_source.load(tmp_path), "images: expected at most", "memory")
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 16}.get)
    assert len(by_class(image_source.load(tmp_path))) == 4
