"""A masked language model: accuracy beside n-gram baselines, a linear probe of its
features, and filled passages; `study` does so for any model that fills gaps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments import mlm
from transformer import axes
from transformer.data.text import windows
from transformer.evaluation import source_probe
from transformer.evaluation.baselines import ngram
from transformer.generation import fill_in
from transformer.models import bert
from transformer.network import precision
from transformer.plots import cloze
from transformer.training import evaluation
from transformer.training.experiment import Experiment

PASSAGES, PROBE_LENGTH = 4, 64
# (ids [L], rng) -> the pieces that remain, and the removed ids between them.
Remove = Callable[
    [np.ndarray, np.random.Generator], tuple[list[np.ndarray], list[np.ndarray]]
]


def mask_tokens(
    ids: np.ndarray, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Remove `EVALUATION_RATIO` of the tokens, each a gap of its own."""
    count = round(mlm.EVALUATION_RATIO * len(ids))
    place = np.sort(rng.choice(len(ids), count, replace=False))
    pieces = np.split(ids, np.stack([place, place + 1], axis=1).reshape(-1))
    return pieces[::2], pieces[1::2]


def fill_passages(
    remove: Remove,
    model: fill_in.FillIn,
    held_out: windows.Windows,
    params: Any,
    key: jax.Array,
) -> list[fill_in.Passage]:
    """Random windows with gaps that the model has filled."""
    rng = np.random.default_rng(int(jax.random.bits(key)))
    starts = held_out.rows["start"]
    passages = []
    for start in starts[rng.choice(len(starts), PASSAGES)]:
        pieces, removed = remove(held_out.at(start), rng)
        predicted = model.fill(params, pieces)
        decode = model.tokenizer.decode
        passages.append(fill_in.passage(pieces, removed, predicted, decode))
    return passages


def study(
    remove: Remove,
    experiment: Experiment,
    model: fill_in.FillIn,
    pooled_features: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    key: jax.Array,
) -> dict[str, Any]:
    """Numbers, and passages as text and as a figure.

    remove: makes the gaps of a passage. pooled(params, ids_BL): features (B, D) of each
    row.
    """
    parts: windows.TextSplits = experiment.data
    measure = experiment.evaluations["validation"]
    accuracy = measure.metrics(evaluation.total_loss(measure, params, axes.make_mesh()))
    # The n-gram counts include the tails, on which the model is not trained.
    known = [*parts.train, *parts.tails[: len(parts.train)]]
    vocab_size = model.tokenizer.vocab_size
    counts = ngram.ngram_accuracies(known, parts.validation, vocab_size=vocab_size)
    probe = source_probe.source_probe_accuracy(
        pooled_features,
        {"trained": params, "random": experiment.init(key)},
        parts.tails,
        length=PROBE_LENGTH,
    )
    length = experiment.tokens_per_row
    held_out = windows.cut_windows(parts.validation, length=length)
    passages = fill_passages(remove, model, held_out, params, key)
    return {
        "results.json": {"accuracy": accuracy["accuracy"], **counts, **probe},
        "filled.txt": "\n\n----\n\n".join(map(fill_in.marked_text, passages)) + "\n",
        "filled.png": cloze.plot_passages(passages),
    }


def report(
    experiment: Experiment,
    model: fill_in.FillIn,
    compute_dtype: str,
    params: Any,
    key: jax.Array,
) -> dict[str, Any]:
    """`study` of a masked language model."""

    def pooled_features(params: Any, ids_BL: jax.Array) -> jax.Array:
        weights = precision.cast_weights(params, compute_dtype)
        return bert.apply(experiment.net, weights, ids_BL, method="pooled_features")

    return study(mask_tokens, experiment, model, pooled_features, params, key)
