"""First-fit packing: literal matrices, every target once, no needless cuts."""

import numpy as np
import pytest
from data_texts import (
    END,
    all_batches,
    assert_equal,
    counted_targets,
    distinct,
    expected_targets,
    text_of,
)

from transformer.data.text import first_fit, tokenizers


@pytest.fixture(autouse=True, scope="module")
def cache_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def test_packed_documents_are_these_matrices():
    a, b, c, d, e, f, g, h = b"abcdefgh"
    text = text_of(["abc", "defgh", "a", "b"])
    held = first_fit.validation(text, tokenizers.bytes_(), length=4, batch_size=3)
    expected = {
        "ids_BL": [[a, b, c, h], [d, e, f, g], [a, b, 0, 0]],
        "targets_BL": [[b, c, END, END], [e, f, g, h], [END, END, 0, 0]],
        "segment_BL": [[1, 1, 1, 2], [1, 1, 1, 1], [1, 2, 0, 0]],
        "position_BL": [[0, 1, 2, 0], [0, 1, 2, 3], [0, 0, 0, 0]],
        "weight_BL": [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]],
    }
    assert_equal(held.batch(0, range(3)), expected)
    assert not held.batch(1, range(3))["segment_BL"].any()


@pytest.mark.parametrize("sizes", [[40], [1, 1, 1], [3, 17, 1, 64, 5] * 5])
@pytest.mark.parametrize("length", [1, 8, 64])
def test_packed_documents_count_every_target_once(sizes, length):
    text = distinct(sizes)
    tokenizer = tokenizers.characters(text)
    held = first_fit.validation(text, tokenizer, length=length, batch_size=4)
    assert counted_targets(all_batches(held)) == expected_targets(text, tokenizer)
    rows = first_fit.training(text, tokenizer, length=length, batch_size=1, seed=1)
    count = rows.rows_per_epoch
    assert held.batches == -(-count // 4)
    for epoch in range(2):
        steps = range(epoch * count, (epoch + 1) * count)
        batches = [rows.batch(step, [0]) for step in steps]
        assert counted_targets(batches) == expected_targets(text, tokenizer)


@pytest.mark.parametrize("seed", range(3))
def test_first_fit_equals_a_plain_loop(seed):
    sizes = np.random.default_rng(seed).integers(1, 17, 300)
    room: list[int] = []
    for size, row in zip(sizes, first_fit.assign(sizes, 16), strict=True):
        expected = next((i for i, left in enumerate(room) if left >= size), len(room))
        room += [16] if expected == len(room) else []
        assert row == expected
        room[row] -= size
    assert sum(room) < 0.1 * 16 * len(room)
    bounded = first_fit.assign(sizes, 16, open_rows=2)
    assert np.bincount(bounded, weights=sizes).max() <= 16


def test_only_documents_longer_than_a_row_are_divided():
    text = distinct([5, 9, 3, 12, 30, 2] * 8)
    tokenizer = tokenizers.characters(text)
    rows = first_fit.training(text, tokenizer, length=12, batch_size=2)
    for step in range(rows.rows_per_epoch // 2):
        batch = rows.batch(step, range(2))
        for row in range(2):
            for segment in range(1, batch["segment_BL"][row].max() + 1):
                mine = batch["segment_BL"][row] == segment
                size = mine.sum()
                complete = batch["targets_BL"][row][mine][-1] == tokenizer.end
                assert complete or size == 12


def test_stretches_are_full_rows_and_remainders():
    """Documents of 5, 9, 2 and 4 tokens in rows of 4 places."""
    starts, sizes = first_fit.segments(np.array([0, 5, 14, 16, 20]), 4)
    assert starts.tolist() == [0, 5, 9, 14, 16]
    assert sizes.tolist() == [4, 4, 4, 1, 3]
