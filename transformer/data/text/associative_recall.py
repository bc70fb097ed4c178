"""Text with needles in it: values that were hung somewhere, and are asked for later.

A needle is one symbol that names a key and a value. A question is the symbol of a key;
the target behind it is the key's value, wherever its needle was, and is not part of the
row: what a pattern of attention cannot see it cannot answer (after "associative
recall", Graves et al. 2014, arXiv 1410.5401, section 4.3).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Code(NamedTuple):
    """Symbols behind those of a text: `keys` of questions, `values` of answers, and a
    needle for each pair of them. first: the number of the first of them. questions: how
    often each key is asked for in a row."""

    first: int
    keys: int
    values: int
    questions: int

    @property
    def vocabulary(self) -> int:
        """Symbols in all, the text's too."""
        return self.first + self.keys + self.values + self.keys * self.values

    def question(self, key: int) -> int:
        return self.first + key

    def answer(self, value: int) -> int:
        return self.first + self.keys + value

    def needle(self, key: int, value: int) -> int:
        return self.first + self.keys + self.values + key * self.values + value


def text_length(code: Code, length: int) -> int:
    """How many tokens of text go into a row of `length`, the one behind it included;
    ValueError where there is no room for text."""
    added = code.keys * (1 + code.questions)
    if length < added + 1:
        raise ValueError(f"expected a length of at least {added + 1}, got {length}")
    return length + 1 - added


def hidden(
    ids: np.ndarray, rng: np.random.Generator, code: Code
) -> dict[str, np.ndarray]:
    """A row out of tokens of text [`text_length`], without the first dimension.

    Each key is hung once, at a random place of the first half, and asked for at random
    places behind it. `ids_BL`, `targets_BL` int32. `text_BL`, `asked_BL` float32: 1
    where the target is a token of the text, or an answer. `distance_BL` int32: from
    question to needle, 0 elsewhere.
    """
    values = rng.integers(code.values, size=code.keys)
    hung = rng.random(code.keys) * len(ids) / 2
    spread = rng.random((code.keys, code.questions))
    asked = hung[:, None] + (len(ids) - 1 - hung[:, None]) * spread
    found = [(place, int(token), -1) for place, token in enumerate(ids)]
    for key, value in enumerate(values):
        found.append((hung[key], code.needle(key, value), key))
        found += [(place, code.question(key), key) for place in asked[key]]
    found.sort(key=lambda event: event[0])
    row = np.asarray([symbol for _, symbol, _ in found], np.int32)
    key = np.asarray([key for _, _, key in found])
    place = np.arange(len(row))
    needle_at = np.array([np.argmax(key == number) for number in range(code.keys)])
    question = (key >= 0) & (place != needle_at[key])
    targets = np.where(question[:-1], code.answer(0) + values[key[:-1]], row[1:])
    return {
        "ids_BL": row[:-1],
        "targets_BL": targets.astype(np.int32),
        "text_BL": (targets < code.first).astype(np.float32),
        "asked_BL": question[:-1].astype(np.float32),
        "distance_BL": ((place - needle_at[key]) * question)[:-1].astype(np.int32),
    }
