"""Translation of sentence pairs."""

from __future__ import annotations

import numpy as np
import pytest
import short_training

from experiments import translate
from experiments.reports import translate as report
from transformer.data.text import tokenizers
from transformer.evaluation.baselines import tfidf
from transformer.generation import translation


@pytest.mark.slow
def test_training_lowers_the_loss_and_translations_do_not_depend_on_the_batch() -> None:
    experiment = translate.experiment(
        depth=1, width=64, sequence_length=64, batch_size=8, steps=16, dtype="float32"
    )
    trained = short_training.train(experiment)
    assert trained.ratio(3) < 0.9
    translator = translation.from_net(
        experiment.net, experiment.tokenizer, compute_dtype="float32"
    )
    texts = ["Save the file.", "OK"]
    together, alone = (
        translation.translate(
            translator, trained.params, some, beam_size=2, batch_size=2
        )
        for some in (texts, texts[1:])
    )
    assert len(together) == 2 and together[1:] == alone


def test_scores_and_alignment_of_few_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty bucket has no BLEU, translations longer than a row no alignment."""
    near = tfidf.NearestSentences(np.array([0]), np.array([0.6]))
    texts = ["save the file"]
    found = report.scores({"beam_search": texts, "tfidf_nn": texts}, texts, near)
    assert found["pairs/cosine_0_to_0.5"] == found["pairs/cosine_0.7_to_1.01"] == 0
    assert {name for name in found if name.startswith("bleu/beam_search/")} == {
        "bleu/beam_search/cosine_0.5_to_0.7"
    }
    study = report.copy_study(
        None, tokenizers.bytes_(), {}, texts, ["x" * 99], length=16
    )
    assert study is None
    assert capsys.readouterr().out.startswith("no alignment: expected translations")
