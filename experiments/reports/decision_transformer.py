"""Returns of rollouts beside their targets and baselines, and the paths of a few."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer import checks
from transformer.data import records
from transformer.environments import apple_grid, environment
from transformer.generation import policy_rollout
from transformer.plots import returns as plots

TARGETS = (-8, -6, -4, -2, 0, 2, 4, 6, 8)
EPISODES = 100
# Episodes of one's own that are scored at once.
ROWS = 100
PATH_TARGETS = (-8, 0, 8)
# Of the data's best policy (`apple_grid.policy`).
BEST_QUALITY = 0.3
# (model's name, params, return_to_go_BT, observation_BTP, action_BT) -> logits.
Policy = Callable[..., jax.Array]


def rollout(
    policy: Policy,
    name: str,
    params: Any,
    key: jax.Array,
    targets: Any,
    *,
    same_start: bool = False,
) -> policy_rollout.Rollout:
    """An episode of the model `name` for each target return, numpy."""
    run = partial(
        policy_rollout.policy_rollout,
        apple_grid.ENVIRONMENT,
        partial(policy, name, params),
        same_start=same_start,
    )
    return jax.device_get(jax.jit(run)(key, jnp.asarray(targets, jnp.float32)))


def accuracies(
    policy: Policy, held_out: Mapping[str, Any], params: Any
) -> dict[str, float]:
    """Accuracy of each model, and of the most frequent action, on the actions of
    held-out episodes, by `accuracy/name`."""
    inputs = [held_out[n] for n in ("return_to_go_BT", "observation_BTP", "action_BT")]
    action_BT = inputs[-1]
    is_step_BT = np.arange(action_BT.shape[1]) < held_out["length_B"][:, None]
    found: dict[str, Any] = {}
    found["most_frequent"] = np.bincount(action_BT[is_step_BT]).argmax()
    for name in params:
        logits = jax.jit(partial(policy, name))
        parts = [
            np.asarray(logits(params, *(a[n : n + ROWS] for a in inputs)).argmax(-1))
            for n in range(0, len(action_BT), ROWS)
        ]
        found[name] = np.concatenate(parts)
    right = {n: float((a == action_BT)[is_step_BT].mean()) for n, a in found.items()}
    return {f"accuracy/{name}": value for name, value in right.items()}


def report(
    policy: Policy, data: records.Records, params: Any, key: jax.Array
) -> dict[str, Any]:
    """results.json, returns.png and paths.png; of episodes of one's own, in whose
    environment no model can act, results.json of `accuracies`."""
    if data.name != "apples":
        return {"results.json": accuracies(policy, data.validation, params)}
    target_key, cloning_key, best_key, path_key = (
        jax.random.fold_in(key, i) for i in range(4)
    )
    targets = np.repeat(TARGETS, EPISODES)
    of_data = np.asarray(data.train["return_to_go_BT"])[:, 0]
    best = np.full(len(targets), of_data.max())

    def returns(name: str, key: jax.Array, targets: np.ndarray) -> Any:
        return rollout(policy, name, params, key, targets).rewards.sum(1)

    reached = returns("conditioned", target_key, targets)
    baselines = {
        "best policy of the data": best_policy_return(best_key, len(targets)),
        "behavior cloning": float(returns("cloning", cloning_key, best).mean()),
        "the data": float(of_data.mean()),
    }
    best_policy, cloning, mean = baselines.values()
    tenth = np.sort(of_data)[::-1][: len(of_data) // 10].mean()
    results = {
        "target_correlation": float(np.corrcoef(targets, reached)[0, 1]),
        "target_error": float(np.abs(targets - reached).mean()),
        **{f"return/target_{t}": float(reached[targets == t].mean()) for t in TARGETS},
        "return/data_max": float(of_data.max()),
        "return/target_data_max": float(returns("conditioned", best_key, best).mean()),
        "return/best_policy": best_policy,
        "return/cloning": cloning,
        "return/data": mean,
        "return/data_best_tenth": float(tenth),
    }
    paths = rollout(
        policy, "conditioned", params, path_key, PATH_TARGETS, same_start=True
    )
    return {
        "results.json": results,
        "returns.png": plots.plot_returns(targets, reached, baselines),
        "paths.png": plot_paths(paths, PATH_TARGETS),
    }


def best_policy_return(key: jax.Array, episodes: int) -> float:
    """The mean return of the data's best policy."""
    play = partial(environment.play_episodes, apple_grid.ENVIRONMENT, apple_grid.policy)
    played = jax.jit(play)(key, jnp.full(episodes, BEST_QUALITY))
    return float(played.rewards.sum(1).mean())


def plot_paths(rollouts: policy_rollout.Rollout, targets: Sequence[int]) -> Any:
    """A matplotlib figure of episodes in one grid: apples, thorns and the path."""
    from matplotlib.figure import Figure

    figure = Figure((3.1 * len(targets), 3.4), layout="constrained")
    panels = figure.subplots(1, len(targets))
    for row, (axes, target) in enumerate(zip(panels, targets, strict=True)):
        grid, position = rollouts.states.grid[row, 0], rollouts.states.position[row]
        for value, marker, color in ((1, "o", "#3a9d3a"), (-1, "x", "#b03030")):
            down, right = np.nonzero(grid == value)
            axes.scatter(right, down, marker=marker, color=color, s=70, linewidths=2)
        # The path is cut where it leaves the grid and enters on the other side.
        jumps = 1 + np.flatnonzero(np.abs(np.diff(position, axis=0)).max(1) > 1)
        for part in np.split(position, jumps):
            axes.plot(part[:, 1], part[:, 0], color="#2a62b0", alpha=0.6, linewidth=2)
        axes.scatter(*position[0][::-1], marker="s", color="#2a62b0", s=40)
        limits = -0.5, apple_grid.SIDE - 0.5
        axes.set(xlim=limits, ylim=limits[::-1], xticks=[], yticks=[], aspect="equal")
        total = rollouts.rewards[row].sum()
        axes.set_title(f"target {target:+d}, return {total:+.0f}", fontsize=10)
    return figure


def generate(
    policy: Policy,
    params: Any,
    key: jax.Array,
    *,
    target_return: checks.CountOrZero = 8,
    sample_seed: checks.Seed = 0,
) -> str:
    """One episode in a random grid: print the grid, the actions and the rewards, and
    return them.

    Args:
        target_return: the return that the model is conditioned on.
        sample_seed: another number gives another grid.
    """
    key = jax.random.fold_in(key, sample_seed)
    episode = rollout(policy, "conditioned", params, key, [target_return])
    symbols = {1: "o", -1: "x", 0: "."}
    grid = episode.states.grid[0, 0]
    lines = [" ".join(symbols[int(cell)] for cell in row) for row in grid]
    for action, reward in zip(episode.actions[0], episode.rewards[0], strict=True):
        name = apple_grid.ACTION_NAMES[action]
        lines.append(f"{name} {reward:+.0f}" if reward else name)
    total = episode.rewards[0].sum()
    text = "\n".join([*lines, f"target {target_return:+d}, return {total:+.0f}"])
    print(text)
    return text
