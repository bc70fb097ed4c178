"""Word alignment from cross-attention."""

from __future__ import annotations

import numpy as np
import pytest

from transformer.interpretability import alignment
from transformer.plots import alignments

RNG = np.random.default_rng(0)


def test_attention_between_words_sums_to_one_and_finds_copies() -> None:
    source, source_index = alignment.split_words(["Save", " Fi", "le", " now", ""])
    target, target_index = alignment.split_words(["Gra", "var", " File", ""])
    assert source == ["Save", "File", "now", "·"] and target == ["Gravar", "File", "·"]
    weights = RNG.dirichlet(np.ones(5), 4)
    weights[2] = [0.1, 0.3, 0.3, 0.2, 0.1]
    between = alignment.word_attention(weights, target_index, source_index)
    assert between.shape == (3, 4)
    np.testing.assert_allclose(between.sum(1), 1)
    assert between[1].argmax() == 1
    assert alignment.copy_alignment(between, target[:2], source[:3]) == (1, 1)


def test_each_pair_of_a_packed_row_has_its_alignment() -> None:
    batch = {
        "targets_BL": np.array([[65, 32, 67, 68, 0]]),
        "segment_BL": np.array([[1, 1, 1, 2, 0]]),
        "source_BL": np.array([[65, 68, 0]]),
        "source_segment_BL": np.array([[1, 2, 0]]),
    }
    weights_BNLM = RNG.random((1, 2, 5, 3))
    found = list(alignment.alignments([(weights_BNLM, batch)], lambda ids: chr(ids[0])))
    assert [one.target for one in found] == [["A", "C"], ["D"]]
    assert [one.source for one in found] == [["A"], ["D"]]
    np.testing.assert_allclose(found[0].weights[1, 0], weights_BNLM[0, 1, 0, :1])
    np.testing.assert_allclose(
        found[0].weights[1, 1], weights_BNLM[0, 1, 1:3, :1].mean(0)
    )


def test_the_copy_study_picks_the_layer_that_aligns_copies() -> None:
    words = ["red", "blue", "green"]
    found = [
        alignment.Alignment(np.stack([np.eye(3)[::-1], np.eye(3)]), words, words)
    ] * 3
    study = alignment.copy_study(found, words=(3, 8))
    assert (study.accuracy, study.layer) == (pytest.approx(1.0), 2)
    assert len(study.examples) == 2 and study.examples[0].weights.shape == (3, 3)
    assert len(alignments.plot_alignments(study.examples).axes) == 2
    assert not alignment.copy_study(found, words=(4, 8)).examples


def test_heatmaps_of_words_are_distributions_over_patches() -> None:
    class Tokenizer:
        end = 0

        @staticmethod
        def decode(ids: list[int]) -> str:
            return {1: "red", 2: " ap", 3: "ple"}[ids[0]]

    weights_LM = RNG.dirichlet(np.ones(16), 5)
    words, heat = alignment.word_heatmaps(
        Tokenizer, weights_LM, np.array([1, 2, 3, 0, 0]), grid=(4, 4)
    )
    assert words == ["red", "apple"] and heat.shape == (2, 4, 4)
    np.testing.assert_allclose(heat.sum((1, 2)), 1)
    np.testing.assert_allclose(heat[1].ravel(), weights_LM[1:3].mean(0))
