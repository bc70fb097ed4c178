"""Metrics of a run: JSON lines, TensorBoard, a progress bar, a plot, a table."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformer import checks, storage, uploads

FILE = "metrics.jsonl"
# Between two flushes of TensorBoard's file, and two uploads to an object store, which
# take at most this fraction of the time.
FLUSH_SECONDS = 60.0
UPLOAD_FRACTION = 0.01


def read(folder: Path) -> list[dict[str, Any]]:
    """The records of a run folder in order; a last line cut by a kill is skipped.

    Raises ValueError, with the line's number, for another line that is no record, and
    for what is no file.
    """
    file = folder / FILE
    content = checks.regular_file(file).read_bytes() if file.exists() else b""
    lines = content.splitlines()
    if lines and not content.endswith(b"\n"):
        lines.pop()
    return [_record(f"{file}, line {n}", line) for n, line in enumerate(lines, 1)]


def _record(where: str, line: bytes) -> dict[str, Any]:
    try:
        record = storage.parse_json(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: expected JSON, got {error}") from None
    storage.check_fields(where, record, {"step": int, "kind": str})
    if not 0 <= record["step"] < 2**31:
        raise ValueError(f"{where}: step: expected 0 to 2^31 - 1, got {record['step']}")
    numbers = dict.fromkeys((*record, "time"), (int, float))
    storage.check_fields(where, record, {**numbers, "step": int, "kind": str})
    return record


def truncate(folder: Path, step: int) -> None:
    """Drop the records that a run resumed from `step` writes again: all after it, and
    the evaluations at it. Atomic."""
    kept = [r for r in read(folder) if r["step"] + (r["kind"] != "train") <= step]
    if (folder / FILE).exists():
        lines = "".join(json.dumps(record) + "\n" for record in kept)
        storage.commit(folder / FILE, lines.encode())


class _Board:
    """TensorBoard's file, written synchronously: a writer thread would die silently on
    a full disk, and its queue, once full, would block the run for ever."""

    def __init__(self, folder: Path, first: int) -> None:
        from tensorboardX import record_writer, summary
        from tensorboardX.proto import event_pb2

        made: Any = event_pb2  # Its classes are made when it is imported.
        self._event, self._scalar = made.Event, summary.scalar
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"
        self._place = uploads.GrowingFile(folder / name)
        self._file = record_writer.RecordWriter(str(self._place.local))
        self._add(self._event(file_version="brain.Event:2"))
        # TensorBoard hides what an earlier start wrote of this and later steps.
        begun = made.SessionLog(status=made.SessionLog.START)
        self._add(self._event(step=first, session_log=begun))
        self._flushed = -FLUSH_SECONDS

    def _add(self, event: Any) -> None:
        event.wall_time = time.time()
        self._file.write(event.SerializeToString())

    def write(self, step: int, kind: str, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            summary = self._scalar(f"{kind}/{name}", value)
            self._add(self._event(step=step, summary=summary))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()

    def sync(self) -> None:
        if self._place.is_remote:
            self._file.flush()
            self._place.sync()

    def close(self) -> None:
        self._file.close()
        self._place.close()


class Log:
    """Writes each record to all places. Used on the first process only."""

    def __init__(self, folder: Path, *, first: int, steps: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        truncate(folder, first)
        self._folder = folder
        self._place = uploads.GrowingFile(folder / FILE)
        self._lines = self._place.local.open("a+", buffering=1)
        self._uploaded, self._pause = time.monotonic(), FLUSH_SECONDS
        self._board = _Board(folder / "tensorboard", first + 1)
        self._bar = _bar(first, steps)

    def write(self, step: int, kind: str, numbers: Mapping[str, float]) -> None:
        """One record: {"step", "kind", "time", **numbers}; kind is "train" or the name
        of an evaluation."""
        record = {"step": step, "kind": kind, "time": round(time.time(), 3), **numbers}
        with storage.name_os_errors(self._folder):
            if not self._place.is_remote and not (self._folder / FILE).exists():
                self._write_again(step)
            self._lines.write(json.dumps(record) + "\n")
            self._board.write(step, kind, numbers)
        if time.monotonic() - self._uploaded > self._pause:
            try:
                self.sync()
            except OSError as error:
                print(f"warning: the metrics were not uploaded: {error}", flush=True)

    def sync(self) -> None:
        """Upload the records to an object store; on a file system each is there once it
        is written. Raises OSError."""
        began = time.monotonic()
        self._place.sync()
        self._board.sync()
        self._uploaded = time.monotonic()
        taken = self._uploaded - began
        self._pause = max(FLUSH_SECONDS, taken / UPLOAD_FRACTION)

    def _write_again(self, step: int) -> None:
        """The files were removed while they were open: their content is still there."""
        self._lines.flush()
        self._lines.seek(0)
        content = self._lines.read().encode()
        self._lines.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        storage.commit(self._folder / FILE, content)
        self._lines = (self._folder / FILE).open("a+", buffering=1)
        self._board = _Board(self._folder / "tensorboard", step)
        print(f"warning: {self._folder / FILE} was removed, written again", flush=True)

    def print_line(self, step: int, kind: str, numbers: Mapping[str, float]) -> None:
        """Print one line, or advance the progress bar."""
        line = ", ".join(f"{name} {_short(value)}" for name, value in numbers.items())
        if self._bar is None:
            print(f"step {step:>6}  {kind}: {line}", flush=True)
        elif kind == "train":
            self._bar.set_postfix_str(line, refresh=False)
            self._bar.update(step - self._bar.n)
        else:
            self._bar.write(f"step {step:>6}  {kind}: {line}", file=sys.stdout)

    def close(self) -> None:
        """Flush everything to disk."""
        with storage.name_os_errors(self._folder), contextlib.ExitStack() as each:
            # Each is closed even if one before it fails.
            for place in (self._place, self._lines, self._board, self._bar):
                if place is not None:
                    each.callback(place.close)


def _bar(first: int, steps: int) -> Any:
    """A progress bar on a terminal; None where the output is a file or a pipe."""
    if not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    layout = "{percentage:3.0f}% |{bar:20}| {n}/{total}, {remaining} left, {postfix}"
    return tqdm(total=steps, initial=first, bar_format=layout, dynamic_ncols=True)


def _short(value: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{value:.4g}"


def plot(folder: Path, number: str = "loss") -> None:
    """`loss.png`: the number against the step, training and every evaluation; dotted
    where a leg of the run begins."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves: dict[str, list[tuple[int, float]]] = {}
    for record in read(folder):
        if number in record:
            curves.setdefault(record["kind"], []).append(
                (record["step"], record[number])
            )
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.add_subplot(xlabel="step", ylabel=number)
    for kind, points in curves.items():
        marker = "" if kind == "train" else "o"
        panel.plot(*zip(*points, strict=True), label=kind, marker=marker)
    for step in leg_starts(folder):
        panel.axvline(step, color="gray", linestyle=":")
    panel.grid(alpha=0.3)
    if curves:
        panel.legend()
    file = io.BytesIO()
    figure.savefig(file, dpi=120)
    storage.commit(folder / "loss.png", file.getvalue())


def leg_starts(folder: Path) -> list[int]:
    """The steps from which a run went on with other flags, data or versions."""
    file, record = folder / "run.json", {"legs": [], **_record_of(folder)}
    storage.check_fields(str(file), record, {"legs": list})
    for leg in record["legs"]:
        storage.check_fields(f"{file}: legs", leg, {"from_step": int})
    return [leg["from_step"] for leg in record["legs"][1:]]


def table(folders: Sequence[Path | str]) -> str:
    """The last metrics of several runs side by side: a line for each metric and for
    each flag that differs, a column for each run folder.

    Raises ValueError for a folder without metrics.
    """
    columns = [_summary(checks.parse_path(folder)) for folder in folders]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    keys.sort(key=lambda key: not key.startswith("--"))
    rows = [["", *(str(folder) for folder in folders)]]
    for key in keys:
        cells = [column.get(key, "") for column in columns]
        if not key.startswith("--") or len(set(cells)) > 1:
            rows.append([key, *cells])
    return align(rows)


def align(rows: Sequence[Sequence[str]]) -> str:
    """The cells of a table in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(lines)


def read_flags(folder: Path) -> dict[str, Any]:
    """The flags in the run's record; none without a record."""
    return _record_of(folder).get("flags", {})


def _record_of(folder: Path) -> dict[str, Any]:
    file = folder / "run.json"
    return storage.read_json(file, {"flags": dict}) if file.exists() else {}


def last_values(folder: Path) -> dict[str, float]:
    """The last value of each metric as kind/name. ValueError for a folder without
    metrics."""
    records = read(folder)
    if not records:
        raise ValueError(f"{folder}: expected a run folder with {FILE}, got none")
    return {
        f"{record['kind']}/{name}": value
        for record in records
        for name, value in record.items()
        if name not in ("step", "kind", "time")
    }


def _summary(folder: Path) -> dict[str, str]:
    """Flags as --name, and the last value of each metric as kind/name."""
    numbers = {name: _short(value) for name, value in last_values(folder).items()}
    flags = {f"--{name}": str(value) for name, value in read_flags(folder).items()}
    return {**flags, "step": str(read(folder)[-1]["step"]), **numbers}
