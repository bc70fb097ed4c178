"""Small texts, and what their rows must count, for the tests of packing."""

import numpy as np

from transformer import storage
from transformer.data import shuffling
from transformer.data.text import documents

END = 256
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
