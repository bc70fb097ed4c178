"""Output that lacks a character, or that nobody reads."""

import io
import os
import subprocess
import sys

import pytest

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


@pytest.mark.parametrize(("leave", "status"), [(True, 1), (False, 0)])
def test_a_full_device_fails_what_only_prints(leave, status):
    """Its output is the result; a run goes on."""
    code = f"from transformer import streams; streams.guard(leave={leave}); print(1)"
    code += "; import sys; sys.stdout.flush()"
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert ended.returncode == status
    (line,) = ended.stderr.splitlines()
    expected = "error: standard output is lost (" if leave else "warning: standard out"
    assert line.startswith(expected)


def test_a_closed_pipe_ends_compare_without_a_word(tmp_path):
    """`python -m transformer --help | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "transformer", "--help"],
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")
