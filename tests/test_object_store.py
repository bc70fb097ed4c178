"""Names in an object store behave as the paths of pathlib that a run uses."""

import hashlib
import sys

import fake_store
import gcs_emulator
import pytest
from fsspec.registry import _registry

from transformer import checks, object_store, storage


@pytest.fixture(scope="module")
def emulator():
    """The environment of an emulator of Cloud Storage."""
    with gcs_emulator.serve() as env:
        yield env


@pytest.fixture(params=["fake", "emulator"])
def any_folder(request, tmp_path, monkeypatch):
    """A folder in an empty store, or in the emulator."""
    if request.param == "fake":
        fake_store.install(tmp_path, monkeypatch)
        return checks.parse_path("gs://bucket/a")
    for name, value in request.getfixturevalue("emulator").items():
        monkeypatch.setenv(name, value)
    return checks.parse_path(f"gs://bucket/{tmp_path.name}")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """gs://bucket/a of an empty store."""
    fake_store.install(tmp_path, monkeypatch)
    return checks.parse_path("gs://bucket/a")


def test_an_object_is_written_whole_and_read(any_folder):
    folder = any_folder
    storage.commit_files(folder, {"b.txt": b"one", "c/d.txt": b"two"})
    assert (folder / "b.txt").read_bytes() == b"one"
    assert (folder / "c/d.txt").read_text() == "two"
    with (folder / "b.txt").open() as file:
        assert file.read() == "one"
    assert (folder / "b.txt").stat().st_size == 3


def test_a_folder_is_what_names_have_in_common(any_folder):
    folder = any_folder
    assert not folder.exists() and not folder.is_dir()
    folder.mkdir(parents=True)
    assert not folder.exists() and list(folder.glob("*")) == []
    storage.commit_files(folder, {"b.txt": b"", "c/d.txt": b"", "c/c": b""})
    assert folder.is_dir() and (folder / "c").is_dir() and not folder.is_file()
    assert [path.name for path in folder.iterdir()] == ["b.txt", "c"]
    assert [path.name for path in (folder / "c").iterdir()] == ["c", "d.txt"]
    assert [str(path) for path in folder.glob("c/*.txt")] == [f"{folder}/c/d.txt"]
    below = [path.relative_to(folder).as_posix() for path in storage.files(folder)]
    assert below == ["b.txt", "c/c", "c/d.txt"]
    (folder / "b.txt").unlink()
    (folder / "c").rmtree()
    assert not folder.exists()
    (folder / "b.txt").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (folder / "b.txt").unlink()


def test_one_of_those_who_create_an_object_does(folder):
    assert (folder / "b").create(b"first") and not (folder / "b").create(b"second")
    assert (folder / "b").read_bytes() == b"first"


def test_a_folder_is_never_moved_in_part(folder, monkeypatch):
    """With `last` in it, it has all files: at each request that changes something."""
    content = {"a": b"1", "marker": b"2", "z/b": b"3", "z/marker": b"4"}
    source, target = folder / "5", folder / "legs/5"
    storage.commit_files(source, content)

    def whole(place):
        names = (path.relative_to(place).as_posix() for path in storage.files(place))
        return set(names) == set(content) or not (place / "marker").exists()

    def check(change):
        def checked(store, *args, **options):
            change(store, *args, **options)
            states.append(whole(source) and whole(target))

        return checked

    states = []
    for name in ("pipe_file", "rm_file"):
        change = getattr(fake_store.FakeStore, name)
        monkeypatch.setattr(fake_store.FakeStore, name, check(change))
    storage.move(source, target, last="marker")
    assert states == 8 * [True] and not source.exists()
    moved = {
        p.relative_to(target).as_posix(): p.read_bytes() for p in target.rglob("*")
    }
    assert moved == content


def test_the_store_knows_the_md5_of_its_files(any_folder):
    storage.commit_files(any_folder, {"b.txt": b"one", "c/d.txt": b"two"})
    expected = {"b.txt": b"one", "c/d.txt": b"two"}
    found = any_folder.md5s()
    assert found == {k: hashlib.md5(v).hexdigest() for k, v in expected.items()}


def test_digests_are_those_that_the_store_knows(folder, tmp_path):
    """No content is read; a copy of the folder on disk is verified by them, and a
    store by those that were written on disk."""
    storage.commit_files(folder, {"b.txt": b"one", "c/d.txt": b"two"})
    storage.write_digests(folder, "digests.json", storage.files(folder))
    digests = (folder / "digests.json").read_text()
    assert digests.count('"md5:') == 2
    log = next(tmp_path.glob("requests-*"))
    log.unlink()
    assert storage.first_mismatch(folder, "digests.json") is None
    gets = [line for line in log.read_text().splitlines() if line.startswith("get")]
    assert gets == ["get bucket/a/digests.json"]
    copy = tmp_path / "copy"
    for file in storage.files(folder):
        name = file.relative_to(folder).as_posix()
        storage.commit_files(copy, {name: file.read_bytes()})
    assert storage.first_mismatch(copy, "digests.json") is None
    (copy / "b.txt").write_bytes(b"two")
    assert "b.txt: expected the digest" in str(
        storage.first_mismatch(copy, "digests.json")
    )
    storage.write_digests(copy, "digests.json", [copy / "b.txt"])
    (folder / "digests.json").write_bytes((copy / "digests.json").read_bytes())
    assert "b.txt: expected the digest" in str(
        storage.first_mismatch(folder, "digests.json")
    )


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    for name in ("gs", "gcs"):
        monkeypatch.delitem(_registry, name, raising=False)
    with pytest.raises(ValueError, match="expected the library gcsfs .pip install 't"):
        object_store.check_access("--workdir", checks.parse_path("gs://b/a"))


def test_any_failure_of_the_library_is_an_os_error(folder, monkeypatch):
    """That a run ends with, in one line."""

    def fail(*args, **options):
        raise RuntimeError("Anonymous caller\\n does not have storage.objects.get")

    monkeypatch.setattr(fake_store.FakeStore, "cat_file", fail)
    with pytest.raises(OSError, match="^gs://bucket/a/b: Anonymous caller"):
        (folder / "b").read_bytes()


def test_a_missing_object_is_named_as_a_missing_file(folder, monkeypatch):
    """Whatever the library says of it: gcsfs says the URL that it asked."""

    def fail(*args, **options):
        raise FileNotFoundError("https://storage/download/o/a%2Fb?alt=media")

    monkeypatch.setattr(fake_store.FakeStore, "cat_file", fail)
    with pytest.raises(FileNotFoundError) as raised:
        (folder / "b").read_bytes()
    assert raised.value.filename == "gs://bucket/a/b"
    assert raised.value.strerror == "No such file or directory"
