"""The user's own recordings: a table of their paths and of what is said in them.

    path,text
    clips/1.wav,Bom dia.

Paths are relative to the table's folder (`listed_files`). A folder with a table called
train and one called validation is used as given. Of one table, the recordings whose
text has the smallest sha256 are held out, so that no text is in both splits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer import storage
from transformer.data.audio.log_mel import RATE
from transformer.data.notices import print_once
from transformer.data.readers import audio_files, listed_files, table
from transformer.data.readers import files as own_files
from transformer.data.records import Arrays, Records

TEXT = ("text", "sentence", "transcription", "transcript")
VERSION = "1"


def _facts(path: Path, files: Sequence[Path]) -> list[list[int]]:
    """The rate, channels and length of each recording, decoded once and cached."""
    key = storage.short_hash(VERSION, own_files.fingerprint(path.parent, files))

    def build(folder: Path) -> None:
        found = []
        for file in files:
            sound = audio_files.decode(file)
            found.append([sound.rate, sound.samples.shape[1], sound.length])
        (folder / "facts.json").write_text(json.dumps(found))

    folder = storage.cached_folder(f"recordings/{key}", build)
    return json.loads((folder / "facts.json").read_text())


def _report_conversions(path: Path, facts: Sequence[Sequence[int]]) -> None:
    """Say in one line how many recordings are converted when they are read."""
    mixed = sum(channels > 1 for _, channels, _ in facts)
    resampled = sum(rate != RATE for rate, *_ in facts)
    changes = [f"{mixed} are the mean of their channels"] if mixed else []
    if resampled:
        changes.append(f"{resampled} are converted to {RATE} samples a second")
    if changes:
        print_once(f"{path}: of {len(facts)} recordings {', '.join(changes)}")


def _read(path: Path, columns: tuple[str, ...]) -> tuple[Arrays, list[Path]]:
    """`file`, `text` and `samples`, and the files themselves."""
    chosen: Any = columns or listed_files.default_columns("audio", *TEXT)
    rows = list(listed_files.read(path, chosen, what="a recording"))
    if not rows:
        raise ValueError(f"{path}: expected recordings with texts, got none")
    files = [path.parent / name for name, _ in rows]
    facts = _facts(path, files)
    _report_conversions(path, facts)
    arrays = {
        "file": own_files.strings([str(file) for file in files]),
        "text": own_files.strings([text for _, text in rows]),
        "samples": np.array([length for *_, length in facts], np.int64),
    }
    return arrays, files


def _held_out(path: Path, text: np.ndarray, fraction: float) -> np.ndarray:
    """bool [N]; ValueError for less than two different texts."""
    different = sorted(set(text))
    if len(different) < 2:
        raise ValueError(
            f"{path}: expected recordings of 2 different texts or more, one to hold "
            f"out, got {len(different)}"
        )
    chosen = own_files.held_out(different, fraction)
    out = {one for one, held in zip(different, chosen, strict=True) if held}
    return np.array([one in out for one in text])


def read(path: Path, *, held_out: float, columns: tuple[str, ...] = ()) -> Records:
    """`file`, an array of paths; `text`, an array of strings; `samples`, int64 [N], the
    length at `RATE`. No sound is kept.

    columns: of the paths and of the texts. Recordings that are converted when they are
    read are counted in a line. ValueError, naming file and row, for a missing column,
    recording or text; naming the recording, for one that cannot be read.
    """
    if path.is_dir():
        tables = list(table.split_files(path, "recordings").values())
        (train, files), (validation, others) = (_read(t, columns) for t in tables)
        both = [file for file in others if file in set(files)]
        if both:
            raise ValueError(
                f"{tables[1]}: expected other recordings than in {tables[0].name}, "
                f"got {both[0]}"
            )
        files += others
    else:
        tables = [path]
        arrays, files = _read(path, columns)
        held = _held_out(path, arrays["text"], held_out)
        train, validation = own_files.split(arrays, held)
    root = path if path.is_dir() else path.parent
    stamp = own_files.fingerprint(root, [*tables, *files])
    name = str(path)
    return Records(name, storage.short_hash(stamp, repr(columns)), train, validation)
