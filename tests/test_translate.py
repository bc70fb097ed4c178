"""Translation: pairs side by side in rows, the memory to beat, and the experiment."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from cases import random_params

from experiments import translate
from transformer.data.text import sentence_pairs, tokenizers
from transformer.evaluation.baselines import tfidf
from transformer.generation import translation
from transformer.interpretability import alignment
from transformer.models import encoder_decoder
from transformer.training import update

RNG = np.random.default_rng(0)
END = 50


def some(count: int) -> list[sentence_pairs.Pair]:
    """Pairs of random tokens, each side closed by its end."""
    sizes = RNG.integers(1, 12, (count, 2))
    return [
        sentence_pairs.Pair(
            *(np.append(RNG.integers(0, END, size), END) for size in both)
        )
        for both in sizes
    ]


def in_rows(batch: dict[str, np.ndarray]) -> list[tuple[Any, ...]]:
    """What is read, what is written from and the targets, of each segment."""
    found = []
    for row in range(len(batch["segment_BL"])):
        for number in range(1, batch["segment_BL"][row].max() + 1):
            read = batch["source_segment_BL"][row] == number
            written = batch["segment_BL"][row] == number
            arrays = (
                ("source_BL", read),
                ("ids_BL", written),
                ("targets_BL", written),
            )
            found.append(tuple(tuple(batch[n][row][part]) for n, part in arrays))
    return found


def test_every_pair_stands_whole_in_one_row() -> None:
    given = some(60)
    rows = sentence_pairs.validation(given, end=END, length=16, batch_size=4)
    found = []
    for step in range(rows.batches):
        batch = rows.batch(step, range(4))
        found += in_rows(batch)
        filled = batch["segment_BL"] > 0
        np.testing.assert_array_equal(batch["weight_BL"], filled)
        assert not batch["ids_BL"][~filled].any()
    wanted = [(tuple(p.source), (END, *p.target[:-1]), tuple(p.target)) for p in given]
    assert sorted(found) == sorted(wanted)
    assert rows.pairs == 60 and rows.rows < 60 and rows.left_out == 0


def test_a_pair_longer_than_a_row_is_left_out_and_told() -> None:
    rows = sentence_pairs.validation(some(60), end=END, length=8, batch_size=4)
    assert rows.left_out > 0 and rows.pairs + rows.left_out == 60


def test_training_rows_follow_from_seed_and_step() -> None:
    given = some(200)
    one, again, other = (
        sentence_pairs.training(given, end=END, length=16, batch_size=4, seed=seed)
        for seed in (0, 0, 1)
    )
    first = one.batch(3, range(4))
    for name, array in again.batch(3, range(4)).items():
        np.testing.assert_array_equal(first[name], array)
    part = one.batch(3, [2])
    np.testing.assert_array_equal(part["source_BL"][0], first["source_BL"][2])
    assert in_rows(other.batch(3, range(4))) != in_rows(first)


def test_directions_are_from_one_language_to_the_other() -> None:
    assert sentence_pairs.sides("en-pt", ("en", "pt")) == ("first", "second")
    assert sentence_pairs.sides("pt-en", ("en", "pt")) == ("second", "first")
    with pytest.raises(ValueError, match="en-pt or pt-en, got 'en-de'"):
        sentence_pairs.sides("en-de", ("en", "pt"))


def test_the_memory_finds_the_sentence_that_shares_rare_words() -> None:
    known = ["the cat sat on the mat", "the dog sat", "open the file", "the the the"]
    asked = ["Open a file, dog!", "a dog", "the cat sat on the mat"]
    near = tfidf.nearest(known, asked)
    assert near.number.tolist() == [2, 1, 0]
    assert near.cosine[2] == pytest.approx(1) and near.cosine[0] < 1
    # What every sentence has tells nothing.
    assert tfidf.nearest(known, ["the the the open"]).number == [2]
    bands = tfidf.bucket_by_similarity(near, (0.0, 0.99, 1.01))
    assert bands == {"from 0.0": [0, 1], "from 0.99": [2]}


def test_attention_between_words_sums_to_one_and_finds_what_is_copied() -> None:
    read, of_read = alignment.split_words(["Save", " Fi", "le", " now", ""])
    written, of_written = alignment.split_words(["Gra", "var", " File", ""])
    assert read == ["Save", "File", "now", "·"] and written == ["Gravar", "File", "·"]
    weights = RNG.dirichlet(np.ones(5), 4)
    weights[2] = [0.1, 0.3, 0.3, 0.2, 0.1]
    between = alignment.word_attention(weights, of_written, of_read)
    assert between.shape == (3, 4)
    np.testing.assert_allclose(between.sum(1), 1)
    assert between[1].argmax() == 1
    assert alignment.copy_alignment(between, written[:2], read[:3]) == (1, 1)


def test_perfect_translations_score_full_marks() -> None:
    said = ["O gato dorme no tapete grande.", "Abra o ficheiro agora, por favor."]
    assert translation.translation_scores(said, said) == pytest.approx(
        {"BLEU": 100, "chrF": 100}
    )
    assert translation.translation_scores(said[::-1], said)["BLEU"] < 10


def test_what_pads_a_source_changes_nothing_that_is_written() -> None:
    symbols = tokenizers.bytes_()
    net = encoder_decoder.text_to_text(depth=1, width=64, vocab_size=symbols.vocab_size)
    params = random_params(net, init_params=encoder_decoder.init_params)
    writer = translate.writer_of(net, symbols, "float32")
    search = jax.jit(
        lambda ids_BL, length_B: translation.beam_search_batch(
            writer, params, ids_BL, length_B, hypotheses=2, penalty=0.6
        )
    )
    length_B = np.array([3, 8, 5])
    ids_BL = RNG.integers(0, 256, (3, 8))
    padding_BL = np.arange(8) >= length_B[:, None]
    found = jax.device_get(search(ids_BL, length_B))
    other = jax.device_get(search(np.where(padding_BL, 7, ids_BL), length_B))
    for one, two in zip(found, other, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5)
    # What is read does matter, up to the last token.
    ids_BL[np.arange(3), length_B - 1] += 1
    changed = jax.device_get(search(ids_BL, length_B))
    assert (changed.score_BI[:, 0] != found.score_BI[:, 0]).all()


def test_training_lowers_the_loss_and_translates() -> None:
    experiment = translate.experiment(
        depth=1, width=64, length=64, batch_size=8, steps=16, dtype="float32"
    )
    state = jax.jit(lambda: update.init_state(experiment))()
    advance = jax.jit(lambda *given: update.update(experiment, *given))
    losses = []
    for step in range(experiment.steps):
        state, told = advance(state, experiment.batch(step, range(8)))
        losses.append(experiment.metrics(told.loss)["loss"])
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    writer = experiment.report.args[0].writer
    write = translation.translate
    texts = ["Save the file.", "OK"]
    said = write(writer, state.params, texts, hypotheses=2, batch_size=2)
    alone = write(writer, state.params, texts[1:], hypotheses=2, batch_size=2)
    assert len(said) == 2 and said[1:] == alone
