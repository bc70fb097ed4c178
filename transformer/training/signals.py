"""SIGTERM, SIGINT (Ctrl-C) and SIGHUP (a closed terminal) ask a run to save and stop.

A handler only sets a flag, which the loop reads between two steps: nothing is
interrupted within other code, so a save that has begun is completed. A second signal
ends the process at once.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_received: list[int] = []
_calls = itertools.count()


class Termination(Exception):
    """A signal was received; the last step is saved."""

    def __init__(self) -> None:
        number = _received[0] if _received else signal.SIGTERM
        self.status = 128 + number
        super().__init__(f"stopped by {signal.Signals(number).name}")


def _is_multiprocess() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _install(
    handler: Callable[[int, FrameType | None], None], *, agree: bool = True
) -> None:
    """agree: whether several processes stop at the same step."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        # Among several processes JAX handles SIGTERM, and they agree on a step.
        by_jax = agree and number == signal.SIGTERM and _is_multiprocess()
        # nohup and background jobs ignore signals: so does the run.
        if not by_jax and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def exit_at_once() -> None:
    """From here on a signal ends the process at once, in one line: for a process that
    has nothing to save."""

    def leave(number: int, frame: FrameType | None) -> None:
        line = f"stopped by {signal.Signals(number).name}\n"
        try:
            sys.stdout.flush()
            os.write(1, line.encode())
        except (OSError, RuntimeError):
            pass  # Nobody reads it, or the signal came within a flush.
        os._exit(128 + number)

    _install(leave)


def request_stop() -> None:
    """From here on a signal makes the loop save and stop at the end of its step."""

    def record(number: int, frame: FrameType | None) -> None:
        if _received:
            os._exit(128 + number)
        _received.append(number)
        if _is_multiprocess():
            os.kill(os.getpid(), signal.SIGTERM)

    _received.clear()
    _install(record)


def raise_at_once() -> None:
    """From here on a signal raises Termination at once, or now if one was received
    before: call it when all is saved."""

    def stop(number: int, frame: FrameType | None) -> None:
        _received.append(number)
        raise Termination

    _install(stop, agree=False)
    if _received and not _is_multiprocess():
        raise Termination


@contextmanager
def restore_handlers() -> Iterator[None]:
    """At the end restore the handlers that were there at the start."""
    before: dict[int, Any] = {n: signal.getsignal(n) for n in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None and not (
                    number == signal.SIGTERM and _is_multiprocess()
                ):
                    signal.signal(number, handler)


def stop_requested() -> bool:
    """Whether to save and stop here. The processes of a mesh must all call this equally
    often; they stop at the same call."""
    if not _is_multiprocess():
        return bool(_received)
    from jax.experimental import multihost_utils

    from transformer import axes

    if not axes.spans_processes():
        return bool(_received)
    return multihost_utils.reached_preemption_sync_point(next(_calls))
