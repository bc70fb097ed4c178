"""Captions as rows of tokens."""

from __future__ import annotations

import pytest

from transformer.data import captioned_images
from transformer.data.text import tokenizers


def test_decoder_rows_are_shifted_and_encoder_rows_closed() -> None:
    tokenizer = tokenizers.bytes_()
    rows = captioned_images.decoder_rows(tokenizer, ["ab", ""], 4)
    end = tokenizer.end
    assert rows["ids_BL"].tolist() == [[end, 97, 98, 0], [end, 0, 0, 0]]
    assert rows["targets_BL"].tolist() == [[97, 98, end, 0], [end, 0, 0, 0]]
    assert rows["weight_BL"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    with pytest.raises(ValueError, match="'abcd': expected at most 4 .* got 5"):
        captioned_images.encoder_rows(tokenizer, ["ab", "abcd"], 4)
