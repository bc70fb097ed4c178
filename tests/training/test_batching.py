"""Threads ahead of a function: its values in order, its errors, and an end."""

import itertools
import threading
import time
import traceback

import pytest

from transformer.training import batching


def test_prefetch_is_the_function_in_order():
    def slow(step):
        time.sleep(0.01 * (step % 3))
        return step * step

    for depth, threads in itertools.product((1, 4), (1, 3)):
        values = batching.prefetch(slow, range(5, 20), depth=depth, threads=threads)
        assert list(values) == [step * step for step in range(5, 20)]
    assert list(batching.prefetch(slow, range(0))) == []


def test_prefetch_runs_ahead_but_not_away():
    started = []

    def note(step):
        started.append(step)
        return step

    values = batching.prefetch(note, itertools.count(), depth=3)
    wait_for(lambda: len(started) == 3)
    for expected in range(5):
        assert next(values) == expected
        wait_for(lambda n=expected: len(started) == n + 4)
    time.sleep(0.05)
    assert started == list(range(8))
    values.close()


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_prefetch_raises_where_it_happened():
    def fails(step):
        if step == 3:
            raise RuntimeError("row 3 is bad")
        return step

    values = batching.prefetch(fails, range(10), depth=5, threads=2)
    assert [next(values) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="row 3 is bad") as caught:
        next(values)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == "fails"
    wait_for(lambda: not threads_alive())


def test_prefetch_stops_cleanly():
    values = batching.prefetch(lambda step: step, itertools.count(), threads=3)
    assert next(values) == 0 and threads_alive()
    values.close()
    assert not threads_alive()
    with pytest.raises(ValueError, match="depth and threads >= 1, got 0, 1"):
        batching.prefetch(lambda step: step, range(3), depth=0)


def threads_alive():
    return [t for t in threading.enumerate() if t.name.startswith("prefetch")]
