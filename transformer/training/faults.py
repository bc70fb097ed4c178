"""How a run ends early: asked to stop, broken, or stuck. Never half-saved."""

from __future__ import annotations

import errno
import faulthandler
import itertools
import logging
import os
import signal
import sys
import traceback
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

TERMINATED = 128 + signal.SIGTERM
# What an OSError says when the disk, not the program, is at fault.
STORAGE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
)
# How long a step may take among several processes; where an honest one takes longer,
# say so in the environment.
WATCHDOG_SECONDS = float(os.environ.get("TRANSFORMER_STUCK_SECONDS", 45))
COMPILING_SECONDS = 1800.0

_asked: list[int] = []
_calls = itertools.count()


class Terminated(Exception):
    """SIGTERM came; what had been reached is saved."""


class NonFinite(Exception):
    """The loss or a gradient is no number; nothing after it is saved."""


def explained(error: Exception) -> bool:
    """Whether the error's message tells a person all: the numbers or the disk, not the
    program, are at fault. An error of saving has no number of its own."""
    if isinstance(error, OSError):
        return error.errno is None or error.errno in STORAGE
    return isinstance(error, NonFinite)


def listen() -> None:
    """From here on SIGTERM asks the loop to save and stop, where it next looks.

    Among several processes JAX listens already, and agrees on a common place to stop.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        _asked.append(number)

    _asked.clear()
    if jax.process_count() == 1:
        signal.signal(signal.SIGTERM, ask)


def stop_at_once() -> None:
    """From here on, all being saved, SIGTERM raises Terminated wherever it finds this
    process, and at once if it came before. Among several processes JAX listens."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    if jax.process_count() == 1:
        signal.signal(signal.SIGTERM, stop)
        if _asked:
            raise Terminated


def asked_to_stop() -> bool:
    """Whether to save and stop here: with several processes, which must all call this
    equally often, at the same call on each."""
    if jax.process_count() == 1:
        return bool(_asked)
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(next(_calls))


def die_loudly() -> None:
    """Among several processes an exception ends this one at once, traceback shown:
    waiting politely at the exit barrier would hang the others for minutes."""

    def hook(kind: Any, error: Any, trace: Any) -> None:
        traceback.print_exception(kind, error, trace)
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(1)

    sys.excepthook = hook


def hush() -> None:
    """When saving fails, those of its parts that are still under way find nobody who
    waits for them, and would print a traceback each around the one line that tells."""
    shown = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            shown(unraisable)

    sys.unraisablehook = hook
    logging.getLogger("asyncio").addFilter(
        lambda record: "exception was never retrieved" not in record.getMessage()
    )


def watch(*, compiling: bool = False) -> None:
    """Among several processes, exit with every thread's traceback unless called again
    in time: one that is stuck would otherwise hang all for ever. `compiling`: what
    comes next may compile or write to a slow disk, so be patient."""
    if jax.process_count() > 1:
        seconds = COMPILING_SECONDS if compiling else WATCHDOG_SECONDS
        faulthandler.dump_traceback_later(seconds, exit=True)


def unwatch() -> None:
    """The watchdog rests."""
    faulthandler.cancel_dump_traceback_later()


def check_finite(step: int, loss: float, norms: Any, last: tuple[int, float]) -> None:
    """Raise NonFinite, naming the step, the first bad parameter and what was finite
    last, unless loss and every gradient norm of the step are numbers."""
    leaves = jax.tree_util.tree_flatten_with_path(norms)[0]
    bad = [path for path, norm in leaves if not np.isfinite(norm)]
    if np.isfinite(loss) and not bad:
        return
    first = "every gradient is finite"
    if bad:
        name = jax.tree_util.keystr(bad[0], simple=True, separator="/")
        first = f"first bad gradient: {name}"
    raise NonFinite(
        f"step {step}: expected a finite loss, got {loss}; {first}; "
        f"last finite loss {last[1]:.4f} at step {last[0]}; nothing after is saved"
    )


def check_sound(step: int, params: Any) -> None:
    """Raise NonFinite, naming the first bad parameter, unless all are numbers."""
    leaves = jax.tree_util.tree_flatten_with_path(jax.device_get(_sound(params)))[0]
    for path, sound in leaves:
        if not sound:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise NonFinite(
                f"step {step}: expected finite parameters, got {name} with values "
                "that are not; it is not saved"
            )


@jax.jit
def _sound(params: Any) -> Any:
    return jax.tree.map(lambda a: jnp.isfinite(a).all(), params)
