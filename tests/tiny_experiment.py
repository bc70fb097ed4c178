"""A run of milliseconds a step, with faults on demand: does it survive them?

In the text each token is three times the one before, plus noise. The model is an
embedding, one MLP and a readout.
"""

from __future__ import annotations

import time
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from transformer import axes, checks, main
from transformer.objectives import cross_entropy
from transformer.objectives.loss import Loss
from transformer.training.declaration import declare
from transformer.training.experiment import Evaluation, Experiment, Optimizer, Run
from transformer.training.optimizers import is_decayed, warmup_cosine

VOCAB, LENGTH = 17, 8


def rows_of(seed: int, step: int, rows: Any) -> dict[str, np.ndarray]:
    """Rows of a step, each from its own generator; some targets do not count."""
    pairs = [_row(np.random.default_rng([seed, step, row])) for row in rows]
    ids_BL = np.stack([ids for ids, _ in pairs])
    return {
        "ids_BL": ids_BL[:, :-1],
        "targets_BL": ids_BL[:, 1:],
        "weight_BL": np.stack([weight for _, weight in pairs]),
    }


def _row(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    ids = [rng.integers(VOCAB)]
    for noise in rng.integers(2, size=LENGTH):
        ids.append((3 * ids[-1] + noise) % VOCAB)
    counts = rng.random(LENGTH) < 0.8
    return np.array(ids, np.int32), counts.astype(np.float32)


def init(width: int, key: jax.Array) -> dict[str, Any]:
    """Four arrays of normal numbers."""
    shapes = {
        "embedding_VD": (VOCAB, width),
        "w_up_DF": (width, 4 * width),
        "w_down_FD": (4 * width, width),
        "readout_VD": (VOCAB, width),
    }
    return {
        name: 0.3 * jax.random.normal(jax.random.fold_in(key, i), shape)
        for i, (name, shape) in enumerate(shapes.items())
    }


def loss(params: Any, batch: dict[str, Any], key: jax.Array) -> Loss:
    """Cross-entropy of the next token; prints when it is traced."""
    print("tracing", flush=True)
    x_BLD = params["embedding_VD"][batch["ids_BL"]]
    x_BLF = jax.nn.relu(jnp.einsum("BLD,DF->BLF", x_BLD, params["w_up_DF"]))
    x_BLD = x_BLD + jnp.einsum("BLF,FD->BLD", x_BLF, params["w_down_FD"])
    logits_BLV = jnp.einsum("BLD,VD->BLV", x_BLD, params["readout_VD"])
    return cross_entropy.cross_entropy(
        logits_BLV, batch["targets_BL"], batch["weight_BL"]
    )


@jax.jit
def follow(params: Any) -> jax.Array:
    """The most probable tokens after 0 to 7; rows over the mesh, as of a batch."""
    x_BD = axes.constrain(params["embedding_VD"][:8], "BD")
    x_BF = jax.nn.relu(x_BD @ params["w_up_DF"])
    x_BD = x_BD + x_BF @ params["w_down_FD"]
    return axes.constrain(jnp.argmax(x_BD @ params["readout_VD"].T, -1), "B")


def metrics(loss: Loss) -> dict[str, float]:
    """The mean loss."""
    return {"loss": float(loss.total) / float(loss.weight)}


def generate(*, prompt: str = "0", new_tokens: int = 3) -> None:
    """Print the arguments."""
    print(prompt, new_tokens)


def adamw(
    steps: int, *, learning_rate: checks.LearningRate = 1e-3
) -> optax.GradientTransformation:
    """Clipped AdamW of the matrices.

    Args:
        learning_rate: peak learning rate.
    """
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(b1=0.9, b2=0.95),
        optax.add_decayed_weights(0.1, mask=is_decayed),
        optax.scale_by_learning_rate(
            warmup_cosine(learning_rate, steps=steps, warmup=5)
        ),
    )


@declare(steps=20, batch_size=8, learning_rate=0.01)
def experiment(
    run: Run,
    optimizer: Optimizer = adamw,
    *,
    width: checks.FixedCount = 8,
    accumulate: checks.Count = 1,
    pause: float = 0.0,
    evaluation_pause: float = 0.0,
    report_pause: float = 0.0,
    report_predictions: bool = False,
    fault: Literal["none", "nan", "raise", "hang"] = "none",
    fault_step: int = 5,
    fault_process: int = 0,
) -> Experiment:
    """A small run.

    Args:
        width: features; four times as many in the hidden layer.
        accumulate: microbatches.
        pause: seconds that a batch takes.
        evaluation_pause: seconds that a batch of the evaluation takes.
        report_pause: seconds that the report takes.
        report_predictions: also the tokens that follow each.
        fault: fault of the batch.
        fault_step: its step.
        fault_process: its process.
    """

    def batch(step: int, rows: Any) -> dict[str, np.ndarray]:
        arrays = rows_of(run.seed, step, rows)
        time.sleep(pause)
        here = step == fault_step and jax.process_index() == fault_process
        if fault == "none" or not here:
            return arrays
        if fault == "raise":
            raise RuntimeError(f"row of step {step} is bad")
        if fault == "hang":
            time.sleep(1000)
        return {**arrays, "weight_BL": arrays["weight_BL"] * np.float32("nan")}

    def held_out(step: int, rows: Any) -> dict[str, np.ndarray]:
        print("evaluating", flush=True)
        time.sleep(evaluation_pause)
        return rows_of(run.seed + 1, step, rows)

    def report(params: Any, key: jax.Array) -> dict[str, Any]:
        if report_pause:
            print("reporting", flush=True)
            time.sleep(report_pause)
        predictions = {}
        if report_predictions:
            predictions = {"predictions.txt": str(jax.device_get(follow(params)))}
        return predictions | {
            "samples.txt": "0 1 2\n",
            "results.json": {"accuracy": 0.123456, "baseline": "none"},
        }

    return Experiment(
        fingerprint=f"MLP of width {width}",
        init=lambda key: init(width, key),
        loss=loss,
        batch=batch,
        batch_size=run.batch_size,
        optimizer=optimizer(run.steps),
        steps=run.steps,
        metrics=metrics,
        accumulate=accumulate,
        seed=run.seed,
        evaluations={
            "held_out": Evaluation(held_out, run.batch_size, 2, loss, metrics)
        },
        report=report,
        generate=lambda params, key, **options: generate(**options),
        tokens_per_row=LENGTH,
    )


if __name__ == "__main__":
    main.main(experiment, generate=generate)
