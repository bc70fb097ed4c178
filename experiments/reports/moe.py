"""Numbers of a dense model and a mixture of experts, and the tokens of each expert."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from transformer import axes
from transformer.data.text import tokenizers
from transformer.network.moe import experts
from transformer.objectives import load_balancing
from transformer.training import evaluation
from transformer.training.experiment import Evaluation


def expert_usage(
    forward: Callable[..., Any], held_out: Evaluation, vocab_size: int
) -> Evaluation:
    """`held_out` with a second sum beside its Loss: how often each token chose each
    expert of each layer, (N, E, V).

    forward(params, batch, key) -> the Loss and the router outputs of each layer.
    """

    def loss(params: Any, batch: Any, key: jax.Array) -> Any:
        total, layers = forward(params, batch, key)
        return total, load_balancing.expert_token_counts(
            layers, batch, vocab_size=vocab_size
        )

    return held_out._replace(loss=loss)


def report(
    forward: Callable[..., Any],
    held_out: Evaluation,
    tokenizer: tokenizers.Tokenizer,
    params: Any,
    experts_per_token: int,
) -> dict[str, Any]:
    """results.json and experts.png. forward: as of `expert_usage`."""
    usage = expert_usage(forward, held_out, tokenizer.vocab_size)
    loss, counts_NEV = evaluation.total_loss(usage, params, axes.current_mesh())
    metrics = usage.metrics(loss)
    load_NE = counts_NEV.sum(-1) / counts_NEV.sum(-1).mean(-1, keepdims=True)
    dense, moe = (metrics[f"bits_per_byte/{name}"] for name in ("dense", "moe"))
    spellings = [repr(tokenizer.decode([v]))[1:-1] for v in range(tokenizer.vocab_size)]
    return {
        "results.json": {
            "bits_per_byte/dense": dense,
            "bits_per_byte/moe": moe,
            "relative_gain": 1 - moe / dense,
            "active_params/dense": active_params(params["dense"], experts_per_token),
            "active_params/moe": active_params(params["moe"], experts_per_token),
            "max_load": float(load_NE.max()),
            "dispatched_fraction": metrics["dispatched_fraction"],
        },
        "experts.png": plot_experts(load_NE, counts_NEV, spellings),
    }


def active_params(params: Any, experts_per_token: int) -> int:
    """The number of parameters that compute one token."""
    shapes = experts.active_param_shapes(params, experts_per_token)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def typical_tokens(
    counts_EV: np.ndarray, spellings: list[str], count: int = 10
) -> list[str]:
    """The most overrepresented tokens of each expert, by n log(p(e|v) / p(e))."""
    total_V, total_E = counts_EV.sum(0), counts_EV.sum(1)
    expected_EV = np.outer(total_E / total_E.sum(), total_V)
    gain_EV = counts_EV * np.log(np.maximum(counts_EV, 1e-9) / (expected_EV + 1e-9))
    best = np.argsort(-gain_EV, axis=1)[:, :count]
    return ["  ".join(spellings[v].replace(" ", "\u00b7") for v in row) for row in best]


def plot_experts(
    load_NE: np.ndarray, counts_NEV: np.ndarray, spellings: list[str]
) -> Any:
    """A matplotlib figure: the experts of each layer, their load (1 is an equal share)
    and their typical tokens."""
    from matplotlib.figure import Figure

    layers, count = load_NE.shape
    limit = max(1.7, 1.05 * load_NE.max())
    figure = Figure(figsize=(6.2 * layers, 0.36 * count + 1.2), layout="constrained")
    for i, panel in enumerate(figure.subplots(1, layers, squeeze=False)[0]):
        order, texts = np.argsort(-load_NE[i]), typical_tokens(counts_NEV[i], spellings)
        panel.barh(range(count), load_NE[i, order], color=f"C{i}", alpha=0.4)
        panel.axvline(1, color="black", linewidth=0.8, linestyle=":")
        for row, expert in enumerate(order):
            panel.text(0.03, row, texts[expert], va="center", parse_math=False)
        panel.set(title=f"layer {i + 1}", xlabel="load (1: an equal share)")
        panel.set(yticks=range(count), yticklabels=order + 1, xlim=(0, limit))
        panel.invert_yaxis()
        panel.spines[["top", "right"]].set_visible(False)
    return figure
