"""Rows of labeled texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from transformer.data.records import Records
from transformer.data.sources import labeled_text
from transformer.data.text import labeled_rows, tokenizers

TEXT = np.array(["ab", "abcdef", ""], object)
LABEL = np.array([1, 0, 1], np.int32)
SPLIT = {"text": TEXT, "label": LABEL}
DATA = Records("three", "0", SPLIT, SPLIT, ("no", "yes"))


def test_texts_are_padded_or_cut_off() -> None:
    rows = labeled_rows.encode(tokenizers.bytes_(), DATA.train, length=4)
    a, b, c, d = b"abcd"
    assert rows["ids_BL"].tolist() == [[a, b, 0, 0], [a, b, c, d], [0, 0, 0, 0]]
    assert rows["segment_BL"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]
    assert rows["label_B"].tolist() == [1, 0, 1]


def test_classes_that_are_numbers_are_in_their_order(tmp_path: Path) -> None:
    """As those of images: 2 before 10."""
    rows = [f"{word} of {label},{label}" for label in (10, 2, 0) for word in "ab"]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *rows]))
    data = labeled_text.load(tmp_path / "reviews.csv")
    assert data.labels == ("0", "2", "10")
    for text, label in zip(data.train["text"], data.train["label"], strict=True):
        assert text.endswith(f" of {data.labels[label]}")


def test_texts_that_are_cut_off_are_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = DATA._replace(name="cut", train={n: a[[0, 2]] for n, a in SPLIT.items()})
    labeled_rows.splits(data, tokenizers.bytes_(), batch_size=2, length=4)
    assert capsys.readouterr().out == (
        "cut: 0 of 2 training and 1 of 3 held-out texts are longer than 4 tokens, of "
        "which the first 4 are used\n"
    )
    labeled_rows.splits(data, tokenizers.bytes_(), batch_size=2, length=6)
    assert capsys.readouterr().out == ""


def test_both_splits_have_the_rows_and_their_labels() -> None:
    train, held_out = labeled_rows.splits(
        DATA, tokenizers.bytes_(), batch_size=2, length=4
    )
    pairs = {0: 6, 1: 2}
    batch = held_out.batch(0, range(2))
    assert batch["label_B"].tolist() == [1, 0] and held_out.batches == 2
    assert held_out.batch(1, range(2))["weight_B"].tolist() == [1, 0]
    for label, size in zip(
        batch["label_B"], batch["segment_BL"].sum(1).tolist(), strict=True
    ):
        assert size == min(4, pairs[int(label)])
    assert train.batch(0, range(2))["ids_BL"].shape == (2, 4)
    with pytest.raises(ValueError, match="three: expected examples for a batch of 4"):
        labeled_rows.splits(DATA, tokenizers.bytes_(), batch_size=4)
