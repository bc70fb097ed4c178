"""Notices about a run's data, printed once: rows left out, texts cut off, weights."""

from __future__ import annotations

import functools


@functools.cache
def print_once(line: str) -> None:
    """Print `line`, unless this process has printed it before (an experiment that is
    derived from another loads the same data again)."""
    print(line, flush=True)
