"""What a run tells: JSON lines as the truth, TensorBoard, a progress bar, a plot."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "metrics.jsonl"


def read(folder: Path) -> list[dict[str, Any]]:
    """The records of a run folder in order; a line torn by a kill is left out."""
    file = folder / FILE
    records = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def cut(folder: Path, step: int) -> None:
    """Drop what a run that goes on from `step` will write again: all records after it,
    and the evaluations at it.

    The shorter file replaces the longer one at once, so a kill leaves one or the other.
    """
    kept = [r for r in read(folder) if r["step"] + (r["kind"] != "train") <= step]
    if (folder / FILE).exists():
        fresh = folder / f"{FILE}.fresh"
        fresh.write_text("".join(json.dumps(record) + "\n" for record in kept))
        fresh.replace(folder / FILE)


class Log:
    """Writes a record to every place at once. Used on the first process only."""

    def __init__(self, folder: Path, *, first: int, steps: int) -> None:
        from tensorboardX import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        cut(folder, first)
        self._lines = (folder / FILE).open("a", buffering=1)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first + 1)
        self._bar = _bar(first, steps)

    def write(self, step: int, kind: str, numbers: Mapping[str, float]) -> None:
        """One record: {"step", "kind", "time", **numbers}; kind is "train" or the name
        of an evaluation."""
        record = {"step": step, "kind": kind, "time": round(time.time(), 3), **numbers}
        self._lines.write(json.dumps(record) + "\n")
        for name, value in numbers.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def tell(self, step: int, kind: str, numbers: Mapping[str, float]) -> None:
        """One line on the terminal, or the bar moved on."""
        told = ", ".join(f"{name} {_short(value)}" for name, value in numbers.items())
        if self._bar is None:
            print(f"step {step:>6}  {kind}: {told}", flush=True)
        elif kind == "train":
            self._bar.set_postfix_str(told, refresh=False)
            self._bar.update(step - self._bar.n)
        else:
            self._bar.write(f"step {step:>6}  {kind}: {told}", file=sys.stdout)

    def close(self) -> None:
        """Flush everything to disk."""
        self._lines.close()
        self._board.close()
        if self._bar is not None:
            self._bar.close()


def _bar(first: int, steps: int) -> Any:
    """A bar where someone watches; None where the output is a file or a pipe."""
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
    """`loss.png`: the number against the step, training and every evaluation."""
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
    panel.grid(alpha=0.3)
    if curves:
        panel.legend()
    figure.savefig(folder / "loss.png", dpi=120)
