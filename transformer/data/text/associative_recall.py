"""Associative recall in real text: key-value needles and later questions, numpy.

A needle is one token that encodes a key and a value. A question is the token of a key;
its target is the key's value, which is not itself a token of the row: an attention
pattern that does not reach the needle cannot answer (after "associative recall", Graves
et al. 2014, arXiv 1410.5401, section 4.3).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from transformer.data import records, shuffling
from transformer.data.shuffling import EvaluationSplit, TrainingSplit
from transformer.data.text import documents, tokenizers, windows


class NeedleVocabulary(NamedTuple):
    """Tokens after those of a text: `keys` questions, `values` answers, and a needle
    for each (key, value).

    first: the first of these tokens. questions: of each key in a row.
    """

    first: int
    keys: int
    values: int
    questions: int

    @property
    def vocab_size(self) -> int:
        """All tokens, those of the text included."""
        return self.first + self.keys + self.values + self.keys * self.values

    def question(self, key: int) -> int:
        return self.first + key

    def answer(self, value: int) -> int:
        return self.first + self.keys + value

    def needle(self, key: int, value: int) -> int:
        return self.first + self.keys + self.values + key * self.values + value


def text_length(vocabulary: NeedleVocabulary, length: int) -> int:
    """The number of text tokens for a row of `length`, its last target included;
    ValueError where there is no room for text."""
    added = vocabulary.keys * (1 + vocabulary.questions)
    if length <= added:
        least = added + 1
        raise ValueError(f"sequence_length: expected at least {least}, got {length}")
    return length + 1 - added


def insert_needles(
    ids: np.ndarray, rng: np.random.Generator, vocabulary: NeedleVocabulary
) -> dict[str, np.ndarray]:
    """A row from text tokens [`text_length`], without the first dimension.

    Each key's needle is at a random place of the first half, its questions at random
    places after it. `ids_BL`, `targets_BL` int32. `text_weight_BL`, `question_BL`
    float32: 1 where the target is a token of the text, or an answer. `distance_BL`
    int32: from question to needle, 0 elsewhere.
    """
    values = rng.integers(vocabulary.values, size=vocabulary.keys)
    needle_time = rng.random(vocabulary.keys) * len(ids) / 2
    spread = rng.random((vocabulary.keys, vocabulary.questions))
    question_time = (
        needle_time[:, None] + (len(ids) - 1 - needle_time[:, None]) * spread
    )
    # (time, token, key), where the time of a text token is its index, and its key -1.
    events = [(time, int(token), -1) for time, token in enumerate(ids)]
    for key, value in enumerate(values):
        events.append((needle_time[key], vocabulary.needle(key, value), key))
        question = vocabulary.question(key)
        events += [(time, question, key) for time in question_time[key]]
    events.sort(key=lambda event: event[0])
    row = np.asarray([token for _, token, _ in events], np.int32)
    key = np.asarray([key for _, _, key in events], np.int64)
    place = np.arange(len(row))
    needle_at = np.array([np.argmax(key == n) for n in range(vocabulary.keys)])
    is_question = (key >= 0) & (place != needle_at[key])
    answers = vocabulary.answer(0) + values[key[:-1]]
    targets = np.where(is_question[:-1], answers, row[1:])
    distance = (place - needle_at[key]) * is_question
    return {
        "ids_BL": row[:-1],
        "targets_BL": targets.astype(np.int32),
        "text_weight_BL": (targets < vocabulary.first).astype(np.float32),
        "question_BL": is_question[:-1].astype(np.float32),
        "distance_BL": distance[:-1].astype(np.int32),
    }


def splits(
    text: documents.TextDataset,
    tokenizer: tokenizers.Tokenizer,
    vocabulary: NeedleVocabulary,
    *,
    length: int,
    batch_size: int,
    seed: int = 0,
) -> tuple[TrainingSplit, EvaluationSplit]:
    """Rows of `insert_needles` of `length` tokens: random windows of the train split,
    and those of the validation split in order, 16 a batch. Ends of documents that fill
    no row are left out, and counted. Errors as `text_length` and
    `windows.full_windows`."""
    split = windows.split_text(text, tokenizer, tail_fraction=0.0)
    places = text_length(vocabulary, length)
    held_out = windows.full_windows(
        split.validation, length=places, name=f"{text.name} (validation)"
    )

    def prepare(ids: np.ndarray, rng: np.random.Generator) -> shuffling.Batch:
        return insert_needles(ids, rng, vocabulary)

    training = windows.mixed_training(
        split,
        partial(
            windows.full_windows,
            length=places,
            name=f"{text.name} (train)",
            moving=True,
        ),
        batch_size=batch_size,
        seed=seed,
        prepare=prepare,
        name=text.name,
    )
    return training, records.evaluation(
        held_out.rows,
        batch_size=16,
        prepare=lambda row, rng: prepare(held_out.row(row), rng),
    )
