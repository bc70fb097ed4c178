"""Text sources: the shipped novels, own files and folders, TFDS, and refusals."""

import hashlib
import lzma
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from transformer.data.readers import text_files
from transformer.data.shipped import files
from transformer.data.shipped.recipes import austen
from transformer.data.sources import text as text_source
from transformer.data.text import documents, packing, tokenizers
from transformer.data.tfds import text as tfds_text

LINES = "".join(f"line {n}: the quick brown fox é 日本 🙂\n" for n in range(400))


class DataProbe(tfds.core.GeneratorBasedBuilder):
    """A data set a user might have written: LINES as one document per split."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        features = {"text": text, "note": text, "pair": {"en": text}, "label": np.int64}
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(10):
            text = f"{number} " + LINES
            note = f"note {number}"
            yield (
                number,
                {"text": text, "note": note, "pair": {"en": note}, "label": number},
            )


@pytest.fixture(autouse=True, scope="module")
def cache_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        folder = str(tmp_path_factory.mktemp("tfds"))
        patch.setattr(tfds.core.constants, "DATA_DIR", folder)
        yield


def read(text, split):
    return list(documents.full_documents(text, split))


def test_the_shipped_novels_match_their_record():
    text = text_source.load("austen")
    record = files.record("austen")
    for split in documents.SPLITS:
        facts = [d for d in record["documents"] if d["split"] == split]
        assert [len(d) for d in read(text, split)] == [f["characters"] for f in facts]
    (emma,) = read(text, "validation")
    assert emma.startswith("EMMA\n\nBy Jane Austen\n")
    assert sum(len(novel) for novel in read(text, "train")) == 3_142_000


def test_a_changed_shipped_file_is_named(tmp_path, monkeypatch):
    shutil.copytree(files.ROOT / "austen", tmp_path / "austen")
    file = tmp_path / "austen" / "emma.txt.xz"
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)
    monkeypatch.setattr(files, "ROOT", tmp_path)
    got = hashlib.sha256(data).hexdigest()
    with pytest.raises(ValueError, match=rf"emma.*expected sha256 693f.*got {got}"):
        list(files.documents("austen", "validation"))


def test_r_strings_are_parsed():
    letters = ["EMMA", "", "é"]
    head = b"X\n\0\0\0\3" + bytes(8) + (5).to_bytes(4, "big") + b"UTF-8"
    raw = head + (16).to_bytes(4, "big") + len(letters).to_bytes(4, "big")
    for letter in letters:
        data = letter.encode()
        raw += (0x40009).to_bytes(4, "big") + len(data).to_bytes(4, "big") + data
    assert austen.strings(raw) == letters


def test_shipped_files_are_small_and_documented():
    folder = files.ROOT / "austen"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1_600_000
    assert "public domain" in files.record("austen")["text"]
    assert (folder / "LICENCE").is_file()


def test_an_own_file_holds_out_its_tail_from_a_line_start(tmp_path):
    file = tmp_path / "own.txt"
    file.write_text(LINES)
    text = text_source.load(file, held_out=0.1)
    (train,), (held,) = read(text, "train"), read(text, "validation")
    assert train + held == LINES and train.endswith("\n")
    assert abs(len(held.encode()) / len(LINES.encode()) - 0.1) < 0.01


def test_a_byte_order_mark_is_no_text(tmp_path):
    """As in tables; only at the start of a file, where it marks the encoding."""
    file = tmp_path / "own.txt"
    file.write_bytes(("\ufeff" + LINES + "\ufeff" + LINES).encode())
    text = text_source.load(file, held_out=0.1)
    (train,), (held,) = read(text, "train"), read(text, "validation")
    assert train + held == LINES + "\ufeff" + LINES


def test_a_folder_is_read_in_path_order_and_split_by_bytes(tmp_path):
    names = ["b/2.txt", "a.txt", "b/1.md", "c.txt"]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{name}\n" * 10)
    (tmp_path / "empty.txt").touch()
    (tmp_path / ".hidden").write_bytes(b"\xff")
    text = text_source.load(tmp_path, held_out=0.4)
    train, held = read(text, "train"), read(text, "validation")
    assert [d.split("\n")[0] for d in train] == ["a.txt", "b/1.md", "b/2.txt"]
    assert [d.split("\n")[0] for d in held] == ["b/2.txt", "c.txt"]
    assert "".join(train + held) == "".join(f"{name}\n" * 10 for name in sorted(names))


def test_existing_text_splits_are_used(tmp_path):
    for split in documents.SPLITS:
        (tmp_path / split).mkdir()
        (tmp_path / split / "1.txt").write_text(split)
    text = text_source.load(str(tmp_path))
    assert [read(text, split) for split in documents.SPLITS] == [
        ["train"],
        ["validation"],
    ]


def test_files_called_train_and_validation_are_used(tmp_path, capsys):
    """But no code, where such a name says nothing of a split."""
    for name in ("train.txt", "validation.txt", "readme.md"):
        (tmp_path / name).write_text(name)
    text = text_source.load(str(tmp_path))
    assert [read(text, s) for s in documents.SPLITS] == [
        ["train.txt"],
        ["validation.txt"],
    ]
    assert "files of train and validation; 1 others unread" in capsys.readouterr().out
    names = ["train.py", "validation.py"]
    assert text_files.given_splits(names) is None


def test_the_identity_changes_with_the_bytes(tmp_path):
    file = tmp_path / "own.txt"
    seen = set()
    for content in (LINES, LINES.replace("fox", "dog"), LINES + "x"):
        file.write_text(content)
        seen.add(text_source.load(file).fingerprint)
    file.write_text(LINES)
    assert len(seen) == 3 and text_source.load(file).fingerprint in seen
    assert text_source.load(file, held_out=0.5).fingerprint not in seen


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 16])
@pytest.mark.parametrize("content", [LINES, "x" * 500, " " * 500, "", "a b"])
def test_pieces_do_not_depend_on_the_chunks(content, size):
    chunks = [content[i : i + 13] for i in range(0, len(content), 13)]
    expected = list(documents.pieces_of([content], size=size))
    assert list(documents.pieces_of(chunks, size=size)) == expected
    assert "".join(piece.text for piece in expected) == content
    assert [piece.last for piece in expected[:-1]] == [False] * (len(expected) - 1)
    assert all(0 < len(piece.text) <= size for piece in expected)
    assert not expected or expected[-1].last


@pytest.mark.parametrize("bytes_", [1, 2, 3, 5])
def test_characters_across_two_reads_are_decoded(tmp_path, monkeypatch, bytes_):
    monkeypatch.setattr(text_files, "READ_BYTES", bytes_)
    file = tmp_path / "own.txt"
    file.write_text("aé日🙂" * 20)
    size = file.stat().st_size
    assert "".join(text_files.chunks(text_files.Span(file, 0, size))) == "aé日🙂" * 20
    for place in range(size + 1):
        middle = text_files.line_start(file, place)
        parts = [text_files.Span(file, 0, middle), text_files.Span(file, middle, size)]
        if bytes_ == 5:  # a window that holds a whole character
            assert (
                "".join("".join(text_files.chunks(part)) for part in parts)
                == "aé日🙂" * 20
            )


def test_tfds_and_own_files_give_the_same_rows(tmp_path):
    """The same documents by TFDS name and as files give the same rows."""
    by_name = text_source.load("data_probe", held_out=0.3)
    for number in range(10):
        split = "train" if number < 7 else "validation"
        (tmp_path / split).mkdir(exist_ok=True)
        (tmp_path / split / f"{number}.txt").write_text(f"{number} " + LINES)
    by_path = text_source.load(tmp_path)
    rows = []
    for text in (by_name, by_path):
        tokenizer = tokenizers.bpe(text, vocab_size=300)
        data = packing.training(text, tokenizer, length=32, batch_size=4, seed=1)
        held = packing.validation(text, tokenizer, length=32, batch_size=4)
        rows += [data.batch(5, range(4)) | {"v": held.batch(1, range(4))["ids_BL"]}]
    for name in rows[0]:
        np.testing.assert_array_equal(rows[0][name], rows[1][name])


def test_a_tfds_text_feature_can_be_chosen():
    assert "fox" in read(text_source.load("data_probe"), "train")[0]
    for feature in ("note", "pair/en"):
        assert (
            read(text_source.load("data_probe", column=feature), "train")[1] == "note 1"
        )


def test_reading_a_file_takes_no_more_memory_than_a_piece(tmp_path):
    file = tmp_path / "long.txt"
    with open(file, "w") as out:
        for _ in range(1000):
            out.write(LINES)
    assert file.stat().st_size > 17_000_000
    text = text_source.load(file)
    tracemalloc.start()
    assert sum(len(piece.text) for piece in text.pieces("train")) > 13_000_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000


def bad(tmp_path: Path, case: str):
    """A source that is wrong in the named way."""
    file = tmp_path / "bad.txt"
    if case == "empty":
        file.touch()
    if case == "latin":
        file.write_bytes(LINES.encode() * 20 + b"caf\xe9 x\n" + LINES.encode())
    if case == "cut short":
        file.write_bytes(b"abc\n" * 50 + b"\xe6\x97")
    if case == "null":
        file.write_bytes("It is a truth.\n".encode("utf-16-le") * 20)
    if case == "blank":
        file.write_text(" \n\u3000\n" * 999)
    if case in ("link", "pipe"):
        (tmp_path / "good.txt").write_text(LINES)
    if case == "link":
        file.symlink_to(tmp_path / "none")
    if case in ("pipe", "pipe alone"):
        os.mkfifo(file)
    folders = ("no text", "link", "pipe")
    return (
        tmp_path / "none"
        if case == "no folder"
        else (tmp_path if case in folders else file)
    )


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", r"expected a file or folder of text, got none at '.*bad.txt'"),
        ("no folder", r"expected a file or folder of text, got none at '.*none'"),
        ("no text", r"expected UTF-8 text for a train and .* got 0 bytes"),
        ("empty", r"bad.txt: expected UTF-8 text .* got 0 bytes"),
        ("latin", r"bad.txt: expected UTF-8, got byte 0xe9 at offset (\d+) "),
        ("null", r"bad.txt: expected UTF-8 text, got a null character"),
        ("blank", r"bad.txt: expected text, got only white space"),
        ("link", r"bad.txt: expected a file, got a broken link, a pipe or a device"),
        ("pipe", r"bad.txt: expected a file, got a broken link, a pipe or a device"),
        ("pipe alone", r"got a pipe or device at '.*bad.txt'"),
        ("cut short", r"bad.txt: expected UTF-8, got byte 0xe6 at offset 200 "),
    ],
)
def test_faulty_text_is_refused_in_one_line(tmp_path, case, message):
    with pytest.raises(ValueError, match=message) as caught:
        text = text_source.load(bad(tmp_path, case), held_out=0.05)
        for split in documents.SPLITS:
            read(text, split)
    assert "\n" not in str(caught.value)
    if case == "latin":
        offset = len(LINES.encode()) * 20 + 3
        assert f"offset {offset} " in str(caught.value)


@pytest.mark.parametrize(
    ("name", "feature", "message"),
    [
        ("", None, r"expected a file or folder of text, got none at ''"),
        ("~/none.txt", None, r"expected a file .*, got none at '~/none.txt'"),
        ("none.txt", None, r"expected a file .*, got none at 'none.txt'"),
        ("x" * 5000, None, r"expected a file .*, got none at 'x{255}'\.\.\.$"),
        ("a\0.txt", None, r"expected a file .*, got none at 'a.x00.txt'"),
        ("tiny_shakespear", None, r"'tiny_shakespear'; nearest names: tiny_shakesp"),
        ("austn", None, r"got 'austn'; nearest names: austen"),
        ("no/such.txt", None, r"file or folder or a TFDS name, got 'no/such.txt'"),
        (
            "data_probe:9.9.9",
            None,
            r"a TFDS name, got 'data_probe:9.9.9': Dataset data",
        ),
        ("data_probe/x", None, r"a TFDS name, got 'data_probe/x': "),
        ("data_probe", "body", r"the text feature 'body', got text, note, pair/en"),
    ],
)
def test_unknown_names_are_refused_in_one_line(name, feature, message):
    with pytest.raises(ValueError, match=message) as caught:
        text_source.load(name, column=feature or "text")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("found", "got"), [([], "none"), (["a", "b"], "a, b")])
def test_a_data_set_without_one_text_feature_is_refused(found, got):
    with pytest.raises(ValueError, match=f"x: expected one text feature, got {got}"):
        tfds_text.pick_text_feature("x", found, None)


@pytest.mark.parametrize("fraction", [0, 1, -0.1])
def test_a_held_out_fraction_outside_0_to_1_is_refused(fraction):
    with pytest.raises(ValueError, match="fraction between 0 and 1, got"):
        text_source.load("austen", held_out=fraction)


def test_the_shipped_files_unpack_to_their_recorded_size():
    for facts in files.record("austen")["documents"]:
        packed = files.read_verified(
            files.ROOT / "austen" / facts["file"], facts["sha256"]
        )
        assert len(lzma.decompress(packed).decode()) == facts["characters"]
