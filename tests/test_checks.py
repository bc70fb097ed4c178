"""Paths of file systems and of object stores."""

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
