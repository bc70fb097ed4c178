"""Processes that are timed in turn, so that noise of the machine is shared by all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Contender:
    """`python -m benchmarks.MODULE --worker=NAME`, which answers requests: one line of
    its standard input each, answered by `answer`. A name with tcmalloc has that
    allocator."""

    def __init__(self, module: str, name: str, flags: Sequence[str]) -> None:
        self.name = name
        self.results: list[Any] = []
        environment = dict(os.environ)
        if "tcmalloc" in name:
            environment["LD_PRELOAD"] = tcmalloc() or ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", f"--worker={name}", *flags],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, request: str) -> dict[str, Any]:
        """The answer to one line. Raises RuntimeError if the process died."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{request}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise RuntimeError(f"{self.name} ended: exit status {self.process.wait()}")

    def steps(self, count: int) -> list[float]:
        """Seconds of each of `count` further steps; their results (losses, tokens) are
        appended to `results`."""
        found = self.ask(str(count))
        self.results += found["results"]
        return found["seconds"]

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def answer(**values: Any) -> None:
    """Answer the request that a worker has read."""
    print("answer", json.dumps(values), flush=True)


def tcmalloc() -> str | None:
    """The path of the tcmalloc library, where there is one."""
    folders = ("/usr/lib", "/usr/local/lib", "/usr/lib64")
    found = (f for d in folders for f in Path(d).rglob("libtcmalloc*.so.*"))
    return next((str(f) for f in sorted(found) if "debug" not in f.name), None)


def bandwidth(*, megabytes: int = 512) -> float:
    """Bytes a second of a sum over an array far larger than the caches, in two threads
    because numpy uses one."""
    from concurrent.futures import ThreadPoolExecutor

    halves = np.ones((2, megabytes * 2**20 // 16), np.float64)
    best = float("inf")
    with ThreadPoolExecutor(2) as pool:
        for _ in range(9):
            start = time.perf_counter()
            list(pool.map(np.sum, halves))
            best = min(best, time.perf_counter() - start)
    return halves.nbytes / best
