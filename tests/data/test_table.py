"""Tables of one's own: every format is the same rows, faulty rows are numbered."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from transformer.data.readers import table
from transformer.data.sources import labeled_text, pairs
from transformer.data.sources import text as text_source
from transformer.data.text import documents, packing, tokenizers

ROWS = [
    {"id": n, "text": f'document {n}, "quoted"\nof two lines é 日本', "label": n % 3}
    for n in range(200)
]
NAMES = ["id", "text", "label"]


@pytest.fixture(autouse=True, scope="module")
def cache_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def zstd(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as file:
        file.write(content)
    return sink.getvalue().to_pybytes()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows in the format of the name."""
    kind = path.suffixes[-2] if path.suffix in COMPRESS else path.suffix
    if kind == ".parquet":
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist(rows), path, row_group_size=70
        )
        return path
    if kind == ".csv":
        plain = path.with_name("plain")
        with open(plain, "w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
        content = plain.read_bytes()
        plain.unlink()
    else:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(COMPRESS.get(path.suffix, bytes)(content))
    return path


def read(text: documents.TextDataset, split: str) -> list[str]:
    return list(documents.full_documents(text, split))


@pytest.mark.parametrize(
    "name",
    ["a.csv", "a.jsonl", "a.parquet", "a.ndjson.gz", "a.csv.bz2", "a.jsonl.xz"]
    + ["a.jsonl.zst"],
)
def test_every_format_is_the_same_documents(tmp_path: Path, name: str) -> None:
    text = text_source.load(write(tmp_path / name, ROWS), held_out=0.1)
    train, held = read(text, "train"), read(text, "validation")
    assert sorted(train + held) == sorted(row["text"] for row in ROWS)
    assert 10 < len(held) < 30
    # Which documents are held out follows from each of them alone.
    other = write(tmp_path / f"other-{name}", ROWS[::-1] + ROWS[:50])
    again = text_source.load(other, held_out=0.1)
    assert set(read(again, "validation")) == set(held)
    assert again.fingerprint != text.fingerprint
    with pytest.raises(ValueError, match="one column 'body', got id, text, label"):
        text_source.load(other, column="body")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_text_is_read_as_the_text(tmp_path: Path, suffix: str) -> None:
    lines = "".join(f"line {n} of a text, é\n" for n in range(9000)).encode()
    (tmp_path / "a.txt").write_bytes(lines)
    file = tmp_path / f"a.txt{suffix}"
    file.write_bytes(COMPRESS[suffix](lines))
    plain, packed = (text_source.load(f) for f in (tmp_path / "a.txt", file))
    for split in documents.SPLITS:
        assert read(packed, split) == read(plain, split)
    file.write_bytes(COMPRESS[suffix](lines)[:-300])
    with pytest.raises(ValueError, match=f"expected a complete {suffix} file, got"):
        text_source.load(file)


def test_tables_called_train_and_validation_are_used_as_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "train-00000-of-00002.parquet", ROWS[:5])
    write(tmp_path / "train-00001-of-00002.parquet", ROWS[5:9])
    write(tmp_path / "validation-00000-of-00001.parquet", ROWS[9:12])
    write(tmp_path / "test.parquet", ROWS[12:])
    text = text_source.load(tmp_path)
    assert read(text, "train") == [row["text"] for row in ROWS[:9]]
    assert read(text, "validation") == [row["text"] for row in ROWS[9:12]]
    assert "1 others unread" in capsys.readouterr().out


def test_documents_without_text_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*ROWS[:5], {"id": 5, "text": "", "label": 0}, {"text": None}]
    file = write(tmp_path / "a.jsonl", given)
    text = text_source.load(file)
    assert len(read(text, "train") + read(text, "validation")) == 5
    assert capsys.readouterr().out == f"{file}: 2 of 7 rows have no text\n"


TORN = gzip.compress(b"x" * 99)[:-9]
FAULTS = {
    "a.jsonl": [
        (b'{"text":"a"}\n{"text', "row 2: expected JSON, got "),
        (
            b'{"text": "a"}\n{"text": "b", "text": "c"}',
            "row 2: expected JSON, got the key 'text' more than once",
        ),
        (b'{"text":"a"}\n{"t":"b"}\n', "row 2: expected one column 'text'"),
        (b'{"text":"a"}\n\n[1]\n', "row 3: expected an object, got list"),
        (b'{"text":1.5}\n', "row 1: expected text, got float"),
        (b'{"text":"\\ud800"}\n', "row 1: expected text, got half"),
        (b'{"text":"\xff"}\n', "row 1: expected UTF-8, got byte 0xff at"),
        (b'{"text":"one"}\n', "for a train and a validation split"),
    ],
    "a.csv": [
        (b'text,b\n"1\n2",3\n4\n', "row 4: expected 2 columns divided by commas"),
        (b'text,b\n1,2\n"3,4\n', "row 3: expected CSV, got unexpected end"),
        (b"text,text\n1,2\n", "expected one column 'text', got text, text"),
        (b"text;b\n1;2\n", "expected one column 'text', got text;b; --text_column"),
    ],
    "a.tsv": [(b"a\tb\n", "row 1: expected names of columns, 'text' among them")],
    "a.parquet": [(b"PAR1", "expected Parquet, got ")],
    "a.jsonl.gz": [(TORN, "expected a complete .gz file")],
    "a.jsonl.xz": [(b"junk", "expected a complete .xz file, got ")],
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_row_is_refused_with_its_number(tmp_path: Path, name: str) -> None:
    """When the source is loaded, which is before the first step."""
    for content, message in FAULTS[name]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError) as caught:
            text_source.load(tmp_path / name)
        assert f"{tmp_path / name}" in str(caught.value)
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_column_of_plain_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text\n" * 99)
    with pytest.raises(ValueError, match="--text_column: expected a table at .*'body'"):
        text_source.load(tmp_path / "a.txt", column="body")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv.gz", "a.parquet"])
def test_reading_takes_memory_that_does_not_grow_with_the_file(
    tmp_path: Path, name: str
) -> None:
    peaks = []
    for count in (2_000, 12_000):
        rows = [{"text": f"{n} " + "word " * 60} for n in range(count)]
        file = write(tmp_path / f"{count}-{name}", rows)
        del rows
        text = text_source.load(file)
        tracemalloc.start()
        assert sum(len(piece.text) for piece in text.pieces("train")) > 250 * count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 100_000 < 2_000_000


def test_default_columns_may_be_in_upper_case(tmp_path: Path) -> None:
    """Of all kinds of table alike. Of two that differ in case, one is as written."""
    rows = [{"Text": f"line {n}", "Class": n % 2} for n in range(20)]
    file = write(tmp_path / "a.csv", rows)
    made = labeled_text.load(file)
    assert made.labels == ("0", "1") and made.train["text"][0].startswith("line ")
    assert next(text_source.load(file).pieces("train")).text.startswith("line ")
    names = table.default_columns(["path", "file"], ["label", "class"])
    for present, expected in (
        (["Label", "FILE"], ("FILE", "Label")),
        (["File", "path", "Path", "class"], ("path", "class")),
        (["Path", "PATH", "Class"], ("path", "Class")),
        (["a", "b"], ("path", "label")),
    ):
        assert names(present) == expected


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.zst", "a.parquet"])
def test_labels_and_pairs_are_columns_by_name(tmp_path: Path, name: str) -> None:
    """Digits of a class are its name; of more than two columns, two are chosen."""
    rows = [{"pt": f"linha {n}", "en": f"line {n}", "label": n % 3} for n in range(60)]
    file = write(tmp_path / name, rows)
    made = labeled_text.load(file, columns="en,label", held_out=0.2)
    assert made.labels == ("0", "1", "2") and len(made.validation["text"]) == 12
    for part in (made.train, made.validation):
        for text, label in zip(part["text"], part["label"], strict=True):
            assert int(text.split()[1]) % 3 == label
    with pytest.raises(ValueError, match="one column 'text', got .*; --columns names"):
        labeled_text.load(file)
    both = pairs.load(file, columns="en,pt")
    assert both.labels == ("en", "pt") and len(both.train["first"]) == 57
    for part in (both.train, both.validation):
        for first, second in zip(part["first"], part["second"], strict=True):
            assert first.replace("line", "linha") == second
    with pytest.raises(ValueError, match="two different names, got .*chooses among"):
        pairs.load(file)
    with pytest.raises(ValueError, match="expected 2 different names divided by a com"):
        pairs.load(file, columns="en")


def test_the_lines_of_two_files_are_pairs(tmp_path: Path) -> None:
    first, second = tmp_path / "a.en.txt", tmp_path / "a.pt.txt.gz"
    first.write_text("".join(f"line {n}\n" for n in range(40)))
    second.write_bytes(gzip.compress("".join(f"l {n}\n" for n in range(40)).encode()))
    made = pairs.load(f"{first},{second}", held_out=0.1)
    assert made.labels == ("en", "pt") and len(made.validation["first"]) == 4
    for part in (made.train, made.validation):
        for one, other in zip(part["first"], part["second"], strict=True):
            assert one.replace("line", "l") == other
    assert pairs.load(f"{first},{second}", columns="a,b").labels == ("a", "b")
    first.write_text("\n".join(f"line {n}" for n in range(39)))
    message = f"{second}: expected as many lines as in {first}, 39, got more"
    with pytest.raises(ValueError, match=message):
        pairs.load(f"{first},{second}")
    first.write_text("a\n\n" * 20)
    with pytest.raises(ValueError, match="row 2: expected text, got an empty column 1"):
        pairs.load(f"{first},{second}")


def test_a_mixture_names_its_parts_and_their_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "a.jsonl", ROWS)
    odd = tmp_path / "b:1,c:2"
    odd.write_text("a text\n" * 50)
    assert not text_source.load(str(odd)).parts
    mixed = text_source.load(f"{file}:3,austen:1")
    assert [(part.name, share) for part, share in mixed.parts] == [
        (str(file), 0.75),
        ("austen", 0.25),
    ]
    assert f"75.0% {file}, 25.0% austen" in capsys.readouterr().out
    held = [read(part, "validation") for part, _ in mixed.parts]
    assert read(mixed, "validation") == held[0] + held[1]
    assert text_source.load(f"{file}:1,austen:1").fingerprint != mixed.fingerprint
    for source in ("a:0,austen:1", "austen:1,a", "a:1.2.3,b:1", "a:1,a:2", "a:1,b:-1"):
        with pytest.raises(ValueError, match="mixture of texts: expected"):
            text_source.load(source)


def test_shares_of_a_mixture_are_those_of_its_rows(tmp_path: Path) -> None:
    for letter in "ab":
        (tmp_path / letter).write_text(f"{letter} line\n" * 300)
    text = text_source.load(f"{tmp_path / 'a'}:0.7,{tmp_path / 'b'}:0.3")
    rows = packing.training(text, tokenizers.bytes_(), length=32, batch_size=10)
    ids = np.concatenate([rows.batch(step, range(10))["ids_BL"] for step in range(40)])
    share = (ids == ord("a")).any(1).mean()
    assert share == pytest.approx(0.7, abs=0.02)
    parts = packing.part_validations(
        text, tokenizers.bytes_(), length=32, batch_size=10
    )
    assert list(parts) == ["validation/a", "validation/b"]
    first = parts["validation/b"].batch(0, range(10))["ids_BL"]
    assert ord("b") in first and ord("a") not in first
