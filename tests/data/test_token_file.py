"""The cached tokens of a split: verified, of a narrow dtype, written in pieces."""

import subprocess
import sys
import tracemalloc

import grain  # noqa: F401  (so that its import is not counted as memory of a row)
import numpy as np
import pytest

from transformer.data.sources import text as text_source
from transformer.data.text import packing, tokenizers


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "transformer"


def test_damaged_tokens_are_encoded_again(home, tmp_path):
    (tmp_path / "text").write_text("some words\n" * 100)
    text = text_source.load(tmp_path / "text")
    tokenizer = tokenizers.bytes_()
    before = np.array(packing.tokenize_split(text, tokenizer, split="train").tokens)
    (file,) = home.rglob("tokens.bin")
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    after = packing.tokenize_split(text, tokenizer, split="train").tokens
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [(1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)]
)
def test_tokens_have_the_narrowest_dtype_of_the_vocabulary(tmp_path, vocab_size, dtype):
    (tmp_path / "text").write_text("some words\n" * 100)
    text = text_source.load(tmp_path / "text")
    tokenizer = tokenizers.bytes_()._replace(vocab_size=vocab_size, end=vocab_size - 1)
    split = packing.tokenize_split(text, tokenizer, split="train")
    assert isinstance(split.tokens, np.memmap) and split.tokens.dtype == dtype
    assert split.tokens[-1] == vocab_size - 1
    assert split.offsets.tolist() == [0, len(split.tokens)]


def test_packing_takes_no_more_memory_than_a_few_pieces(tmp_path, monkeypatch):
    """Text to rows of a 16 MB file, in a fraction of it: nothing is held whole."""
    monkeypatch.setattr(packing, "BATCH_CHARACTERS", 1 << 17)
    file = tmp_path / "long.txt"
    with open(file, "w") as out:
        out.writelines("the quick brown fox\n" * 1000 for _ in range(800))
    assert file.stat().st_size == 16_000_000
    tracemalloc.start()
    rows = packing.training(
        text_source.load(file), tokenizers.bytes_(), length=256, batch_size=16
    )
    batch = rows.batch(3, range(16))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows.rows_per_epoch * 256 > 15_000_000 and batch["weight_BL"].all()
    assert peak < 6_000_000


PREPARE = """
from transformer.data.sources import text as text_source
from transformer.data.text import packing, tokenizers

text = text_source.load("austen")
tokenizer = tokenizers.bpe(text, vocab_size=500)
validation = packing.validation(text, tokenizer, length=64, batch_size=4)
print(int(validation.batch(50, range(4))["ids_BL"].sum()))
"""


def test_two_processes_prepare_the_same_tokens(home):
    command = [sys.executable, "-W", "error", "-c", PREPARE]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert outputs[0] == outputs[1] and int(outputs[0]) > 0
    assert not list(home.rglob("*.building"))
