"""Preparation: once, whole, checked, by one of many processes."""

import json
import os
import subprocess
import sys
import tracemalloc

import grain  # noqa: F401  (so that its import is not counted as memory of a row)
import numpy as np
import pytest

from transformer.data import cache, sources
from transformer.data.text import packing, tokenizers
from transformer.data.text import token_file as tokenised


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "transformer"


def test_home_follows_the_environment(monkeypatch, tmp_path, home):
    assert cache.home() == home
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.home() == tmp_path / ".cache" / "transformer"


def test_a_folder_is_built_once_and_whole(home):
    built = []

    def build(folder):
        built.append(folder)
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("a")

    for _ in range(2):
        assert cache.folder("x/y", build) == home / "x/y"
    assert len(built) == 1 and (home / "x/y/sub/a").read_text() == "a"

    def fail(folder):
        (folder / "half").write_text("half")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        cache.folder("x/z", fail)
    assert sorted(p.name for p in (home / "x").iterdir()) == ["y", "y.lock", "z.lock"]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "add", "seal"])
def test_a_damaged_folder_is_built_again(home, damage):
    def build(folder):
        (folder / "a").write_bytes(bytes(10_000))

    file = cache.folder("x", build) / "a"
    if damage == "flip":
        file.write_bytes(bytes(5_000) + b"\1" + bytes(4_999))
    if damage == "cut":
        file.write_bytes(bytes(9_999))
    if damage == "remove":
        file.unlink()
    if damage == "add":
        (home / "x" / "b").touch()
    if damage == "seal":
        (home / "x" / cache.SEAL).write_text("{")
    assert not cache.sound(home / "x")
    assert (cache.folder("x", build) / "a").read_bytes() == bytes(10_000)
    assert cache.sound(home / "x")


def test_flipped_tokens_are_noticed_and_encoded_again(home, tmp_path):
    (tmp_path / "text").write_text("some words\n" * 100)
    text = sources.text(tmp_path / "text")
    tokenizer = tokenizers.bytes_()
    before = np.array(tokenised.tokens(text, tokenizer, split="train").tokens)
    (file,) = home.rglob("tokens.bin")
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    after = tokenised.tokens(text, tokenizer, split="train").tokens
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("vocabulary", "dtype"), [(1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)]
)
def test_tokens_are_as_narrow_as_the_vocabulary(tmp_path, vocabulary, dtype):
    (tmp_path / "text").write_text("some words\n" * 100)
    text = sources.text(tmp_path / "text")
    tokenizer = tokenizers.bytes_()._replace(vocabulary=vocabulary, end=vocabulary - 1)
    split = tokenised.tokens(text, tokenizer, split="train")
    assert isinstance(split.tokens, np.memmap) and split.tokens.dtype == dtype
    assert split.tokens[-1] == vocabulary - 1
    assert split.offsets.tolist() == [0, len(split.tokens)]


def test_checksums_of_huge_files_see_their_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_BLOCK_BYTES", 16)
    monkeypatch.setattr(cache, "_BLOCKS", 8)
    file = tmp_path / "a"
    seen = set()
    for place in (None, 0, 999):
        data = bytearray(1000)
        if place is not None:
            data[place] = 1
        file.write_bytes(data)
        seen.add(tuple(cache.checksum(file)))
    assert len(seen) == 3


def test_an_unwritable_cache_is_one_clear_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="cannot prepare .*XDG_CACHE_HOME") as caught:
        cache.folder("x", lambda folder: None)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_clear_line(home):
    def build(folder):
        with open("/dev/full", "wb") as full:
            full.write(bytes(1 << 20))

    with pytest.raises(ValueError, match="cannot prepare .*No space left"):
        cache.folder("x", build)
    assert not (home / "x").exists()


PREPARE = """
import sys, time
from pathlib import Path
from transformer.data import cache, packing, sources, tokenizers

def slow(folder):
    with open(sys.argv[1], "a") as log:
        log.write("built\\n")
    time.sleep(0.5)
    (folder / "a").write_text("a" * 1000)

print((cache.folder("slow", slow) / "a").read_text() == "a" * 1000)
text = sources.text("austen")
tokenizer = tokenizers.bpe(text, vocabulary=500)
held = packing.validation(text, tokenizer, length=64, batch_size=4)
print(int(held.batch(50, range(4))["ids_BL"].sum()))
"""


def test_two_processes_prepare_once_and_read_the_same(home, tmp_path):
    log = tmp_path / "log"
    command = [sys.executable, "-W", "error", "-c", PREPARE, str(log)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert log.read_text() == "built\n"
    assert outputs[0] == outputs[1] and outputs[0][0] == "True"
    assert not list(home.rglob("*.building"))


KILLED = """
import sys, time
from transformer.data import cache

def slow(folder):
    (folder / "half").write_text("half")
    print("building", flush=True)
    time.sleep(60)

cache.folder("x", slow)
"""


def test_a_killed_preparation_leaves_nothing_behind(home):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True
    )
    with process, process.stdout as lines:
        assert lines.readline() == "building\n"
        process.kill()
    assert (home / "x.building" / "half").exists() and not (home / "x").exists()
    path = cache.folder("x", lambda folder: (folder / "a").touch())
    assert sorted(p.name for p in path.iterdir()) == ["a", cache.SEAL]
    assert sorted(p.name for p in home.iterdir()) == ["x", "x.lock"]


def test_packing_takes_no_more_memory_than_a_few_pieces(tmp_path, monkeypatch):
    """Text to rows of a 16 MB file, in a fraction of it: nothing is held whole."""
    monkeypatch.setattr(tokenised, "BATCH_CHARACTERS", 1 << 17)
    file = tmp_path / "long.txt"
    with open(file, "w") as out:
        out.writelines("the quick brown fox\n" * 1000 for _ in range(800))
    assert file.stat().st_size == 16_000_000
    tracemalloc.start()
    rows = packing.language(
        sources.text(file), tokenizers.bytes_(), length=256, batch_size=16
    )
    rows.batch(3, range(16))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows.tokens > 15_000_000
    assert peak < 6_000_000


LIGHT = """
import sys, time
start = time.perf_counter()
from transformer.data import first_fit, mixing, packing, sources, tokenizers
heavy = {"jax", "grain", "tensorflow_datasets", "tensorflow", "tokenizers"}
print(heavy & set(sys.modules), time.perf_counter() - start)
"""


def test_importing_the_room_loads_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("set() ")


def test_seals_name_every_file(home):
    path = cache.folder("x", lambda folder: (folder / "a").touch())
    assert json.loads((path / cache.SEAL).read_text()).keys() == {"a"}
    assert os.access(path, os.R_OK)
