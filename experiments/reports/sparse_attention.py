"""Recall by distance, and time and memory by length, of attention patterns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformer.evaluation import attention_cost, recall_by_distance
from transformer.models.attention_patterns import AttentionPattern
from transformer.network import attention, masks
from transformer.plots import attention_patterns as plots

BINS = (1, 33, 65, 129, 257, 513)
LENGTHS = (512, 1024, 2048, 4096, 8192)
Patterns = Mapping[str, AttentionPattern]
Costs = Mapping[str, Mapping[int, attention_cost.Cost]]


def report(
    patterns: Patterns,
    logits: Callable[..., Any],
    held_out: Any,
    params: Any,
    *,
    chance: float,
) -> dict[str, Any]:
    """results.json and patterns.png. logits(params, batch): (B, L, V) by pattern."""
    accuracy = recall_by_distance.accuracy_by_distance(
        logits, held_out, params, bins=BINS
    )
    costs = measure_costs(patterns)
    results: dict[str, float] = {}
    for name, values in accuracy.items():
        for low, high, value in zip(BINS, BINS[1:], values, strict=False):
            results[f"recall_accuracy/{name}/distance_{low}_{high - 1}"] = value
    figure = plots.plot_attention_patterns(
        {n: p.mask(256) for n, p in patterns.items() if n != "linear"},
        accuracy,
        costs,
        bins=BINS,
        chance=chance,
    )
    return {"results.json": results | cost_results(costs), "patterns.png": figure}


def measure_costs(patterns: Patterns) -> Costs:
    """The costs of each pattern at each length, and of full attention with the whole
    matrix in memory at all but the longest."""
    matrix = {
        length: attention_cost.cost(
            attention.dot_product_attention, masks.causal(), length
        )
        for length in LENGTHS[:-1]
    }
    by_pattern = {
        name: {
            length: attention_cost.cost(pattern.kernel, pattern.mask(length), length)
            for length in LENGTHS
        }
        for name, pattern in patterns.items()
    }
    return {"full_matrix": matrix, **by_pattern}


def cost_results(costs: Costs) -> dict[str, float]:
    """The scaling exponents of time and memory, and the time at the longest length."""
    results = {}
    for name, by_length in costs.items():
        # The time of the shortest rows is mostly overhead.
        lengths = list(by_length)[1:]
        for quantity in ("seconds", "bytes"):
            values = [getattr(by_length[length], quantity) for length in lengths]
            exponent = attention_cost.scaling_exponent(lengths, values)
            results[f"scaling_exponent/{quantity}/{name}"] = exponent
        longest = lengths[-1]
        milliseconds = 1000 * by_length[longest].seconds
        results[f"milliseconds/{name}/length_{longest}"] = milliseconds
    return results
