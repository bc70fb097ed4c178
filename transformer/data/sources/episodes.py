"""Episodes of observations, actions and rewards: load("episodes/")."""

from __future__ import annotations

from pathlib import Path

from transformer.data.records import Records
from transformer.data.sources import HELD_OUT, own_path


def load(source: str | Path, *, held_out: float = HELD_OUT) -> Records:
    """The episodes of the user's own folder, padded to the longest."""
    path = own_path(source, "episodes", held_out)
    if path is None:
        raise ValueError(f"expected a folder of episodes, got none at {source!r}")
    from transformer.data.readers import episode_files

    return episode_files.read(path, held_out=held_out)
