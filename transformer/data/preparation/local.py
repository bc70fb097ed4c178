"""A corpus to shards on this machine: parallel processes, a bar, restarts."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from transformer.data.preparation import jobs
from transformer.data.preparation.jobs import Job
from transformer.data.preparation.runs import Run
from transformer.data.text.shard_index import Shard

LINE_SECONDS = 15.0
# Between two looks at whether the process that began the work is still there.
POLL_SECONDS = 0.5


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Callable[[int], Any]]:
    """A function to be called with what was done: it moves a bar on a terminal, else
    prints a line every 15 s."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        options: Any = {"unit": unit, "unit_scale": True, "dynamic_ncols": True}
        with tqdm(total=total, desc=what, leave=False, **options) as bar:
            yield bar.update
        return
    done, last = 0, time.monotonic()

    def print_line(more: int) -> None:
        nonlocal done, last
        done += more
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            print(f"{what}: {done / max(total, 1):.0%} of {total:,} {unit}", flush=True)

    yield print_line


_watch: list[threading.Thread] = []


def _end_with_parent(parent: int) -> None:
    """End this worker when the process that started it has ended, however that was:
    another start may begin to write the same files."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os._exit(1)

    if os.getpid() != parent and not _watch:
        _watch.append(threading.Thread(target=look, daemon=True))
        _watch[0].start()


def _work(parent: int, function: Callable[[Any], Any], item: Any) -> Any:
    _end_with_parent(parent)
    return item, function(item)


def _over(
    function: Callable[[Any], Any], items: Sequence[Any], workers: int
) -> Iterator[tuple[Any, Any]]:
    """(item, function(item)) as they are done."""
    if workers == 1 or len(items) < 2:
        yield from ((item, function(item)) for item in items)
        return
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    # Processes of loky import neither the program's main module nor JAX.
    options: Any = {"return_as": "generator_unordered", "idle_worker_timeout": 10}
    run = joblib.Parallel(n_jobs=min(workers, len(items)), **options)
    parent = os.getpid()
    try:
        results: Any = run(joblib.delayed(_work)(parent, function, i) for i in items)
        yield from results
    except TerminatedWorkerError:
        raise ValueError(
            "expected all worker processes to go on, got one that was killed, as for "
            "want of memory; the same command goes on, --workers=1 needs the least"
        ) from None


def _cores() -> int:
    import joblib

    return joblib.cpu_count()  # Those of the container.


def execute(job: Job, *, workers: int | None) -> jobs.Result:
    """Encode all units, then write all shards that are not intact, and the index.
    workers: processes; None: one for each core."""
    workers = workers or _cores()
    total = sum(source.size for unit in job.units for source in unit.sources)
    found: list[Run] = []
    start, encoded = time.monotonic(), 0
    with progress("encode", total, "B") as advance:
        for unit, (run, tokens) in _over(partial(jobs.encode, job), job.units, workers):
            found.append(run)
            encoded += tokens
            advance(sum(source.size for source in unit.sources))
    seconds = time.monotonic() - start
    wanted = jobs.missing_shards(job, found)
    write = partial(jobs.write_shard, job, found)
    made: list[Shard] = []
    with progress("shuffle", len(wanted), "shards") as advance:
        for _, shard in _over(write, wanted, workers):
            made.append(shard)
            advance(1)
    jobs.write_index(job, found, made)
    return jobs.Result(encoded, seconds)
