"""Can one model of good and bad episodes be asked for how well it should act?

    python -m experiments.decision_transformer
    python -m experiments.decision_transformer generate --asked=8

Apples are worth 1 and thorns cost 1 in an orchard of 7 x 7; 20,000 episodes of walkers
from bad to good gain 1.3 on average. A decision transformer, told what is still to be
gained, and the same model told nothing (behaviour cloning), 0.6 M parameters each,
learn from the same batches. What the first gains over 900 walks follows what it is
asked for, from -8 to 8: **correlation 0.993**. Asked for the best of the data, 10, it
gains **8.4**, where cloning gains 0.9, the data's best walker 7.1 and the best tenth of
the data's episodes 8.1. 2 min 8 s on two cores.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer import cpu_tuning, main
from transformer.data import records
from transformer.environments import apple_grid, environment
from transformer.generation import policy_rollout
from transformer.models import decision_transformer
from transformer.network import precision
from transformer.objectives import cross_entropy
from transformer.objectives.loss import Loss
from transformer.plots import returns
from transformer.training import optimizers
from transformer.training.experiment import Evaluation, Experiment

WORLD = apple_grid.ENVIRONMENT
# Returns are this many times smaller to the model.
SCALE = 10.0
# How well the walkers of the data walk, uniform from and to (orchard.policy).
QUALITY = (-0.2, 0.3)
HELD_OUT = 500
ASKED = (-8, -6, -4, -2, 0, 2, 4, 6, 8)
WALKS = 100
DRAWN = (-8, 0, 8)
# What each model is told of the returns: all of them, or nothing.
TOLD = {"asked": lambda return_to_go_BT: return_to_go_BT / SCALE, "cloned": jnp.zeros_like}


def episodes(count: int, seed: int) -> records.Records:
    """Episodes of walkers of all qualities, as `episode_source.load` gives one's own."""
    temper_key, walk_key = (jax.random.fold_in(jax.random.key(seed), i) for i in (0, 1))
    low, high = QUALITY
    quality = jax.random.uniform(temper_key, (count,), minval=low, maxval=high)
    play = jax.jit(partial(environment.play_episodes, WORLD, apple_grid.policy))
    arrays = jax.device_get(play(walk_key, quality))._asdict()
    # What is still to come, before each step.
    left = arrays["rewards"][:, ::-1].cumsum(1)[:, ::-1]
    # What is seen is whether something is there: a byte says it.
    seen = arrays["observations"].astype(np.int8)
    arrays = {**arrays, "observations": seen, "left": left}
    train, held = (
        {name: array[part] for name, array in arrays.items()}
        for part in (slice(HELD_OUT, None), slice(HELD_OUT))
    )
    return records.Records("orchard", f"orchard-{count}-{seed}", train, held)


class Walkers(NamedTuple):
    """The net of both models: the one that is asked, and the one that clones what it
    saw, to which all returns are nothing."""

    net: Any
    dtype: Any

    def logits(
        self, name: str, params: Any, return_to_go_BT: Any, observation_BTP: Any, action_BT: Any
    ) -> jax.Array:
        """Of the model `name`."""
        narrow = precision.cast_weights(params[name], self.dtype)
        seen = TOLD[name](return_to_go_BT), observation_BTP, action_BT
        return self.net.apply({"params": narrow}, *seen)

    def walked(
        self, name: str, params: Any, key: jax.Array, asked: Any, *, same: bool = False
    ) -> policy_rollout.Rollout:
        """Episodes for the returns `asked` [N], numpy."""
        walk = partial(
            policy_rollout.policy_rollout, WORLD, partial(self.logits, name, params), same_start=same
        )
        asked_B = jnp.asarray(asked, jnp.float32)
        return jax.device_get(jax.jit(walk)(key, asked_B))


def gained(walk: policy_rollout.Rollout) -> np.ndarray:
    """The return of each episode."""
    return np.asarray(walk.rewards).sum(1)


def paths(walk: policy_rollout.Rollout, asked: Any) -> Any:
    """A matplotlib figure of walks through one orchard: apples, thorns, the way."""
    from matplotlib.figure import Figure

    figure = Figure((3.1 * len(asked), 3.4), layout="constrained")
    for axes, row, wish in zip(
        figure.subplots(1, len(asked)), range(len(asked)), asked, strict=True
    ):
        field, place = walk.states.grid[row, 0], walk.states.position[row]
        for worth, mark, colour in ((1, "o", "#3a9d3a"), (-1, "x", "#b03030")):
            down, right = np.nonzero(field == worth)
            axes.scatter(right, down, marker=mark, color=colour, s=70, linewidths=2)
        # A step over the edge comes back on the other side: the line is cut there.
        jumps = 1 + np.flatnonzero(np.abs(np.diff(place, axis=0)).max(1) > 1)
        for part in np.split(place, jumps):
            axes.plot(part[:, 1], part[:, 0], color="#2a62b0", alpha=0.6, linewidth=2)
        axes.scatter(*place[0][::-1], marker="s", color="#2a62b0", s=40)
        limits = -0.5, apple_grid.SIDE - 0.5
        axes.set(xlim=limits, ylim=limits[::-1], xticks=[], yticks=[], aspect="equal")
        got = gained(walk)[row]
        axes.set_title(f"asked for {wish:+d}, gained {got:+.0f}", fontsize=10)
    return figure


def show(
    walkers: Walkers, data: records.Records, params: Any, key: jax.Array
) -> dict[str, Any]:
    """Returns asked for and gained, beside cloning, the data and its scripted best."""
    walk_key, clone_key, best_key, same_key = (
        jax.random.fold_in(key, i) for i in range(4)
    )
    asked = np.repeat(ASKED, WALKS)
    got = gained(walkers.walked("asked", params, walk_key, asked))
    seen = np.asarray(data.train["left"])[:, 0]
    best = np.full(len(asked), seen.max())
    wished = gained(walkers.walked("asked", params, best_key, best)).mean()
    cloned = gained(walkers.walked("cloned", params, clone_key, best)).mean()
    scripted = jax.jit(partial(environment.play_episodes, WORLD, apple_grid.policy))
    top = scripted(best_key, jnp.full(len(asked), QUALITY[1])).rewards.sum(1).mean()
    lines = {
        "the best walker of the data": float(top),
        "cloning": float(cloned),
        "the data": float(seen.mean()),
    }
    tenth = np.sort(seen)[::-1][: len(seen) // 10].mean()
    return {
        "results.json": {
            "correlation of asked and gained": float(np.corrcoef(asked, got)[0, 1]),
            "mean distance of asked and gained": float(np.abs(asked - got).mean()),
            **{f"gained, {a:+d} asked": float(got[asked == a].mean()) for a in ASKED},
            f"gained, the best of the data asked ({seen.max():+.0f})": float(wished),
            **{f"gained, {name}": value for name, value in lines.items()},
            "gained, the best tenth of the data": float(tenth),
        },
        "returns.png": returns.plot_returns(asked, got, lines),
        "paths.png": paths(
            walkers.walked("asked", params, same_key, DRAWN, same=True), DRAWN
        ),
    }


def generate(
    walkers: Walkers, params: Any, key: jax.Array, *, asked: int = 8, draw: int = 0
) -> None:
    """Walk through an orchard, told on the terminal.

    Args:
        asked: the return that is asked for.
        draw: which orchard; another number makes another.
    """
    walk = walkers.walked("asked", params, jax.random.fold_in(key, draw), [asked])
    signs = {1: "o", -1: "x", 0: "."}
    field = walk.states.grid[0, 0]
    print("\n".join(" ".join(signs[int(cell)] for cell in row) for row in field))
    for action, reward in zip(walk.actions[0], walk.rewards[0], strict=True):
        print(apple_grid.ACTION_NAMES[action], f"{reward:+.0f}" if reward else "")
    print(f"asked for {asked:+d}, gained {gained(walk)[0]:+.0f}")


def report(loss: Loss) -> dict[str, float]:
    """Cross-entropy of an action, in nats, and how often it is the likeliest, of both
    models."""
    sums, weight = loss.sums, float(loss.sums["tokens"])
    told = {
        f"{what}_{name}": float(sums[f"{what}_{name}"]) / weight
        for name in TOLD
        for what in ("nats", "correct")
    }
    return {"loss": float(loss.total) / float(loss.weight), **told}


def experiment(
    *,
    count: int = 20000,
    depth: int = 3,
    width: int = 128,
    batch_size: int = 64,
    steps: int = 500,
    matrix_rate: float = 0.02,
    vector_rate: float = 0.005,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    seed: int = 0,
) -> Experiment:
    """A decision transformer, and its like that clones, on the same batches.

    Args:
        count: episodes in the data, of which 500 are held out.
        depth: blocks of either.
        width: features of a token, 32 for each head.
        batch_size: episodes in a step.
        steps: of training.
        matrix_rate: peak learning rate of the blocks' matrices, by Muon.
        vector_rate: peak learning rate of all else, by Adam.
        dtype: of the products; auto is bfloat16 where the machine multiplies it fast.
        seed: of the data, the parameters, the order of the episodes and the walks.
    """
    compute = cpu_tuning.compute_dtype() if dtype == "auto" else dtype
    if count < 2 * HELD_OUT:
        raise ValueError(f"count: expected at least {2 * HELD_OUT}, got {count}")
    data = episodes(count, seed)
    net = decision_transformer.decision_transformer(
        actions=WORLD.actions, observation_features=WORLD.features, depth=depth, width=width
    )
    walkers = Walkers(net, compute)

    def init(key: jax.Array) -> Any:
        keys = jax.random.split(key, len(TOLD))
        return {
            name: decision_transformer.init_params(net, one)
            for name, one in zip(TOLD, keys, strict=True)
        }

    def as_batch(
        row: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        return {
            "return_to_go_BT": row["left"],
            "observation_BTP": row["observations"].astype(np.float32),
            "action_BT": row["actions"],
            "weight_B": np.ones((), np.float32),
        }

    def loss(params: Any, batch: dict[str, Any], key: jax.Array) -> Loss:
        told = batch["return_to_go_BT"], batch["observation_BTP"], batch["action_BT"]
        weight_BT = jnp.broadcast_to(batch["weight_B"][:, None], batch["action_BT"].shape)
        losses = {
            name: cross_entropy.cross_entropy(
                walkers.logits(name, params, *told), batch["action_BT"], weight_BT
            )
            for name in TOLD
        }
        sums = {
            f"{what}_{name}": one.sums[what]
            for name, one in losses.items()
            for what in ("nats", "correct")
        }
        total = jnp.stack([one.total for one in losses.values()]).sum()
        tokens = losses["asked"].weight
        return Loss(total, tokens, {**sums, "tokens": tokens})

    train = records.shuffled(
        data.train, batch_size=batch_size, seed=seed, prepare=as_batch, name=data.name
    )
    held_out = records.ordered(data.validation, batch_size=100, prepare=as_batch)
    return Experiment(
        name="decide",
        fingerprint=(
            f"two decision transformers of {depth} blocks of width {width}, "
            f"{WORLD.steps} steps of an orchard"
        ),
        init=init,
        loss=loss,
        batch=train.batch,
        batch_size=batch_size,
        optimizer=optimizers.muon_wsd(
            steps, matrix_rate=matrix_rate, vector_rate=vector_rate
        ),
        steps=steps,
        metrics=report,
        seed=seed,
        evaluations={
            "validation": Evaluation(
                batch=held_out.batch,
                batch_size=100,
                batches=held_out.batches,
                loss=loss,
                metrics=report,
            )
        },
        report=partial(show, walkers, data),
        generate=partial(generate, walkers),
        tokens_per_row=decision_transformer.TOKENS_PER_STEP * WORLD.steps * len(TOLD),
    )


if __name__ == "__main__":
    main.main(experiment, generate=generate)
