"""Images in tar files with the names of WebDataset."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from refusals import refused

from transformer.data.sources import captions as caption_source
from transformer.data.sources import images as image_source


def by_class(made: Any) -> list[np.ndarray]:
    """All images of both splits."""
    return [*made.train["image"], *made.validation["image"]]


def write_shard(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def png(value: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((2, 3), value, np.uint8)).save(content, "PNG")
    return content.getvalue()


def test_tar_files_are_read_by_the_names_of_webdataset(tmp_path: Path) -> None:
    for shard in range(2):
        files = {}
        for number in range(4 * shard, 4 * shard + 4):
            name = f"in/{number:06d}"
            record = {"caption": f"picture {number}", "label": number % 2}
            files[f"{name}.png"] = png(number)
            if shard:
                files[f"{name}.json"] = json.dumps(record).encode()
            else:
                files[f"{name}.cls"] = str(number % 2).encode()
                files[f"{name}.txt"] = record["caption"].encode()
        write_shard(tmp_path / f"shards/{shard}.tar", files)
    made = image_source.load(tmp_path / "shards", held_out=0.3)
    assert made.labels == ("0", "1") and len(by_class(made)) == 8
    for part in (made.train, made.validation):
        assert part["image"].shape[1:] == (2, 3, 1)
        for image, label in zip(part["image"], part["label"], strict=True):
            assert image[0, 0, 0] % 2 == label
    alone = image_source.load(tmp_path / "shards/1.tar")
    assert sorted(image[0, 0, 0] for image in by_class(alone)) == [4, 5, 6, 7]
    texts = caption_source.load(tmp_path / "shards")
    for part in (texts.train, texts.validation):
        for image, text in zip(part["image"], part["text"], strict=True):
            assert text == f"picture {image[0, 0, 0]}"
    shard = tmp_path / "shards/0.tar"
    for files, message in (
        ({"1.png": png(1)}, "0.tar: 1: expected .cls or .json or .txt, got .png"),
        ({"1.cls": b"0"}, "0.tar: 1: expected one image, got .cls"),
        ({"1.png": png(1), "1.cls": b"\xff"}, "0.tar: 1.cls: expected UTF-8 text"),
        ({"1.png": png(1), "1.json": b"{"}, "0.tar: 1.json: expected UTF-8 text"),
        (
            {"1.png": png(1), "1.json": b'{"cls": 1, "cls": 2}'},
            "0.tar: 1.json: expected UTF-8 text, got the key 'cls' more than once",
        ),
        ({"1.png": b"no", "1.cls": b"0"}, "1.png: expected an image, got another kind"),
        ({"1.png": png(1), "1.jpg": png(1)}, "1: expected one image, got .png, .jpg"),
    ):
        write_shard(shard, files)
        refused(lambda: image_source.load(tmp_path / "shards"), message)
    shard.write_bytes(b"something")
    refused(lambda: image_source.load(shard), "0.tar: expected a tar file, got")


def test_what_a_tar_file_would_lose_is_refused(tmp_path: Path, capsys: Any) -> None:
    """A link has no content of its own, of two members of a name one would be lost, and
    a label that is no text would be the class None."""
    files = {f"{i}.{kind}": c for i in range(4) for kind, c in example(i).items()}
    shard = tmp_path / "a.tar"
    write_shard(shard, files)
    (tmp_path / "notes.txt").write_text("hello")
    image_source.load(tmp_path)
    assert "1 others not read: notes.txt" in capsys.readouterr().out
    for extra, message in (
        ({"0.png": png(9)}, "a.tar: 0: expected one example, got several"),
        ({"3.png": png(9)}, "a.tar: 3.png: expected once, got it again"),
        ({"4.png": None}, "a.tar: 4.png: expected a file, got a link"),
        ({"4.png": png(4), "4.json": b'{"label": [1]}'}, "4.json: expected text, got"),
        ({"4.png": png(4), "4.json": b'{"label": null}'}, "4: expected .cls or .json"),
    ):
        write_shard(shard, files)
        with tarfile.open(shard, "a") as archive:
            for name, content in extra.items():
                member = tarfile.TarInfo(name)
                member.size = len(content or b"")
                member.type = tarfile.REGTYPE if content else tarfile.SYMTYPE
                archive.addfile(member, io.BytesIO(content or b""))
        refused(lambda: image_source.load(shard), message)


def test_a_part_of_a_tar_file_is_refused(tmp_path: Path) -> None:
    """tarfile stops in silence in a header that is cut, at a cut between two members,
    and behind the first of two archives in one file."""
    files = {f"{i}.{kind}": c for i in range(4) for kind, c in example(i).items()}
    shard = tmp_path / "a.tar"
    write_shard(shard, files)
    whole = shard.read_bytes()
    with tarfile.open(shard) as archive:
        last = [member.offset for member in archive][-2:][0]
    for content, message in (
        (whole[: last + 100], "up to the mark of its end, got a part"),
        (whole[:last], "up to the mark of its end, got a part"),
        (whole + whole, "a.tar: expected one tar archive, got more behind its end"),
    ):
        shard.write_bytes(content)
        refused(lambda: image_source.load(shard), message)
    shard.write_bytes(whole + bytes(10240))
    image_source.load(shard)


def example(number: int) -> dict[str, bytes]:
    return {"png": png(number), "cls": str(number % 2).encode()}
