"""Tables of recordings with their texts: read, divided, and refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pretrained_folder
import pytest
from scipy.io import wavfile
from test_readers_refused import refused

from transformer.data.audio import log_mel
from transformer.data.readers import audio_files, recording_table
from transformer.data.sources import recordings
from transformer.data.text import documents

TEXTS = [f"the hen {number // 2}" for number in range(40)]


def test_no_text_is_in_both_splits(tmp_path: Path) -> None:
    """A twentieth of the texts is held out, whoever says them."""
    table = pretrained_folder.write_recordings(tmp_path / "clips", TEXTS)
    data = recordings.load(table)
    train, held_out = data.train, data.validation
    assert len(held_out["text"]) == 2 and len(train["text"]) == 38
    assert not {*train["text"]} & {*held_out["text"]}
    for part in (train, held_out):
        for file, text, samples in zip(*part.values(), strict=True):
            assert TEXTS[int(Path(file).stem)] == text
            assert samples == len(audio_files.read_audio(file)) == 4800
    (tmp_path / "clips" / "3.wav").write_bytes(Path(train["file"][0]).read_bytes())
    assert recordings.load(table).fingerprint != data.fingerprint


def test_a_folder_of_two_tables_is_used_as_given(tmp_path: Path) -> None:
    """Columns of usual names are found: those of Common Voice and of audiofolder."""
    table = pretrained_folder.write_recordings(tmp_path / "clips", TEXTS[:6])
    table.unlink()
    for split, rows in zip(documents.SPLITS, (range(4), range(4, 6)), strict=True):
        lines = [f"{row}.wav,{TEXTS[row]},x" for row in rows]
        head = "file_name,transcription,speaker"
        (table.parent / f"{split}.csv").write_text("\n".join([head, *lines]))
    data = recordings.load(table.parent)
    assert data.train["text"].tolist() == TEXTS[:4]
    assert data.validation["text"].tolist() == TEXTS[4:6]
    with (table.parent / "validation.csv").open("a") as file:
        file.write("\n2.wav,again,x")
    refused(recordings.load, table.parent, "expected other recordings than in train")


def test_conversions_are_counted_in_a_line(tmp_path: Path, capsys: Any) -> None:
    """And the length is that after them."""
    table = pretrained_folder.write_recordings(tmp_path / "clips", TEXTS[:3])
    stereo = np.zeros((4801, 2), np.int16) + np.arange(2, dtype=np.int16)
    wavfile.write(table.parent / "1.wav", 48_000, stereo)
    data = recordings.load(table, columns="path,text", held_out=0.5)
    lengths = np.concatenate([data.train["samples"], data.validation["samples"]])
    assert sorted(lengths) == [1601, 4800, 4800]
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        f"{table}: of 3 recordings 1 are the mean of their channels, 1 are converted "
        f"to {log_mel.RATE} samples a second"
    ]


def test_recordings_are_decoded_once(tmp_path: Path, monkeypatch: Any) -> None:
    """What is found is kept in the cache until one of them changes."""
    table = pretrained_folder.write_recordings(tmp_path / "clips", TEXTS[:4])
    first = recordings.load(table)

    def decode(file: Any) -> Any:
        raise ValueError(f"decoded {file}")

    monkeypatch.setattr(recording_table.audio_files, "decode", decode)
    again = recordings.load(table)
    assert again.fingerprint == first.fingerprint
    np.testing.assert_array_equal(again.train["samples"], first.train["samples"])
    (table.parent / "2.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match="decoded .*0.wav"):
        recordings.load(table)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tb\n0.wav\tone\n1.wav\ttwo\n", "row 1: expected a recording, got no file"),
        ("#a\tb\n0.wav\tone\n", "expected one column 'path', got a, b; --columns"),
        (
            "#path\ttext\n0.wav\tone\n9.wav\ttwo\n",
            "row 3: expected a recording, got no",
        ),
        ("#path\ttext\n0.wav\tone\n1.wav\t\n", "row 3: expected text, got an empty"),
        (
            "#path\ttext\n0.wav\ta\n0.wav\tb\n",
            "expected each recording once, got '0.wav",
        ),
        ("#path\ttext\n/tmp/0.wav\ta\n", "expected a path in the folder, got '/tmp"),
        (
            "#path\ttext\n0.wav\ta\n1.wav\ta\n",
            "recordings of 2 different texts or more",
        ),
        ("#path\ttext\n", "expected recordings with texts, got none"),
    ],
)
def test_faulty_tables_are_refused(content: str, message: str, tmp_path: Path) -> None:
    table = pretrained_folder.write_recordings(tmp_path / "clips", TEXTS[:2])
    table.write_text(content)
    refused(recordings.load, table, message)


def test_a_recording_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    table = pretrained_folder.write_recordings(tmp_path / "clips", TEXTS[:4])
    broken = table.parent / "2.wav"
    whole = broken.read_bytes()
    for content, message in (
        (b"hello", "2.wav: expected a wav file, got"),
        (whole[: len(whole) // 2], "2.wav: expected a whole wav file, got"),
        (whole[:58], "2.wav: expected"),
    ):
        broken.write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            recordings.load(table)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="recordings with texts, got none at 'digits'"):
        recordings.load("digits")
    with pytest.raises(ValueError, match="expected 2 different names divided by"):
        recordings.load(table, columns="path")
