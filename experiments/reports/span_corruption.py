"""Span corruption: accuracy beside n-gram baselines, a linear probe of the encoder's
features, and filled passages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.reports import mlm
from transformer.data.text import span_corruption
from transformer.generation import fill_in
from transformer.models import t5
from transformer.network import precision
from transformer.training.experiment import Experiment


def report(
    corrupt: Callable[..., dict[str, np.ndarray]],
    experiment: Experiment,
    model: fill_in.FillIn,
    compute_dtype: str,
    params: Any,
    key: jax.Array,
) -> dict[str, Any]:
    """`mlm.gap_filling_report` of the encoder-decoder; corrupt(ids, rng): a row of the
    evaluation's batch."""
    sentinel, end = model.tokenizer.vocab_size, model.tokenizer.end

    def remove(ids: np.ndarray, rng: np.random.Generator) -> Any:
        row = corrupt(ids, rng)
        removed = span_corruption.predicted_spans(row["targets_BL"], sentinel, end)
        source = row["source_BL"][row["source_segment_BL"] > 0]
        return span_corruption.uncorrupted_pieces(source, sentinel), removed

    def pooled_features(params: Any, ids_BL: jax.Array) -> jax.Array:
        weights = precision.cast_weights(params, compute_dtype)
        return t5.pooled_features(experiment.net, weights, ids_BL)

    arguments = experiment, model, pooled_features, params, key
    return mlm.gap_filling_report(remove, *arguments)
