"""Texts with gaps: windows, spans, counting, and the two experiments that fill them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import mlm
from experiments import span_corruption as span_experiment
from transformer.data.text import span_corruption, windows
from transformer.evaluation import source_probe
from transformer.evaluation.baselines import ngram
from transformer.plots import cloze
from transformer.processes import masked_diffusion
from transformer.training import update

RNG = np.random.default_rng(0)
SENTINEL, END = 100, 99


def test_windows_lie_within_their_documents() -> None:
    texts = [np.arange(25), np.arange(100, 107), np.arange(200, 231)]
    cut = windows.cut_windows(texts, length=10)
    assert cut.rows["document"].tolist() == [0, 0, 2, 2, 2]
    for row in range(5):
        one = {name: array[row] for name, array in cut.rows.items()}
        own = texts[one["document"]]
        for _ in range(20):
            got = cut.random_window(one, RNG)
            assert len(got) == 10 and (np.diff(got) == 1).all()
            assert own[0] <= got[0] and got[-1] <= own[-1]
    with pytest.raises(ValueError, match="at least 50 tokens, got at most 31"):
        windows.cut_windows(texts, length=50)


@pytest.mark.parametrize("length", [2, 3, 20, 128])
@pytest.mark.parametrize("share", [0.01, 0.15, 0.9])
def test_a_text_is_what_is_read_and_what_is_asked_for(
    length: int, share: float
) -> None:
    """In turn, beginning with what is read; shapes follow from the length alone."""
    lost, count = span_corruption.span_counts(
        length, corruption_rate=share, mean_span=3.0
    )
    for _ in range(5):
        ids = RNG.integers(0, END, length)
        row = span_corruption.corrupt_spans(
            ids, RNG, corruption_rate=share, mean_span=3.0, sentinel=SENTINEL, end=END
        )
        pieces = span_corruption.uncorrupted_pieces(row["source_BL"], SENTINEL)
        gone = span_corruption.predicted_spans(row["targets_BL"], SENTINEL, END)
        assert len(gone) == len(pieces) - 1 == count
        assert all(map(len, gone)) and sum(map(len, gone)) == lost
        turns = [part for pair in zip(pieces, gone, strict=False) for part in pair]
        np.testing.assert_array_equal(np.concatenate([*turns, pieces[-1]]), ids)
        assert row["source_BL"].shape == (length - lost + count,)
        assert row["targets_BL"].shape == (lost + count + 1,)
        assert row["ids_BL"].tolist() == [END, *row["targets_BL"][:-1]]
        assert row["span_weight_BL"].sum() == lost


def test_answers_are_read_whatever_was_written() -> None:
    written = np.array([7, 102, 1, 2, 100, 3, 99, 101, 4])
    found = span_corruption.predicted_spans(written, SENTINEL, END, count=3)
    assert [part.tolist() for part in found] == [[3], [], [1, 2]]


def test_counting_finds_what_was_seen_most_often() -> None:
    """A language in which two tokens tell the third; unseen contexts back off."""
    ids = np.array([0, 1, 2, 0, 1, 2, 0, 1, 3, 3, 3, 3, 0, 1, 2, 0])
    contexts = ngram.trigram_contexts(ids, vocab_size=4)
    models = [ngram.count_ngrams(c, ids[2:-1], vocab_size=4) for c in contexts]
    asked = [np.array([0 * 4 + 1, 2 * 4 + 2]), np.array([1, 2]), np.array([0, 0])]
    assert ngram.backoff_predict(models, asked).tolist() == [2, 0]
    assert ngram.backoff_predict(models, asked, least=99).tolist() == [3, 3]
    cycle = [np.tile(np.arange(4), 50)]
    told = ngram.ngram_accuracies(cycle, cycle, vocab_size=4)
    assert told == {"trigram": 1.0, "both neighbours": 1.0}
    coins = [RNG.integers(0, 4, 20_000) for _ in range(2)]
    blind = ngram.ngram_accuracies(coins[:1], coins[1:], vocab_size=4)
    assert all(0.22 < share < 0.28 for share in blind.values())


def test_a_fixed_part_is_hidden_in_every_row() -> None:
    process = masked_diffusion.process(
        mask_id=9, sample_time=masked_diffusion.constant_mask_ratio(0.25)
    )
    ids = RNG.integers(0, 9, (8, 40))
    seen = process.corrupt(
        ids, process.sample_time(jax.random.key(0), 8), jax.random.key(1)
    )
    assert ((np.asarray(seen.inputs) == 9).sum(1) == 10).all()
    with pytest.raises(ValueError, match="above 0 and up to 1, got 1.5"):
        masked_diffusion.constant_mask_ratio(1.5)


def test_a_reader_tells_texts_apart_by_what_differs() -> None:
    texts = [RNG.integers(0, 5, 640), RNG.integers(5, 10, 640)]
    hot: Any = jnp.eye(10)

    def vectors(scale: Any, ids_BL: jax.Array) -> jax.Array:
        return scale * hot[ids_BL].mean(1)

    told = source_probe.source_probe_accuracy(
        vectors, {"own": 1.0, "none": 0.0}, texts, length=16
    )
    assert told["text told, own"] == 1.0
    assert told["text told, none"] == told["text told, always the same"] == 0.5


def test_passages_are_written_and_drawn() -> None:
    parts = cloze.passage(
        [np.array([104, 105]), np.array([33])],
        [np.array([97])],
        [np.array([98])],
        _text,
    )
    assert cloze.marked_text(parts) == "hi[b|a]!" and cloze.filled_text(parts) == "hib!"
    figure = cloze.plot_passages([parts])
    assert [text.get_text() for text in figure.axes[0].texts] == ["hi", "b", "(a)", "!"]


def _text(ids: Any) -> str:
    return bytes(int(i) for i in ids).decode()


TINY = {"depth": 1, "width": 64, "length": 32, "batch_size": 8, "vocab_size": 300}


@pytest.mark.parametrize("file", [mlm, span_experiment])
def test_training_lowers_the_loss_and_fills_gaps(file: Any) -> None:
    experiment = file.experiment(steps=24, dtype="float32", **TINY)
    state = jax.jit(lambda: update.init_state(experiment))()
    advance = jax.jit(lambda *given: update.update(experiment, *given))
    losses = []
    for step in range(experiment.steps):
        state, told = advance(state, experiment.batch(step, range(8)))
        losses.append(experiment.metrics(told.loss)["loss"])
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])
    held = experiment.evaluations["validation"]
    told = jax.jit(held.loss)(state.params, held.batch(0, range(64)), jax.random.key(0))
    assert float(told.sums["tokens"]) == 64 * 5
    assert 0 < held.metrics(told)["loss"] < 6
    task, symbols, _, held_out, _ = experiment.report.args
    ids = held_out.at(200)
    pieces, true = task.parted(ids, RNG)
    said = task.completed(state.params, pieces)
    assert len(said) == len(true) == len(pieces) - 1
    assert all(part.max(initial=0) < symbols.vocab_size for part in said)
    joined = cloze.join_pieces(pieces, [SENTINEL] * len(said))
    assert len(joined) - len(said) + sum(map(len, true)) == len(ids)
