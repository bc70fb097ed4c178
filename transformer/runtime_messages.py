"""What the runtime of several processes prints before it ends one of them, in one line.

The runtime writes many lines and a stack of C++ to standard error, and aborts. No code
of this process runs then, so another one reads standard error: this file as a program.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys

PEER_LOST = (
    "error: another process of this run ended, or the connection to it was lost; its "
    "own output says why. Start all processes again with the same command: the run "
    "goes on from its last saved step (TRANSFORMER_TRACEBACK=1 shows what the runtime "
    "says)\n"
)
NOT_JOINED = (
    "error: not all processes of this run started in time; the output of the others "
    "says why. Start all of them with the same command and --processes "
    "(TRANSFORMER_TRACEBACK=1 shows what the runtime says)\n"
)
# The call of the runtime with which a process joins.
_JOINS = b"CoordinationService/RegisterTask"
# The first line of messages of the runtime, and the lines with which it aborts.
_BEGINS = re.compile(
    rb"[WEF]\d{4} .*(coordination_service|preemption_sync|client\.h:|distributed)|"
    rb"terminate called after throwing an instance of 'gloo::"
)
_ABORTS = re.compile(rb"F\d{4} |terminate called after throwing an instance of 'gloo::")
# The runtime aborts this soon after its message.
HOLD_SECONDS = 5.0
# Referenced, so that Python does not warn of a program that still runs.
_readers: list[subprocess.Popen[bytes]] = []


def condense_stderr() -> None:
    """Let a program read this process's standard error and write it on, with
    `PEER_LOST` or `NOT_JOINED` in place of an abort of the runtime because of another
    process. A second call does nothing."""
    if _readers or os.environ.get("TRANSFORMER_TRACEBACK"):
        return
    sys.stderr.flush()
    reader, writer = os.pipe()
    command = [sys.executable, "-I", "-S", __file__]
    _readers.append(subprocess.Popen(command, stdin=reader, stdout=2))
    os.dup2(writer, 2)
    os.close(reader)
    os.close(writer)


def relay(source: int, target: int) -> None:
    """Write the lines of the descriptor `source` to `target` until it is closed. Those
    after a message of the runtime wait, for it may be about to abort."""
    held: list[bytes] = []
    rest = b""
    while True:
        if held and not select.select([source], [], [], HOLD_SECONDS)[0]:
            _write(target, b"".join(held))
            held = []
        part = os.read(source, 1 << 16)
        if not part:
            break
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if held or _BEGINS.match(line):
                held.append(line + b"\n")
            else:
                _write(target, line + b"\n")
    if any(_ABORTS.match(line) for line in held):
        joins = any(_JOINS in line for line in held)
        _write(target, (NOT_JOINED if joins else PEER_LOST).encode())
    else:
        _write(target, b"".join(held) + rest)


def _write(target: int, content: bytes) -> None:
    while content:
        content = content[os.write(target, content) :]


if __name__ == "__main__":
    # What ends the process that is read must not end its reader.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    relay(0, 1)
