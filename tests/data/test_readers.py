"""The user's own images, pairs, labeled text, captions, fields and episodes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import netcdf_file

from transformer.data import records
from transformer.data.readers import files as own_files
from transformer.data.readers import image_files
from transformer.data.sources import captions as caption_source
from transformer.data.sources import episodes as episode_source
from transformer.data.sources import fields as field_source
from transformer.data.sources import images as image_source
from transformer.data.sources import labeled_text as labeled_text_source
from transformer.data.sources import pairs as pair_source

RNG = np.random.default_rng(0)


def write_image(
    path: Path, *, size: tuple[int, int] = (4, 6), mode: str = "RGB"
) -> np.ndarray:
    """Write an image of noise; its pixels, uint8 [rows, columns, channels]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"RGB": (3,), "L": ()}[mode]
    pixels = RNG.integers(0, 256, (*size, *channels), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels.reshape(*size, -1)


def photographs(folder: Path, *, classes: str = "ab", count: int = 5) -> dict[str, Any]:
    """Class folders; their pixels by path."""
    names = [f"{name}/{number}.png" for name in classes for number in range(count)]
    return {name: write_image(folder / name) for name in names}


def rows(made: records.Records) -> dict[bytes, Any]:
    """Every example's image bytes with its split and label."""
    found = {}
    for split in ("train", "validation"):
        part = getattr(made, split)
        for image, label in zip(part["image"], part["label"], strict=True):
            found[image.tobytes()] = split, made.labels[label]
    return found


def test_the_held_out_files_depend_only_on_names() -> None:
    names = [*"abcdefgh", "\udcff"]  # the last one is no UTF-8
    held = own_files.held_out(names, 0.3)
    assert "".join(np.array(names[:-1])[held[:-1]]) == "cdf"  # the smallest sha256
    assert own_files.held_out(names[::-1], 0.3).tolist() == held[::-1].tolist()
    counts = [own_files.held_out(names, share).sum() for share in (0.01, 0.5, 0.99)]
    assert counts == [1, 4, 8]


def test_images_are_read_and_split_by_class(tmp_path: Path) -> None:
    images = photographs(tmp_path / "here")
    (tmp_path / "here/a/.hidden").write_text("not a picture")
    made = image_source.load(tmp_path / "here", held_out=0.2)
    found = rows(made)
    assert len(found) == 10 and made.labels == ("a", "b")
    for name, pixels in images.items():
        assert found[pixels.tobytes()][1] == name[0]
    assert sorted(
        label for split, label in found.values() if split == "validation"
    ) == [*"ab"]
    # In another folder it is the same data with the same split.
    (tmp_path / "here").rename(tmp_path / "there")
    again = image_source.load(tmp_path / "there", held_out=0.2)
    assert again.fingerprint == made.fingerprint and rows(again) == found
    write_image(tmp_path / "there/a/1.png")
    assert image_source.load(tmp_path / "there").fingerprint != made.fingerprint


def test_existing_image_splits_are_used(tmp_path: Path) -> None:
    photographs(tmp_path / "train", count=3)
    photographs(tmp_path / "validation", count=2)
    made = image_source.load(tmp_path)
    assert len(made.train["label"]) == 6 and len(made.validation["label"]) == 4


def test_transparency_becomes_white_and_gray_images_have_one_channel(
    tmp_path: Path,
) -> None:
    for name in ("a/1", "a/2", "b/1", "b/2"):
        write_image(tmp_path / "gray" / f"{name}.png", mode="L")
        clear = Image.new("RGBA", (3, 3), (10, 20, 30, 0))
        clear.putpixel((0, 0), (10, 20, 30, 255))
        file = tmp_path / "clear" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        clear.save(file)
    assert image_source.load(tmp_path / "gray").train["image"].shape[1:] == (4, 6, 1)
    image = image_source.load(tmp_path / "clear").train["image"][0]
    assert image[0, 0].tolist() == [10, 20, 30] and (image[1:] == 255).all()


def test_images_are_rotated_by_their_exif_orientation(tmp_path: Path) -> None:
    lying = Image.new("RGB", (6, 4))
    facts = lying.getexif()
    facts[0x0112] = 6  # the camera was turned by a quarter
    for name in ("a/1", "a/2", "b/1", "b/2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        lying.save(tmp_path / f"{name}.jpg", exif=facts)
    assert image_source.load(tmp_path).train["image"].shape[1:] == (6, 4, 3)


def test_the_order_of_the_file_system_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs(tmp_path / "images")
    for number in range(5):
        (tmp_path / "episodes").mkdir(exist_ok=True)
        np.savez(tmp_path / f"episodes/{number}.npz", **episode(2 + number))
    before = (
        image_source.load(tmp_path / "images"),
        episode_source.load(tmp_path / "episodes"),
    )
    walk, iterdir = os.walk, Path.iterdir

    def reversed_walk(folder: Path) -> Iterator[Any]:
        for root, names, files in walk(folder):
            yield root, names, files[::-1]

    monkeypatch.setattr(os, "walk", reversed_walk)
    monkeypatch.setattr(Path, "iterdir", lambda path: reversed([*iterdir(path)]))
    after = (
        image_source.load(tmp_path / "images"),
        episode_source.load(tmp_path / "episodes"),
    )
    for one, other in zip(before, after, strict=True):
        assert (one.fingerprint, one.labels) == (other.fingerprint, other.labels)
        for split in ("train", "validation"):
            np.testing.assert_equal(getattr(one, split), getattr(other, split))


def test_pairs_are_read_and_no_sentence_is_in_both_splits(tmp_path: Path) -> None:
    sentences = [(f"line {n % 30}", f"linha {n}") for n in range(40)]
    text = "#en\tpt\n" + "\r\n".join("\t".join(pair) for pair in sentences)
    (tmp_path / "pairs.tsv").write_bytes(text.encode())
    made = pair_source.load(tmp_path / "pairs.tsv", held_out=0.1)
    parts = [
        list(zip(part["first"], part["second"], strict=True))
        for part in (made.train, made.validation)
    ]
    assert sorted(parts[0] + parts[1]) == sorted(sentences) and made.labels == (
        "en",
        "pt",
    )
    train, held = ({first for first, _ in part} for part in parts)
    assert len(held) == 3 and not train & held
    (tmp_path / "pairs.tsv").rename(tmp_path / "renamed.tsv")
    again = pair_source.load(tmp_path / "renamed.tsv", held_out=0.1)
    assert again.fingerprint == made.fingerprint
    for split in ("train", "validation"):
        (tmp_path / "both").mkdir(exist_ok=True)
        (tmp_path / "both" / f"{split}.tsv").write_text(f"{split}\tx\n")
    made = pair_source.load(tmp_path / "both")
    assert made.validation["first"].tolist() == ["validation"]
    assert made.labels == ("first", "second")


def test_labeled_text_is_read_and_no_text_is_in_both_splits(tmp_path: Path) -> None:
    lines = [(f"line {n % 30}", "even" if n % 2 == 0 else "odd") for n in range(60)]
    text = "\n".join("\t".join(line) for line in [("#text", "label"), *lines])
    (tmp_path / "lines.tsv").write_text(text)
    made = labeled_text_source.load(tmp_path / "lines.tsv", held_out=0.2)
    assert made.labels == ("even", "odd")
    assert made.train["label"].dtype == np.int32
    found = [
        (text, made.labels[label])
        for part in (made.train, made.validation)
        for text, label in zip(part["text"], part["label"], strict=True)
    ]
    assert sorted(found) == sorted(lines)
    # Of 15 different texts of each class, 3 are held out, each of them twice.
    assert np.bincount(made.validation["label"]).tolist() == [6, 6]
    assert not {*made.train["text"]} & {*made.validation["text"]}
    for split, labels in (("train", "ab"), ("validation", "b")):
        rows = "".join(f"{split} {label}\t{label}\n" for label in labels)
        (tmp_path / f"{split}.tsv").write_text(rows)
    made = labeled_text_source.load(tmp_path)
    assert made.validation["text"].tolist() == ["validation b"]
    assert made.validation["label"].tolist() == [1]


def test_captions_belong_to_their_images(tmp_path: Path) -> None:
    images = {f"in/{n}.png": write_image(tmp_path / f"in/{n}.png") for n in range(6)}
    lines = [f"{name}\tpicture {name}\tfigura {name}" for name in images]
    (tmp_path / "captions.tsv").write_text("\n".join(["#file\ten\tpt", *lines]))
    made = caption_source.load(tmp_path, language="pt", held_out=0.3)
    found = {
        image.tobytes(): text
        for part in (made.train, made.validation)
        for image, text in zip(part["image"], part["text"], strict=True)
    }
    assert found == {p.tobytes(): f"figura {name}" for name, p in images.items()}
    assert len(made.validation["text"]) == 2
    (tmp_path / "captions.tsv").write_text("in/0.png\tone\nin/1.png\ttwo\n")
    made = caption_source.load(tmp_path)
    assert {*made.train["text"], *made.validation["text"]} == {"one", "two"}


def series(**changed: Any) -> dict[str, Any]:
    return {
        "values": RNG.normal(size=(10, 2, 3, 4)).astype(np.float32),
        "latitude": np.arange(3.0),
        "longitude": np.arange(4.0),
        **changed,
    }


def netcdf(
    path: Path,
    values: np.ndarray,
    *,
    unit: str = "1",
    step: float = 1,
    calendar: str = "standard",
    **facts: Any,
) -> None:
    """`values` [T, latitude, longitude] as the one variable of a NetCDF file, its time
    so many units a step; facts: the variable's attributes."""
    with netcdf_file(str(path), "w") as file:
        for name, size in zip(("time", "lat", "lon"), values.shape, strict=True):
            file.createDimension(name, None if name == "time" else size)
            file.createVariable(name, "f8", (name,))[:] = np.arange(size)
        file.variables["time"][:] *= step
        file.variables["time"].units = unit
        file.variables["time"].calendar = calendar
        kind = values.dtype.char
        variable = file.createVariable("sst", kind, ("time", "lat", "lon"))
        variable[:] = values
        for name, value in facts.items():
            setattr(variable, name, value)


def test_fields_are_read(tmp_path: Path) -> None:
    given = series(variables=["u", "v"], units=["m/s", "m/s"])
    np.savez(tmp_path / "a.npz", **given)
    made = field_source.load(tmp_path / "a.npz", held_out=0.3)
    np.testing.assert_array_equal(made.values, given["values"])
    assert made.variables == ("u", "v") and made.train_steps == 7
    packed = RNG.integers(-100, 100, (5, 3, 4)).astype(np.int16)
    packed[0, 0, 0] = -999
    facts = {"missing_value": np.int16(-999), "scale_factor": 0.5, "add_offset": 2.0}
    netcdf(tmp_path / "b.nc", packed, units="C", **facts)
    made = field_source.load(tmp_path / "b.nc")
    expected = packed * 0.5 + 2.0
    expected[0, 0, 0] = np.nan
    np.testing.assert_allclose(made.values[:, 0], expected)
    assert made.variables == ("sst",) and made.units == ("C",)
    assert made.longitude.tolist() == [0, 1, 2, 3] and made.train_steps == 4


@pytest.mark.parametrize("kind", ["NetCDF 4", "Zarr"])
def test_netcdf_4_and_zarr_are_read_as_netcdf_3(tmp_path: Path, kind: str) -> None:
    xarray = pytest.importorskip("xarray")
    packed = RNG.integers(-100, 100, (5, 3, 4)).astype(np.int16)
    facts = {"missing_value": np.int16(99), "scale_factor": 0.5, "add_offset": 2.0}
    how = {"unit": "days since 2000-01-01", "units": "C", **facts}
    netcdf(tmp_path / "3.nc", packed, **how)
    data = xarray.load_dataset(tmp_path / "3.nc", engine="scipy", decode_cf=False)
    path = tmp_path / "other"
    if kind == "Zarr":
        data.to_zarr(path, consolidated=False)
    else:
        data.to_netcdf(path, engine="h5netcdf")
    expected, made = field_source.load(tmp_path / "3.nc"), field_source.load(path)
    assert made.time.dtype == "<M8[D]"
    for name in ("values", "time", "latitude", "longitude", "variables", "units"):
        np.testing.assert_array_equal(getattr(made, name), getattr(expected, name))
    again = field_source.load(path)
    assert again.fingerprint == made.fingerprint != expected.fingerprint


@pytest.mark.parametrize(
    ("unit", "step", "expected"),
    [
        ("days since 1999-12-31", 1, ["1999-12-31", "2000-01-01"]),
        (
            "hours since 2000-2-28 18:00:0.0",
            6,
            ["2000-02-28T18:00:00", "2000-02-29T00:00:00"],
        ),
        ("seconds since 2000-01-01T00:00:00Z", 86400, ["2000-01-01", "2000-01-02"]),
        ("months since 2000-01-01", 3, [0, 3]),
        ("days since 1-1-1 00:00:0.0", 3, ["0001-01-01", "0001-01-04"]),
        ("days since 2000-13-01", 3, [0, 3]),
        ("months since 2000-01-01", 0.5, [0, 1]),
    ],
)
def test_time_is_dates_or_integers(
    tmp_path: Path, unit: str, step: float, expected: list[Any]
) -> None:
    netcdf(tmp_path / "a.nc", np.zeros((2, 3, 4), "f4"), unit=unit, step=step)
    pytest.importorskip("cftime")
    time = field_source.load(tmp_path / "a.nc").time
    words = [str(one) for one in expected]
    found = time.astype(str).tolist()
    assert [one.removesuffix(" 00:00:00") for one in found] == words
    # cftime dates before the Gregorian calendar.
    kind = "O" if words[0][0] == "0" and "-" in words[0] else "M"
    assert time.dtype.kind == (kind if "-" in words[0] else "i")


def test_missing_values_of_a_field_are_nan(tmp_path: Path) -> None:
    values = RNG.normal(size=(3, 2, 2)).astype(np.float32)
    values[0, 0] = 1e20, 9.969209968386869e36  # marked; never written
    netcdf(
        tmp_path / "a.nc",
        values,
        missing_value=np.float64(1e20),
        _FillValue=np.float32(-1),
    )
    values[0, 0] = np.nan
    made = field_source.load(tmp_path / "a.nc")
    np.testing.assert_array_equal(made.values[:, 0], values)
    # A missing_value outside the range of the packed integers matches none of them.
    packed = np.zeros((3, 2, 2), np.int16)
    netcdf(tmp_path / "b.nc", packed, missing_value=np.float32(1e20), units=b"\xb0C")
    assert not field_source.load(tmp_path / "b.nc").values.any()


def episode(length: int = 4, **changed: Any) -> dict[str, Any]:
    return {
        "observations": RNG.normal(size=(length, 3)),
        "actions": RNG.integers(0, 2, length),
        "rewards": RNG.normal(size=length),
        **changed,
    }


def test_actions_of_several_numbers_are_float32(tmp_path: Path) -> None:
    for number in range(3):
        np.savez(tmp_path / f"{number}.npz", **episode(actions=np.ones((4, 2), int)))
    actions = episode_source.load(tmp_path).train["actions"]
    assert actions.dtype == np.float32 and actions.shape == (2, 4, 2)


def test_episodes_are_read_and_padded(tmp_path: Path) -> None:
    given = {f"{n}.npz": episode(2 + n) for n in range(5)}
    for name, arrays in given.items():
        np.savez(tmp_path / name, **arrays)
    made = episode_source.load(tmp_path, held_out=0.2)
    assert made.train["observations"].shape == (4, 6, 3)
    assert (
        made.train["actions"].dtype == np.int32 and len(made.validation["length"]) == 1
    )
    by_length = {len(arrays["rewards"]): arrays for arrays in given.values()}
    for part in (made.train, made.validation):
        for row, length in enumerate(part["length"]):
            for name, array in by_length.pop(int(length)).items():
                np.testing.assert_allclose(part[name][row, :length], array, rtol=1e-6)
                assert not part[name][row, length:].any()
    assert not by_length


def test_a_resized_image_keeps_its_aspect_ratio_and_is_padded_with_white(
    tmp_path: Path,
) -> None:
    """A tall gray one with a transparent border."""
    tall = np.zeros((64, 32, 2), np.uint8)
    tall[8:56, 8:24, 1] = 255
    Image.fromarray(tall, "LA").save(tmp_path / "tall.png")
    resized = image_files.resized_image(tmp_path / "tall.png", (32, 32, 3))
    assert resized.shape == (32, 32, 3) and resized[0, 0].tolist() == [255, 255, 255]
    rows, columns = np.nonzero((resized < 128).all(-1))
    assert np.ptp(rows) == 23 and np.ptp(columns) == 7
