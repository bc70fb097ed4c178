"""Minimal pairs: the share of pairs whose acceptable sentence is more likely."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pretrained_folder
import pytest

from transformer import language_scores
from transformer.evaluation import log_likelihood, minimal_pairs
from transformer.evaluation.minimal_pairs import MinimalPair

ROWS = [
    {"sentence_good": "the cat sits", "sentence_bad": "the cat sit", "UID": "verb"},
    {"sentence_good": "a hen", "sentence_bad": "an hen", "UID": "noun"},
]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_ties_count_half_and_nan_is_wrong() -> None:
    pairs = [MinimalPair("a", "b", group) for group in "xxyy"]
    scores = minimal_pairs.summarize(
        pairs, np.array([-1, -2, -3, np.nan]), np.array([-2, -2, -1, -9])
    )
    assert scores.accuracy == 1.5 / 4 and scores.ties == 1
    assert list(scores.by_group.items()) == [("y", (0.0, 2)), ("x", (0.75, 2))]


def test_pairs_are_read_and_bad_ones_refused(tmp_path: Path) -> None:
    pairs = minimal_pairs.read(write(tmp_path / "a.jsonl", ROWS))
    assert pairs[0] == MinimalPair("the cat sits", "the cat sit", "verb")
    bare = [{k: v for k, v in ROWS[0].items() if k != "UID"}]
    assert minimal_pairs.read(write(tmp_path / "b.jsonl", bare))[0].group == "b"
    equal = [*ROWS, {**ROWS[0], "sentence_bad": "the cat sits"}]
    with pytest.raises(ValueError, match=r"c\.jsonl, pair 3: expected two sentences"):
        minimal_pairs.read(write(tmp_path / "c.jsonl", equal))
    with pytest.raises(ValueError, match="expected one column 'sentence_good'"):
        minimal_pairs.read(write(tmp_path / "d.jsonl", [{"good": "a", "bad": "b"}]))


def test_sentences_are_scored_whole(tmp_path, capsys) -> None:
    """Of a folder, as of its model by hand."""
    source = pretrained_folder.write(tmp_path / "llama")
    path = write(tmp_path / "a.jsonl", ROWS)
    accuracy = language_scores.minimal_pairs(source, pairs=str(path))
    model = language_scores.load_language_model(source)
    # Its configuration names no beginning of a text, so the end is the prefix.
    assert model.prefix == 257 and model.length == pretrained_folder.SIZES.length
    texts = [row[name] for row in ROWS for name in minimal_pairs.COLUMNS]
    items = [log_likelihood.encode_continuation(model, "", text) for text in texts]
    assert all(item.context == (257,) for item in items)
    scores = [s.log_likelihood for s in log_likelihood.make_scorer(model)(items)]
    assert accuracy == ((scores[0] > scores[1]) + (scores[2] > scores[3])) / 2
    assert f"all: {accuracy:.4f} of 2, 0 ties" in capsys.readouterr().out
