"""A figure of attention masks, their recall by distance and their cost by length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformer.evaluation import attention_cost
from transformer.network import masks


def plot_attention_patterns(
    patterns: Mapping[str, masks.Mask],
    accuracy: Mapping[str, Sequence[float]],
    costs: Mapping[str, Mapping[int, attention_cost.Cost]],
    *,
    bins: Sequence[int],
    chance: float,
) -> Any:
    """A matplotlib figure: the masks among 256 tokens; accuracy by distance
    (`recall_by_distance.accuracy_by_distance`) with that of chance; time and memory by
    length."""
    from matplotlib.figure import Figure

    figure = Figure((11.5, 6.4), layout="constrained")
    grid: Any = figure.add_gridspec(2, 12, height_ratios=(1, 1.7))
    across = 12 // len(patterns)
    for place, (name, mask) in enumerate(patterns.items()):
        axes = figure.add_subplot(grid[0, across * place : across * (place + 1)])
        masks.plot(mask, 256, axes=axes)
        axes.set(title=name, xlabel="", ylabel="", xticks=[], yticks=[])
    left, middle, right = (
        figure.add_subplot(grid[1, 4 * n : 4 * n + 4]) for n in range(3)
    )
    colors = {name: f"C{number}" for number, name in enumerate(accuracy)}
    _plot_accuracy(left, accuracy, colors, bins=bins, chance=chance)
    _plot_costs(middle, right, costs, colors)
    return figure


def _plot_accuracy(
    axes: Any,
    accuracy: Mapping[str, Sequence[float]],
    colors: Mapping[str, str],
    *,
    bins: Sequence[int],
    chance: float,
) -> None:
    labels = [f"{a} to {b - 1}" for a, b in zip(bins, bins[1:], strict=False)]
    for name, by_bin in accuracy.items():
        axes.plot(labels, [100 * value for value in by_bin], "o-", color=colors[name])
    axes.axhline(100 * chance, color="gray", linestyle=":")
    axes.set(title="recall accuracy in %, by distance", ylim=(0, 103))
    axes.tick_params(axis="x", rotation=30)


def _plot_costs(
    time_axes: Any,
    memory_axes: Any,
    costs: Mapping[str, Mapping[int, attention_cost.Cost]],
    colors: Mapping[str, str],
) -> None:
    for name, by_length in costs.items():
        style: Any = {"color": colors.get(name, "black"), "label": name, "marker": "o"}
        milliseconds = [1000 * cost.seconds for cost in by_length.values()]
        time_axes.loglog(list(by_length), milliseconds, **style)
        mebibytes = [cost.bytes / 2**20 for cost in by_length.values()]
        memory_axes.loglog(list(by_length), mebibytes, **style)
    longest = max(costs.values(), key=len)
    for axes in (time_axes, memory_axes):
        axes.set_xticks(list(longest), [str(length) for length in longest])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("tokens")
    time_axes.set_title("milliseconds, forward and backward")
    memory_axes.set_title("MiB of temporary arrays")
    memory_axes.legend(frameon=False, fontsize=8)
