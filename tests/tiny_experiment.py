"""Does a run survive what befalls it? One of milliseconds a step, with faults to order.

The text counts: each symbol is three times the one before, plus noise. The model is an
embedding, one MLP and a readout.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from transformer import main
from transformer.objectives import cross_entropy
from transformer.objectives.loss import Loss
from transformer.training import optimizers
from transformer.training.experiment import Evaluation, Experiment

SYMBOLS, LENGTH = 17, 8


def rows_of(seed: int, step: int, rows: Any) -> dict[str, np.ndarray]:
    """Rows of a step, each from its own generator; some targets do not count."""
    made = [_row(np.random.default_rng([seed, step, row])) for row in rows]
    ids_BL = np.stack([ids for ids, _ in made])
    return {
        "ids_BL": ids_BL[:, :-1],
        "targets_BL": ids_BL[:, 1:],
        "weight_BL": np.stack([weight for _, weight in made]),
    }


def _row(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    ids = [rng.integers(SYMBOLS)]
    for noise in rng.integers(2, size=LENGTH):
        ids.append((3 * ids[-1] + noise) % SYMBOLS)
    counts = rng.random(LENGTH) < 0.8
    return np.array(ids, np.int32), counts.astype(np.float32)


def init(width: int, key: jax.Array) -> dict[str, Any]:
    """Four arrays, drawn."""
    shapes = {
        "embedding_VD": (SYMBOLS, width),
        "w_up_DF": (width, 4 * width),
        "w_down_FD": (4 * width, width),
        "readout_VD": (SYMBOLS, width),
    }
    return {
        name: 0.3 * jax.random.normal(jax.random.fold_in(key, i), shape)
        for i, (name, shape) in enumerate(shapes.items())
    }


def loss(params: Any, batch: dict[str, Any], key: jax.Array) -> Loss:
    """Cross-entropy of the next symbol; says when it is traced."""
    print("tracing", flush=True)
    x_BLD = params["embedding_VD"][batch["ids_BL"]]
    x_BLF = jax.nn.relu(jnp.einsum("BLD,DF->BLF", x_BLD, params["w_up_DF"]))
    x_BLD = x_BLD + jnp.einsum("BLF,FD->BLD", x_BLF, params["w_down_FD"])
    logits_BLV = jnp.einsum("BLD,VD->BLV", x_BLD, params["readout_VD"])
    return cross_entropy.cross_entropy(
        logits_BLV, batch["targets_BL"], batch["weight_BL"]
    )


def report(loss: Loss) -> dict[str, float]:
    """The mean loss."""
    return {"loss": float(loss.total) / float(loss.weight)}


def generate(*, prompt: str = "0", new_tokens: int = 3) -> None:
    """Nothing to see."""
    print(prompt, new_tokens)


def experiment(
    *,
    steps: int = 20,
    batch_size: int = 8,
    width: int = 8,
    accumulate: int = 1,
    rate: float = 0.01,
    seed: int = 0,
    pause: float = 0.0,
    evaluation_pause: float = 0.0,
    show_pause: float = 0.0,
    fault: Literal["none", "nan", "raise", "hang"] = "none",
    at: int = 5,
    on: int = 0,
    workdir: Path | None = None,
) -> Experiment:
    """A small run.

    Args:
        steps: of training.
        batch_size: rows.
        width: features; four times as many in the middle.
        accumulate: parts of a batch.
        rate: of learning, at its peak.
        seed: of everything.
        pause: seconds that a batch takes.
        evaluation_pause: seconds that a batch of the evaluation takes.
        show_pause: seconds that showing takes.
        fault: what befalls the batch.
        at: in which step.
        on: on which process.
        workdir: unused.
    """

    def batch(step: int, rows: Any) -> dict[str, np.ndarray]:
        made = rows_of(seed, step, rows)
        time.sleep(pause)
        if fault == "none" or step != at or jax.process_index() != on:
            return made
        if fault == "raise":
            raise RuntimeError(f"row of step {step} is bad")
        if fault == "hang":
            time.sleep(1000)
        return {**made, "weight_BL": made["weight_BL"] * np.float32("nan")}

    def held_out(step: int, rows: Any) -> dict[str, np.ndarray]:
        print("evaluating", flush=True)
        time.sleep(evaluation_pause)
        return rows_of(seed + 1, step, rows)

    def show(params: Any, key: jax.Array) -> dict[str, Any]:
        if show_pause:
            print("showing", flush=True)
            time.sleep(show_pause)
        return {
            "samples.txt": "0 1 2\n",
            "results.json": {"right": 0.123456, "baseline": "none"},
        }

    schedule = optimizers.warmup_cosine(rate, steps=steps, warmup=5)
    return Experiment(
        name="tiny_experiment",
        architecture=f"MLP of width {width}",
        init=lambda key: init(width, key),
        loss=loss,
        batch=batch,
        batch_size=batch_size,
        optimizer=optimizers.adamw(schedule),
        steps=steps,
        report=report,
        accumulate=accumulate,
        seed=seed,
        evaluations={"held_out": Evaluation(held_out, batch_size, 2, loss, report)},
        show=show,
        generate=lambda params, key, **dials: generate(**dials),
        tokens_per_row=LENGTH,
    )


if __name__ == "__main__":
    main.run(experiment, generate=generate)
