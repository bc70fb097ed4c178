"""Windows of long documents."""

from __future__ import annotations

import numpy as np
import pytest

from transformer.data.text import windows

RNG = np.random.default_rng(0)


def test_windows_lie_within_their_documents() -> None:
    texts = [np.arange(25), np.arange(100, 107), np.arange(200, 231)]
    cut = windows.cut_windows(texts, length=10)
    assert cut.rows["document"].tolist() == [0, 0, 2, 2, 2]
    for row in range(5):
        one = {name: array[row] for name, array in cut.rows.items()}
        own = texts[one["document"]]
        for _ in range(20):
            got = cut.random_window(one, RNG)
            assert len(got) == 10 and (np.diff(got) == 1).all()
            assert own[0] <= got[0] and got[-1] <= own[-1]
    with pytest.raises(ValueError, match="at least 50 tokens, got at most 31"):
        windows.cut_windows(texts, length=50)


def test_training_windows_move_and_validation_windows_are_all_read_once() -> None:
    """`prepare` makes the rows; that of validation may be another."""
    train, held_out = [np.arange(800)], [np.arange(1000, 1700)]
    splits = windows.window_splits(
        windows.TextSplits(train, held_out, []),
        length=10,
        batch_size=8,
        prepare=lambda ids, rng: {
            "ids_BL": ids,
            "noise_B": np.array(rng.integers(1 << 30)),
        },
        validation_prepare=windows.ids_only,
    )
    rows = [splits[0].batch(step, range(8)) for step in range(10)]
    starts = np.concatenate([batch["ids_BL"][:, 0] for batch in rows])
    assert len(set(starts // 10)) > 40 and len(set(starts % 10)) == 10
    assert len({int(n) for batch in rows for n in batch["noise_B"]}) == 80
    batches = [splits[1].batch(step, range(64)) for step in range(splits[1].batches)]
    assert all("noise_B" not in batch for batch in batches)
    real = [batch["ids_BL"][batch["weight_B"] > 0] for batch in batches]
    np.testing.assert_array_equal(np.concatenate(real).reshape(-1), held_out[0])
