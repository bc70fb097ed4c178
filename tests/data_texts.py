"""Small texts, and what their rows must count, for the tests of packing."""

import gzip
import json

import numpy as np
import pyarrow
import pyarrow.parquet

from transformer import storage
from transformer.data import shuffling
from transformer.data.text import documents

END = 256
WORDS = "the quick brown fox jumps over é 日本 🙂 a lazy dog".split()
LETTERS = [chr(0x4E00 + number) for number in range(3000)]


def text_of(
    train: list[str], validation: list[str] | None = None
) -> documents.TextDataset:
    """A text of the given documents."""
    splits = {"train": train, "validation": validation or train}

    def pieces(split):
        for document in splits[split]:
            yield from documents.pieces_of([document], size=50)

    return documents.TextDataset("probe", storage.short_hash(repr(splits)), pieces)


def distinct(sizes: list[int]) -> documents.TextDataset:
    """Documents of the given sizes in which no character comes twice."""
    letters = iter(LETTERS)
    return text_of(["".join(next(letters) for _ in range(size)) for size in sizes])


def counted_targets(batches) -> list[int]:
    """All targets that count, sorted."""
    return sorted(
        int(target)
        for batch in batches
        for target in batch["targets_BL"][batch["weight_BL"] > 0]
    )


def all_batches(held: shuffling.EvaluationSplit):
    return [held.batch(step, range(held.batch_size)) for step in range(held.batches)]


def expected_targets(text: documents.TextDataset, tokenizer) -> list[int]:
    """Every token but each document's first, and every end: all there is to predict."""
    found = []
    for document in documents.full_documents(text, "validation"):
        found += [*tokenizer.encode(document)[1:].tolist(), tokenizer.end]
    return sorted(found)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def write_corpus(folder, *, rows: int = 40, files: int = 3):
    """A corpus of JSON lines, Parquet, compressed and plain text, in sub-folders."""
    rng = np.random.default_rng(0)

    def document(name: str) -> str:
        size = int(rng.integers(1, 40))
        return f"{name}: " + " ".join(rng.choice(WORDS, size))

    (folder / "deep").mkdir(parents=True)
    for number in range(files):
        lines = [
            json.dumps({"id": row, "text": document(f"json {number}, {row}")})
            for row in range(rows)
        ]
        (folder / "deep" / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    texts = [document(f"parquet {row}") for row in range(rows)]
    pyarrow.parquet.write_table(
        pyarrow.table({"text": [*texts, "", texts[0]]}), folder / "table.parquet"
    )
    (folder / "plain.txt").write_text(document("plain") * 50)
    with gzip.open(folder / "more.txt.gz", "wt") as file:
        file.write(document("compressed") * 20)
    return folder
