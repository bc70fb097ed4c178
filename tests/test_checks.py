"""Paths of file systems and of object stores."""

import os
import socket
from pathlib import Path

import pytest

from transformer import checks


def test_a_path_of_a_file_system_is_one_of_pathlib():
    home = Path.home()
    for text in ("a/b", "/a", "./gs", "a:b", "c:/a", Path("a")):
        assert checks.parse_path(text) == Path(text)
        assert not checks.is_remote(checks.parse_path(text))
    assert checks.parse_path("~/a") == checks.parse_path(Path("~/a")) == home / "a"


def test_a_path_of_a_store_keeps_its_text():
    """Etils would make it absolute on the local disk."""
    found = checks.parse_path("gs://bucket/a") / "b"
    assert str(found) == str(found.absolute()) == "gs://bucket/a/b"
    assert str(found.expanduser().resolve()) == "gs://bucket/a/b"
    assert checks.is_remote(found) and checks.parse_path(found) is found
    assert found.parent / "b" == found and found.name == "b"
    assert found.relative_to(found.parent).as_posix() == "b"


@pytest.mark.parametrize("text", ["ftp://host/a", "gs://", "http://a/b", "file:///a"])
def test_other_schemes_are_refused(text):
    with pytest.raises(ValueError, match=f"of a bucket at gs://.*, got {text}$"):
        checks.parse_path(text)


def test_what_is_no_file_is_named(tmp_path):
    """What is not there is left to who opens it."""
    for path in (tmp_path / "none", tmp_path / "a" / "b", Path("a\0b"), Path(__file__)):
        assert checks.regular_file(path) is path
    os.mkfifo(tmp_path / "pipe")
    place, path = socket.socket(socket.AF_UNIX), tmp_path / "socket"
    with place, pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)  # The path of a socket is short.
        place.bind("socket")
        named = {"a pipe": tmp_path / "pipe", "a socket": path, "a folder": tmp_path}
        for got, path in (named | {"a device": Path("/dev/null")}).items():
            with pytest.raises(ValueError, match=f"{path}: expected a file, got {got}"):
                checks.regular_file(path)


def test_a_range_has_its_ends_but_for_open_ones():
    half = checks.Range(0, 1, open_high=True)
    assert [value in half for value in (-1e-9, 0, 0.5, 1, float("nan"))] == [
        *(False, True, True, False, False)
    ]
    assert str(half) == "[0, 1)" and 1 in checks.Range(0, 1)
