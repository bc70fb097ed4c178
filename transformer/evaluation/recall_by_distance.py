"""What a pattern of attention reaches, and what it costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from transformer.evaluation import attention_cost
from transformer.network import masks


def by_distance(
    read: Callable[..., Mapping[str, jax.Array]],
    held_out: Any,
    params: Any,
    *,
    bins: Sequence[int],
) -> dict[str, list[float]]:
    """How often each of some models answers right, by how far away the needle is.

    read(params, batch): the logits (B, L, V) of each. held_out: an `Evaluation` of rows
    of `data/text/associative_recall.py`. bins: the edges of the distances; the last is left out.
    """
    hits: dict[str, list[np.ndarray]] = defaultdict(list)
    apart, compiled = [], jax.jit(read)
    for step in range(held_out.batches):
        batch = held_out.batch(step, range(held_out.batch_size))
        asked = (batch["asked_BL"] > 0) & (batch["weight_B"] > 0)[:, None]
        apart.append(batch["distance_BL"][asked])
        for name, logits in compiled(params, batch).items():
            said = np.asarray(logits.argmax(-1))
            hits[name].append((said == batch["targets_BL"])[asked])
    place = np.digitize(np.concatenate(apart), bins) - 1
    shares = {}
    for name, parts in hits.items():
        right = np.concatenate(parts)
        shares[name] = [float(right[place == n].mean()) for n in range(len(bins) - 1)]
    return shares


def picture(
    patterns: Mapping[str, masks.Mask],
    answered: Mapping[str, Sequence[float]],
    found: Mapping[str, Mapping[int, attention_cost.Cost]],
    *,
    bins: Sequence[int],
    chance: float,
) -> Any:
    """A matplotlib figure: who sees whom among 256 tokens, who answers at what distance
    (`by_distance`), and what that costs by the length. chance: of an answer."""
    from matplotlib.figure import Figure

    figure = Figure((11.5, 6.4), layout="constrained")
    grid: Any = figure.add_gridspec(2, 12, height_ratios=(1, 1.7))
    wide = 12 // len(patterns)
    for place, (name, mask) in enumerate(patterns.items()):
        axes = figure.add_subplot(grid[0, wide * place : wide * (place + 1)])
        masks.draw(mask, 256, axes=axes)
        axes.set(title=name, xlabel="", ylabel="", xticks=[], yticks=[])
    left, middle, right = (
        figure.add_subplot(grid[1, 4 * n : 4 * n + 4]) for n in range(3)
    )
    colours = {name: f"C{number}" for number, name in enumerate(answered)}
    labels = [f"{a} to {b - 1}" for a, b in zip(bins, bins[1:], strict=False)]
    for name, shares in answered.items():
        left.plot(labels, [100 * s for s in shares], "o-", color=colours[name])
    left.axhline(100 * chance, color="grey", linestyle=":")
    left.set(title="% answered, by distance of the needle", ylim=(0, 103))
    left.tick_params(axis="x", rotation=30)
    for name, by_length in found.items():
        style: Any = {"color": colours.get(name, "black"), "label": name, "marker": "o"}
        seconds = [1000 * one.seconds for one in by_length.values()]
        middle.loglog(list(by_length), seconds, **style)
        space = [one.bytes / 2**20 for one in by_length.values()]
        right.loglog(list(by_length), space, **style)
    longest = max(found.values(), key=len)
    for axes in (middle, right):
        axes.set_xticks(list(longest), [str(length) for length in longest])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("tokens")
    middle.set_title("milliseconds, forward and back")
    right.set_title("MiB of working memory")
    right.legend(frameon=False, fontsize=8)
    return figure
