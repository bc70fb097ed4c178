"""Images of 16 bits a channel; files by hand, expected pixels by NumPy."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from transformer.data.readers import image_files

RNG = np.random.default_rng(0)
VALUES = RNG.integers(0, 65536, (9, 7, 4), np.uint16)
VALUES[0, 0] = 127, 128, 65535, 65535  # both sides of the first step, and the last
VALUES[..., 3] |= 4096  # no pixel is all white
COLOR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}


def paeth(left: np.ndarray, up: np.ndarray, corner: np.ndarray) -> np.ndarray:
    near = np.stack([left, up, corner]).astype(int)
    distance = np.abs(near - (near[0] + near[1] - near[2]))
    return np.take_along_axis(near, distance.argmin(0)[None], 0)[0]


def filter_lines(values: np.ndarray) -> bytes:
    """The lines of a PNG, each by another one of its five filters."""
    content, step = b"", 2 * values.shape[-1]
    lines = values.astype(">u2").reshape(len(values), -1).view(np.uint8).astype(int)
    for row, line in enumerate(lines):
        up = lines[row - 1] if row else 0 * line
        left, corner = (np.concatenate([0 * x[:step], x])[:-step] for x in (line, up))
        guesses = 0, left, up, (left + up) // 2, paeth(left, up, corner)
        guess = guesses[row % 5]
        content += bytes([row % 5]) + ((line - guess) % 256).astype(np.uint8).tobytes()
    return content


def deep_png(values: np.ndarray, transparent: Any = None) -> bytes:
    """A PNG of uint16 [rows, columns, channels]."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    rows, columns, channels = values.shape
    kind = COLOR_TYPE[channels]
    header = struct.pack(">IIBBBBB", columns, rows, 16, kind, 0, 0, 0)
    clear = b""
    if transparent is not None:
        clear = chunk(b"tRNS", np.asarray(transparent).astype(">u2").tobytes())
    body = chunk(b"IDAT", zlib.compress(filter_lines(values)))
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + clear + body + chunk(b"IEND", b"")


def deep_ppm(values: np.ndarray, highest: int = 65535) -> bytes:
    rows, columns, channels = values.shape
    kind = {1: 5, 3: 6}[channels]
    header = f"P{kind} {columns} {rows} {highest}\n".encode()
    return header + values.astype(">u2").tobytes()


def plain_ppm(values: np.ndarray, highest: int = 65535) -> bytes:
    rows, columns, _ = values.shape
    words = " ".join(map(str, values.ravel()))
    return f"P3 {columns} {rows} {highest}\n# a note\n{words}\n".encode()


def deep_tiff(
    values: np.ndarray,
    *,
    order: str = "<",
    compress: bool = False,
    photometric: int = 2,
    alpha: int | None = None,
    orientation: int = 1,
    planes: bool = False,
) -> bytes:
    """One strip. alpha: what the fourth channel is, by the tag ExtraSamples."""
    rows, columns, channels = values.shape
    layout = np.moveaxis(values, -1, 0) if planes else values
    content = layout.astype(f"{order}u2").tobytes()
    content = zlib.compress(content) if compress else content
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    starts = 8 + len(bits)
    entries = [
        *((256, 3, 1, columns), (257, 3, 1, rows)),
        (258, 3, channels, 8 if channels > 2 else 16),  # a place, or the value
        *((259, 3, 1, 8 if compress else 1), (262, 3, 1, photometric)),
        *((273, 4, 1, starts), (274, 3, 1, orientation), (277, 3, 1, channels)),
        *((278, 3, 1, rows), (279, 4, 1, len(content)), (284, 3, 1, 1 + planes)),
        *([] if alpha is None else [(338, 3, 1, alpha)]),
    ]
    table = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        form = "HHI" + ("HH" if kind == 3 and count * 2 <= 4 else "I")
        cells = (value, 0) if form.endswith("HH") else (value,)
        table += struct.pack(order + form, tag, kind, count, *cells)
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    place = struct.pack(f"{order}I", starts + len(content))
    return mark + place + bits + content + table + bytes(4)


def load(tmp_path: Path, name: str, content: bytes) -> np.ndarray:
    """The pixels of a file, of the shape that its header says."""
    (tmp_path / name).write_bytes(content)
    header = image_files.read_header(image_files.ImageFile(tmp_path / name, name))
    image = image_files.image(tmp_path / name)
    assert image.shape == (header.rows, header.columns, 1 if header.gray else 3)
    assert "16 bits rounded to 8" in header.conversions
    return image


def rounded(values: np.ndarray) -> np.ndarray:
    """16 bits to 8 by the full range."""
    return np.rint(values / 257.0)


def on_white(values: np.ndarray) -> np.ndarray:
    """The last channel is alpha."""
    alpha = values[..., -1:] / 65535.0
    return rounded(values[..., :-1] * alpha + 65535 * (1 - alpha))


RGB, GRAY, ALPHA = VALUES[..., :3], VALUES[..., :1], VALUES
GRAY_ALPHA = VALUES[..., 2:]
PREMULTIPLIED = np.minimum(VALUES, VALUES[..., 3:])
PREMULTIPLIED[1, 1] = 65535, 300, 200, 100  # brighter than its alpha: white
ALPHA_OF_THEM = PREMULTIPLIED[..., 3:]
TEN = RGB // 64
FILES = {
    "gray.png": (deep_png(GRAY), rounded(GRAY)),
    "gray alpha.png": (deep_png(GRAY_ALPHA), on_white(GRAY_ALPHA)),
    "rgb.png": (deep_png(RGB), rounded(RGB)),
    "rgba.png": (deep_png(ALPHA), on_white(ALPHA)),
    "gray.pgm": (deep_ppm(GRAY), rounded(GRAY)),
    "rgb.ppm": (deep_ppm(RGB), rounded(RGB)),
    "plain.ppm": (plain_ppm(RGB), rounded(RGB)),
    "ten.ppm": (deep_ppm(TEN, 1023), np.rint(TEN * (255 / 1023))),
    "ten plain.ppm": (plain_ppm(TEN, 1023), np.rint(TEN * (255 / 1023))),
    "gray.tif": (deep_tiff(GRAY, photometric=1), rounded(GRAY)),
    "inverted.tif": (deep_tiff(GRAY, photometric=0), rounded(65535 - GRAY)),
    "rgb.tif": (deep_tiff(RGB), rounded(RGB)),
    "big.tif": (deep_tiff(RGB, order=">"), rounded(RGB)),
    "deflate.tif": (deep_tiff(RGB, compress=True), rounded(RGB)),
    "big deflate.tif": (deep_tiff(RGB, order=">", compress=True), rounded(RGB)),
    "rgbx.tif": (deep_tiff(ALPHA, alpha=0), rounded(RGB)),
    "rgba.tif": (deep_tiff(ALPHA, alpha=2, compress=True), on_white(ALPHA)),
    "premultiplied.tif": (
        deep_tiff(PREMULTIPLIED, alpha=1),
        rounded(65535.0 + PREMULTIPLIED[..., :3] - ALPHA_OF_THEM).clip(max=255),
    ),
    "turned.tif": (deep_tiff(RGB, orientation=6), np.rot90(rounded(RGB), -1)),
}


@pytest.mark.parametrize("name", FILES)
def test_16_bits_are_read_in_full_range(tmp_path: Path, name: str) -> None:
    content, expected = FILES[name]
    np.testing.assert_array_equal(load(tmp_path, name, content), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_color_is_white(tmp_path: Path, channels: int) -> None:
    values = VALUES[..., :channels]
    got = load(tmp_path, "a.png", deep_png(values, transparent=values[3, 4]))
    expected = rounded(values)
    expected[3, 4] = 255
    np.testing.assert_array_equal(got, expected)


def test_16_bits_of_cmyk_are_those_of_its_8_bits(tmp_path: Path) -> None:
    got = load(tmp_path, "a.tif", deep_tiff(VALUES, photometric=5))
    eight = rounded(VALUES).astype(np.uint8)
    ink = Image.frombytes("CMYK", (7, 9), eight.tobytes())
    np.testing.assert_array_equal(got, np.asarray(ink.convert("RGB")))


def test_rows_of_a_large_image_are_converted_in_blocks(tmp_path: Path) -> None:
    tall = RNG.integers(0, 65536, (600, 2, 4), np.uint16)
    got = load(tmp_path, "a.png", deep_png(tall))
    np.testing.assert_array_equal(got, on_white(tall))


def test_8_bits_turned_have_the_size_of_their_header(tmp_path: Path) -> None:
    eight = RNG.integers(0, 256, (4, 6, 3), np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(eight).save(tmp_path / "a.tif", exif=turned)
    header = image_files.read_header(image_files.ImageFile(tmp_path / "a.tif", "a"))
    assert (header.rows, header.columns) == (6, 4)
    got = image_files.image(tmp_path / "a.tif")
    np.testing.assert_array_equal(got, np.rot90(eight, -1))


DARK = VALUES % 236


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (deep_png(DARK[..., :1]), "in 8 bits it would be black"),
        (deep_png(DARK[..., :3]), "in 8 bits it would be black"),
        (deep_ppm(DARK[..., :1]), "in 8 bits it would be black"),
        (deep_ppm(DARK[..., :3]), "in 8 bits it would be black"),
        (deep_tiff(DARK[..., :3]), "in 8 bits it would be black"),
        (deep_tiff(RGB, planes=True), "got channels as planes"),
        (deep_tiff(RGB, planes=True, compress=True), "got channels as planes"),
        (deep_png(RGB)[:-60], "expected an image, got"),
        (deep_ppm(RGB)[:-1], "expected an image, got"),
        (plain_ppm(RGB)[:-20], "expected an image, got"),
    ],
)
def test_what_would_be_lost_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "d").write_bytes(content)
    with pytest.raises(ValueError) as caught:
        image_files.image(tmp_path / "d")
    assert str(caught.value).startswith(f"{tmp_path / 'd'}: expected ")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("channels", [1, 3])
def test_black_stays_black(tmp_path: Path, channels: int) -> None:
    assert not load(tmp_path, "e.png", deep_png(0 * VALUES[..., :channels])).any()
