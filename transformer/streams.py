"""Standard output and error of a process that must go on when nobody reads them."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from typing import Any, TextIO

OUT = "standard output"
_LOST = 128 + signal.SIGPIPE


class _Stream:
    """A text stream whose failed writes are reported once, on `other`, and dropped."""

    def __init__(
        self, stream: TextIO, other: TextIO, name: str, *, leave: bool
    ) -> None:
        self._stream, self._other, self._name = stream, other, name
        self._leave = leave
        self.lost = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write `text`, or drop it once the stream is lost."""
        if not self.lost:
            try:
                return self._stream.write(text)
            except UnicodeEncodeError as error:
                # The terminal's encoding lacks a character: the stream is not lost.
                shown = text.encode(error.encoding, errors="backslashreplace")
                self._stream.write(shown.decode(error.encoding))
            except (OSError, ValueError) as error:
                self._lose(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each of `lines`."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, unless the stream is lost."""
        if not self.lost:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._lose(error)

    def _lose(self, error: Exception) -> None:
        self.lost = True
        # The buffer still holds the text; at exit Python would fail to write it.
        with open(os.devnull, "w") as nothing:
            if isinstance(error, OSError):
                os.dup2(nothing.fileno(), self._stream.fileno())
        if self._leave and getattr(error, "errno", None) == errno.EPIPE:
            os._exit(_LOST)
        cause = getattr(error, "strerror", None) or error
        if self._leave and self._name == OUT and isinstance(error, OSError):
            with contextlib.suppress(OSError, ValueError):
                self._other.write(f"error: {self._name} is lost ({cause})\n")
                self._other.flush()
            os._exit(1)
        line = f"warning: {self._name} is lost ({cause}); the run goes on\n"
        try:
            self._other.write(line)
            self._other.flush()
        except (OSError, ValueError):
            pass


def guard(*, leave: bool) -> None:
    """Let the process survive a closed pipe, a full device or a closed terminal.

    leave: end the process quietly, with status 141, when a pipe is closed, and with 1
    and a line where standard output cannot be written: for what only prints.
    Descriptors 0 to 2 that are closed are opened on the null device, so that no file of
    the run takes their number.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    # A stream whose descriptor was closed at the start is None.
    out = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    error = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    wrapped: Any = _Stream(out, error, OUT, leave=leave)
    sys.stdout = wrapped
    wrapped = _Stream(error, out, "standard error", leave=leave)
    sys.stderr = wrapped
