"""Threads that run ahead of a pure function of the step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Value = TypeVar("Value")


def ahead(
    function: Callable[[int], Value],
    steps: Iterable[int],
    *,
    depth: int = 2,
    threads: int = 1,
) -> Generator[Value, None, None]:
    """`function(step)` for each of `steps`, in order, computed up to `depth` ahead.

    Work begins at the call. What the function raises is raised at its step, with the
    thread's traceback; `close()` (or the end, or an error) stops the threads.
    """
    if depth < 1 or threads < 1:
        raise ValueError(f"expected depth and threads >= 1, got {depth}, {threads}")
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
    coming = iter(steps)
    waiting: deque[Future[Value]] = deque()

    def fill() -> None:
        while len(waiting) < depth:
            step = next(coming, None)
            if step is None:
                return
            waiting.append(pool.submit(function, step))

    def values() -> Generator[Value, None, None]:
        try:
            while waiting:
                value = waiting.popleft().result()
                fill()
                yield value
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    fill()
    return values()
