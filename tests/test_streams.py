"""A terminal whose encoding lacks a character."""

import io
import sys

from transformer import streams


def test_a_character_that_the_terminal_lacks_is_escaped(monkeypatch):
    """The stream is not lost by it."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    streams.guard(leave=False)
    print("caf\u00e9")
    print("more", flush=True)
    assert raw.getvalue() == b"caf\\xe9\nmore\n"
    assert sys.stderr.getvalue() == ""
