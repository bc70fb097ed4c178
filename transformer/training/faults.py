"""How a run ends early: by SIGTERM, by a non-finite number, by a hang. What was saved
stays whole."""

from __future__ import annotations

import errno
import faulthandler
import itertools
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

TERMINATED = 128 + signal.SIGTERM
# Errors of the disk, not of the program.
STORAGE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
)
# The longest step among several processes; the environment allows longer ones.
WATCHDOG_SECONDS = float(os.environ.get("TRANSFORMER_STUCK_SECONDS", 45))
COMPILING_SECONDS = 1800.0

_signals: list[int] = []
_calls = itertools.count()


class Termination(Exception):
    """SIGTERM was received; the last step is saved."""


class NonFinite(Exception):
    """The loss, a gradient or a parameter is not finite; nothing after it is saved."""


def is_user_facing(error: Exception) -> bool:
    """Whether the message suffices without a traceback: the numbers or the disk, not
    the program, are at fault. A failed save has no errno."""
    if isinstance(error, OSError):
        return error.errno is None or error.errno in STORAGE
    return isinstance(error, NonFinite)


def install_sigterm_handler() -> None:
    """From here on SIGTERM makes the loop save and stop at the end of its step.

    Among several processes JAX handles it and agrees on a common step to stop at.
    """

    def record(number: int, frame: FrameType | None) -> None:
        _signals.append(number)

    _signals.clear()
    if jax.process_count() == 1:
        signal.signal(signal.SIGTERM, record)


@contextmanager
def restore_sigterm_handler() -> Iterator[None]:
    """At the end restore the handler of SIGTERM that was there at the start."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if jax.process_count() == 1 and before is not None:
            signal.signal(signal.SIGTERM, before)


def terminate_at_once() -> None:
    """From here on SIGTERM raises Termination at once, or now if it was received
    before: call it when all is saved. Among several processes JAX handles it."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Termination

    if jax.process_count() == 1:
        signal.signal(signal.SIGTERM, stop)
        if _signals:
            raise Termination


def stop_requested() -> bool:
    """Whether to save and stop here. Several processes must all call this equally
    often; they stop at the same call."""
    if jax.process_count() == 1:
        return bool(_signals)
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(next(_calls))


def exit_on_exception() -> None:
    """Among several processes an exception ends this one at once, with its traceback:
    the exit barrier would hang the others for minutes."""

    def hook(kind: Any, error: Any, trace: Any) -> None:
        traceback.print_exception(kind, error, trace)
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(1)

    sys.excepthook = hook


def silence_async_tracebacks() -> None:
    """Silence asyncio's 'exception was never retrieved' tracebacks of async saves that
    failed; the save error is raised once, in one line."""
    shown = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            shown(unraisable)

    sys.unraisablehook = hook
    logging.getLogger("asyncio").addFilter(
        lambda record: "exception was never retrieved" not in record.getMessage()
    )


def arm_watchdog(*, compiling: bool = False) -> None:
    """Among several processes, exit with every thread's traceback unless called again
    within WATCHDOG_SECONDS: a hanging process would hang all of them for ever.

    compiling: allow COMPILING_SECONDS, for compilation and writes to a slow disk.
    """
    if jax.process_count() > 1:
        seconds = COMPILING_SECONDS if compiling else WATCHDOG_SECONDS
        faulthandler.dump_traceback_later(seconds, exit=True)


def disarm_watchdog() -> None:
    """Turn the watchdog off."""
    faulthandler.cancel_dump_traceback_later()


def check_finite(step: int, loss: float, norms: Any, last: tuple[int, float]) -> None:
    """Raise NonFinite, with the step, the first bad parameter and the last finite loss,
    unless the loss and every gradient norm of the step are finite."""
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


def check_params_finite(step: int, params: Any) -> None:
    """Raise NonFinite, with the first bad parameter, unless all are finite."""
    leaves = jax.tree_util.tree_flatten_with_path(jax.device_get(_finite(params)))[0]
    for path, finite in leaves:
        if not finite:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise NonFinite(
                f"step {step}: expected finite parameters, got {name} with values "
                "that are not; it is not saved"
            )


@jax.jit
def _finite(params: Any) -> Any:
    return jax.tree.map(lambda a: jnp.isfinite(a).all(), params)


def compile_program(function: Any, *arguments: Any) -> Any:
    """The jitted `function` compiled for `arguments`, which are not consumed.

    Several processes leave together: a barrier after compilation, so that the watchdog
    of the steps may be tight.
    """
    arm_watchdog(compiling=True)
    program = function.lower(*arguments).compile()
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("compiled")
    arm_watchdog()
    return program
