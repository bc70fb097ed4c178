"""Translation of sentence pairs."""

from __future__ import annotations

import short_training

from experiments import translate
from transformer.generation import translation


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
