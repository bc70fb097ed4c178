"""Commit, claim, digests; cached folders: built once, complete, verified."""

import errno
import json
import os
import subprocess
import sys

import pytest

from transformer import storage


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "transformer"


def test_cache_home_follows_the_environment(monkeypatch, tmp_path, home):
    assert storage.cache_home() == home
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage.cache_home() == tmp_path / ".cache" / "transformer"


def test_a_cached_folder_is_built_once_and_completely(home):
    built = []

    def build(folder):
        built.append(folder)
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("a")

    for _ in range(2):
        assert storage.cached_folder("x/y", build) == home / "x/y"
    assert len(built) == 1 and (home / "x/y/sub/a").read_text() == "a"

    def fail(folder):
        (folder / "half").write_text("half")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        storage.cached_folder("x/z", fail)
    assert sorted(p.name for p in (home / "x").iterdir()) == ["y", "y.lock", "z.lock"]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "add", "seal"])
def test_a_damaged_cached_folder_is_rebuilt(home, damage):
    def build(folder):
        (folder / "a").write_bytes(bytes(10_000))

    file = storage.cached_folder("x", build) / "a"
    if damage == "flip":
        file.write_bytes(bytes(5_000) + b"\1" + bytes(4_999))
    if damage == "cut":
        file.write_bytes(bytes(9_999))
    if damage == "remove":
        file.unlink()
    if damage == "add":
        (home / "x" / "b").touch()
    if damage == "seal":
        (home / "x" / storage.SEAL).write_text("{")
    assert not storage.is_intact(home / "x")
    assert (storage.cached_folder("x", build) / "a").read_bytes() == bytes(10_000)
    assert storage.is_intact(home / "x")


def test_a_sampled_digest_covers_both_ends_of_a_large_file(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_BLOCK_BYTES", 16)
    monkeypatch.setattr(storage, "_BLOCKS", 8)
    file = tmp_path / "a"
    seen = set()
    for place in (None, 0, 999):
        data = bytearray(1000)
        if place is not None:
            data[place] = 1
        file.write_bytes(data)
        seen.add(storage.sampled_sha256(file))
    assert len(seen) == 3


def test_an_unwritable_cache_is_refused_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="cannot prepare .*XDG_CACHE_HOME") as caught:
        storage.cached_folder("x", lambda folder: None)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_refused_in_one_line(home):
    def build(folder):
        with open("/dev/full", "wb") as full:
            full.write(bytes(1 << 20))

    with pytest.raises(ValueError, match="cannot prepare .*No space left"):
        storage.cached_folder("x", build)
    assert not (home / "x").exists()


PREPARE = """
import sys, time
from transformer import storage

def slow(folder):
    with open(sys.argv[1], "a") as log:
        log.write("built\\n")
    time.sleep(0.5)
    (folder / "a").write_text("a" * 1000)

print((storage.cached_folder("slow", slow) / "a").read_text() == "a" * 1000)
"""


def test_two_processes_build_a_cached_folder_once(home, tmp_path):
    log = tmp_path / "log"
    command = [sys.executable, "-W", "error", "-c", PREPARE, str(log)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert log.read_text() == "built\n"
    assert outputs == [["True"], ["True"]]
    assert not list(home.rglob("*.building"))


KILLED = """
import sys, time
from transformer import storage

def slow(folder):
    (folder / "half").write_text("half")
    print("building", flush=True)
    time.sleep(60)

storage.cached_folder("x", slow)
"""


def test_a_killed_build_leaves_nothing_behind(home):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True
    )
    with process, process.stdout as lines:
        assert lines.readline() == "building\n"
        process.kill()
    assert (home / "x.building" / "half").exists() and not (home / "x").exists()
    path = storage.cached_folder("x", lambda folder: (folder / "a").touch())
    assert sorted(p.name for p in path.iterdir()) == ["a", storage.SEAL]
    assert sorted(p.name for p in home.iterdir()) == ["x", "x.lock"]


def test_the_seal_lists_every_file(home):
    path = storage.cached_folder("x", lambda folder: (folder / "a").touch())
    assert json.loads((path / storage.SEAL).read_text()).keys() == {"a"}
    assert os.access(path, os.R_OK)


def test_a_commit_replaces_the_file_or_leaves_it_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "a"
    storage.commit(file, b"first")
    storage.commit(file, b"second")
    assert file.read_bytes() == b"second"

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{file}'"):
        storage.commit(file, b"third")
    assert file.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("damage", ["content", "missing", "digests", "no digests"])
def test_the_first_mismatch_names_the_damaged_file(tmp_path, damage):
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_text(file.name)
    storage.write_digests(tmp_path, "digests.json", files)
    assert storage.first_mismatch(tmp_path, "digests.json") is None
    if damage == "content":
        files[1].write_text("c")
    if damage == "missing":
        files[1].unlink()
    if damage == "digests":
        (tmp_path / "digests.json").write_text("[]")
    if damage == "no digests":
        (tmp_path / "digests.json").unlink()
    message = storage.first_mismatch(tmp_path, "digests.json")
    assert message is not None
    assert message.startswith("digests.json: " if "digests" in damage else "b")
