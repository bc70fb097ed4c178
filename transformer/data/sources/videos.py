"""Labeled videos of video: load("videos/", frames=16)."""

from __future__ import annotations

from pathlib import Path

from transformer.data.records import Records
from transformer.data.sources import HELD_OUT, held_out_fraction, own_path


def load(
    source: str | Path, *, frames: int, columns: str = "", held_out: float = HELD_OUT
) -> Records:
    """`file` and `label`, as `video_folder.read`. frames: of a video, that are used.
    ValueError for `columns`: there is no table of videos."""
    path = own_path(source, "videos", held_out)
    if path is None:
        raise ValueError(f"expected a folder of videos, got none at {str(source)!r}")
    if columns:
        raise ValueError(f"--columns: expected none for videos, got {columns!r}")
    from transformer.data.readers import video_folder

    held_out = held_out_fraction(source, held_out)
    return video_folder.read(path, frames=frames, held_out=held_out)
