"""Windows of documents: every token once, padded where a document ends."""

from __future__ import annotations

import numpy as np
import pytest

from transformer.data.text import windows

RNG = np.random.default_rng(0)


def splits(
    train: list[np.ndarray],
    validation: list[np.ndarray],
    shares: tuple[float, ...] = (),
) -> windows.TextSplits:
    """Texts without tails; with `shares`, one part of a mixture for each train text."""
    none = windows.from_arrays([])
    parts = [
        (windows.from_arrays([ids]), share)
        for ids, share in zip(train, shares, strict=False)
    ]
    return windows.TextSplits(
        windows.from_arrays(train), windows.from_arrays(validation), none, none, parts
    )


def test_windows_lie_within_their_documents() -> None:
    texts = [np.arange(25), np.arange(100, 107), np.arange(200, 231)]
    cut = windows.cut_windows(windows.from_arrays(texts), length=10)
    assert cut.rows["size"].tolist() == [10, 10, 5, 7, 10, 10, 10, 1]
    document = [0, 0, 0, 1, 2, 2, 2, 2]
    for row, number in enumerate(document):
        one = {name: array[row] for name, array in cut.rows.items()}
        own = texts[number]
        for _ in range(20):
            got = cut.random_window(one, RNG)
            assert len(got) == one["size"] and (np.diff(got) == 1).all()
            assert own[0] <= got[0] and got[-1] <= own[-1]


@pytest.mark.parametrize("length", [1, 7, 32, 100])
def test_every_held_out_token_is_in_exactly_one_row_with_its_weight(
    length: int,
) -> None:
    """40 short documents, with one token and none among them."""
    sizes = [0, 1, 2, *RNG.integers(1, 70, 37)]
    edges = np.cumsum([0, *sizes])
    texts = [np.arange(a, b) for a, b in zip(edges, edges[1:], strict=False)]
    _, held_out = windows.window_splits(
        splits([np.arange(400)], texts), length=length, batch_size=1
    )
    found = []
    for step in range(held_out.batches):
        batch = held_out.batch(step, range(held_out.batch_size))
        real = (batch["segment_BL"] > 0) & (batch["weight_B"] > 0)[:, None]
        assert batch["ids_BL"].shape == (64, length)
        assert not batch["ids_BL"][batch["segment_BL"] == 0].any()
        found += batch["ids_BL"][real].tolist()
    assert sorted(found) == list(range(edges[-1]))


def test_training_windows_move_and_validation_windows_are_all_read_once() -> None:
    """`prepare` makes the rows; that of validation may be another. The tail of a long
    training document is no row of its own, a short document is."""
    train, held_out = [np.arange(803), np.arange(900, 904)], [np.arange(1000, 1700)]
    rows, validation = windows.window_splits(
        splits(train, held_out),
        length=10,
        batch_size=8,
        prepare=lambda ids, rng: {
            "ids_BL": windows.pad(ids, 10),
            "noise_B": np.array(rng.integers(1 << 30)),
        },
        validation_prepare=lambda ids, rng: {"ids_BL": ids},
    )
    assert rows.rows_per_epoch == 81
    batches = [rows.batch(step, range(8)) for step in range(12)]
    ids = np.concatenate([batch["ids_BL"] for batch in batches])
    starts = ids[:, 0]
    assert len(set(starts // 10)) > 40 and len(set(starts % 10)) == 10
    assert ids[starts == 900][0].tolist() == [900, 901, 902, 903, 0, 0, 0, 0, 0, 0]
    assert len({int(n) for batch in batches for n in batch["noise_B"]}) == 96
    batches = [validation.batch(step, range(64)) for step in range(validation.batches)]
    assert all("noise_B" not in batch for batch in batches)
    real = [batch["ids_BL"][batch["weight_B"] > 0] for batch in batches]
    np.testing.assert_array_equal(np.concatenate(real).reshape(-1), held_out[0])


def test_a_mixture_has_the_shares_of_its_parts() -> None:
    texts = [np.arange(1000, 2000), np.arange(2000, 2030)]
    train, _ = windows.window_splits(
        splits(texts, texts[:1], (0.75, 0.25)), length=10, batch_size=8
    )
    ids = np.concatenate([train.batch(s, range(8))["ids_BL"] for s in range(50)])
    assert (ids[:, 0] < 2000).mean() == pytest.approx(0.75, abs=0.03)


def test_what_fills_no_row_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    texts = windows.from_arrays([np.arange(25), np.arange(100, 107)])
    full = windows.full_windows(texts, length=10, name="probe (train)")
    assert full.rows["start"].tolist() == [0, 10]
    assert capsys.readouterr().out == (
        "probe (train): 12 of 32 tokens are left out, in ends of documents that fill "
        "no row of 10\n"
    )
    windows.full_windows(texts, length=10, name="probe (train)", moving=True)
    assert "probe (train): 7 of 32 tokens are left out" in capsys.readouterr().out
    with pytest.raises(ValueError, match="at least 50 tokens, got at most 25"):
        windows.full_windows(texts, length=50, name="probe")
