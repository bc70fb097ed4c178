"""How a run ends early: by a non-finite number, by a hang, while it compiles. What was
saved stays whole."""

from __future__ import annotations

import errno
import faulthandler
import logging
import os
import re
import sys
import threading
import traceback
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer import axes, runtime_messages
from transformer.training import signals

# Errors of the disk, not of the program.
STORAGE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EISDIR,  # A folder where a file is to be written.
    errno.ENOTDIR,
)
SMALLER = "a smaller --batch_size needs less"
# In the message of a collective whose other process ended.
PEER_LOST = ("closed by peer", "Connection reset", "Broken pipe", "unhealthy")
# The longest step among several processes; the environment allows longer ones.
WATCHDOG_SECONDS = 45.0
WATCHDOG_VARIABLE = "TRANSFORMER_STUCK_SECONDS"
COMPILING_SECONDS = 1800.0
# Between two looks at the signals while XLA compiles.
POLL_SECONDS = 0.1


class NonFinite(Exception):
    """The loss, a gradient or a parameter is not finite; nothing after it is saved."""


class OutOfMemory(Exception):
    """A program needs more memory than there is."""


def one_line(error: BaseException) -> str | None:
    """The message of an error that needs no traceback, as the numbers, the disk, the
    memory or another process are at fault; None for a fault of the program. A failed
    save has no errno."""
    text = str(error)
    if isinstance(error, OSError):
        return text if error.errno is None or error.errno in STORAGE else None
    if isinstance(error, (NonFinite, OutOfMemory)):
        return text
    if is_out_of_memory(error):
        return f"{' '.join(text.split())[:200] or 'out of memory'}; {SMALLER}"
    if is_peer_lost(error):
        return runtime_messages.PEER_LOST.removeprefix("error: ").rstrip()
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a program needs, or needed, more memory than there is."""
    text = str(error)
    exhausted = "RESOURCE_EXHAUSTED" in text or "Out of memory" in text
    known = isinstance(error, (MemoryError, OutOfMemory))
    return known or (_of_runtime(error) and exhausted)


def is_peer_lost(error: BaseException) -> bool:
    """Whether a collective failed because another process ended."""
    return _of_runtime(error) and any(mark in str(error) for mark in PEER_LOST)


def _of_runtime(error: BaseException) -> bool:
    return isinstance(error, jax.errors.JaxRuntimeError)


def exit_on_exception() -> None:
    """Among several processes an exception ends this one at once, with its message or
    traceback: the exit barrier would hang the others for minutes."""

    def hook(kind: Any, error: Any, trace: Any) -> None:
        line = one_line(error)
        if line is None or os.environ.get("TRANSFORMER_TRACEBACK"):
            traceback.print_exception(kind, error, trace)
        else:
            print(f"error: {line}", file=sys.stderr)
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


def watchdog_seconds() -> float:
    """The limit of a step: that of the environment, or WATCHDOG_SECONDS. ValueError for
    one that is no number of seconds."""
    text = os.environ.get(WATCHDOG_VARIABLE, str(WATCHDOG_SECONDS))
    found = re.fullmatch(r"[0-9]{1,8}(\.[0-9]*)?", text, re.ASCII)
    if found is None or not float(text):
        raise ValueError(
            f"{WATCHDOG_VARIABLE}: expected a number of seconds above 0, got {text!r}"
        )
    return float(text)


def arm_watchdog(*, compiling: bool = False) -> None:
    """On a mesh of several processes, exit with every thread's traceback unless called
    again within WATCHDOG_SECONDS: a hanging process would hang all of them for ever.

    compiling: allow COMPILING_SECONDS, for compilation and writes to a slow disk.
    """
    if axes.spans_processes():
        seconds = COMPILING_SECONDS if compiling else watchdog_seconds()
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
        f"last finite loss {last[1]:.4f} at step {last[0]}; nothing after is saved; "
        "with a lower learning rate the same command goes on from the last saved step"
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
    of the steps may be tight. A single one raises signals.Termination while XLA
    compiles.
    """
    arm_watchdog(compiling=True)
    lowered = function.lower(*arguments)
    if axes.spans_processes():
        from jax.experimental import multihost_utils

        program = lowered.compile()
        multihost_utils.sync_global_devices("compiled")
    else:
        program = _wait_for(lowered.compile)
    arm_watchdog()
    return program


def _wait_for(function: Any) -> Any:
    """`function()` in a thread: the signal handlers of Python run in this one, and XLA
    would not let them."""
    results: list[Any] = []

    def call() -> None:
        try:
            results.append((function(), None))
        except BaseException as error:
            results.append((None, error))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        if signals.stop_requested():
            raise signals.Termination
    value, error = results[0]
    if error is not None:
        raise error
    return value
