"""The lock of a folder in an object store, which has no locks: a lease.

The holder is who created the object of the highest number in `folder`, which the store
lets one process do; it writes the object again every `BEAT_SECONDS`. Another process
watches: an object that changes has a holder that lives, and one that does not change
for `DEAD_SECONDS` has none, so that the next number may be created. No clocks are
compared. A holder that finds a higher number has lost the lease.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

BEAT_SECONDS = 15.0
DEAD_SECONDS = 60.0
POLL_SECONDS = 1.0


@contextmanager
def hold(folder: Any, what: str, *, on_loss: Callable[[str], Any] | None = None) -> Any:
    """Hold the lease in `folder`, an `object_store.ObjectPath`, for this process.

    on_loss: called with one line, in another thread, when another process took the
    lease; by default it ends this process. ValueError, which names the holder, where
    that lives; a holder that died is waited for, `DEAD_SECONDS` at most.
    """
    number = _acquire(folder, what)
    place, stop = folder / _name(number), threading.Event()
    beats = threading.Thread(
        target=_beat, args=(folder, number, what, stop, on_loss or _end), daemon=True
    )
    beats.start()
    try:
        yield
    finally:
        stop.set()
        beats.join()
        if _highest(folder) == number:
            place.write_bytes(_content(number, released=True))


def _name(number: int) -> str:
    return f"{number:06}.json"


def _highest(folder: Any) -> int:
    if not folder.is_dir():
        return 0
    names = (path.name.removesuffix(".json") for path in folder.iterdir())
    return max((int(name) for name in names if name.isdigit()), default=0)


def _content(beat: int, *, released: bool = False) -> bytes:
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    line = f"process {os.getpid()} on {socket.gethostname()}, at {since}"
    fields = {"holder": line, "beat": beat, "released": released}
    return json.dumps({**fields, "pid": os.getpid(), "machine": _machine()}).encode()


def _machine() -> str:
    """This start of this machine, and the processes that this one can see."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _acquire(folder: Any, what: str) -> int:
    while True:
        number = _highest(folder)
        if number:
            _await_end(folder / _name(number), what)
        if (folder / _name(number + 1)).create(_content(0)):
            break
    # The listing above may have been older than a holder that came and went.
    if _highest(folder) != number + 1:
        raise ValueError(f"{what}: expected no other process that trains there")
    for path in folder.iterdir():
        if path.name < _name(number + 1):
            path.unlink(missing_ok=True)
    return number + 1


def _await_end(place: Any, what: str) -> None:
    """Return when the holder at `place` released the lease or is dead."""
    content, found = _read(place)
    if found is None or found.get("released") or _is_dead_here(found):
        return
    holder = found.get("holder", "an unknown one")
    print(
        f"{what}: in use by {holder}; waiting up to {DEAD_SECONDS:.0f} s for a sign of "
        "life",
        flush=True,
    )
    deadline = time.monotonic() + DEAD_SECONDS
    while time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        latest, found = _read(place)
        if found is None or found.get("released"):
            return
        if latest != content:
            raise ValueError(
                f"{what}: expected no other process that trains there, got {holder}"
            )


def _read(place: Any) -> tuple[bytes, dict[str, Any] | None]:
    try:
        content = place.read_bytes()
        return content, json.loads(content)
    except FileNotFoundError:
        return b"", None
    except ValueError:
        return b"", {}


def _is_dead_here(record: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine and is gone."""
    if not record.get("machine") or record["machine"] != _machine():
        return False
    try:
        os.kill(int(record["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError):
        return False
    return False


def _beat(
    folder: Any,
    number: int,
    what: str,
    stop: threading.Event,
    on_loss: Callable[[str], Any],
) -> None:
    beat = 0
    while not stop.wait(BEAT_SECONDS):
        beat += 1
        try:
            if (highest := _highest(folder)) > number:
                _, found = _read(folder / _name(highest))
                on_loss(
                    f"{what}: another process took it: {(found or {}).get('holder')}"
                )
                return
            (folder / _name(number)).write_bytes(_content(beat))
        except OSError as error:
            print(f"warning: {what}: the lock was not renewed: {error}", flush=True)


def _end(line: str) -> None:
    """Two processes would write one run."""
    print(f"error: {line}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)
