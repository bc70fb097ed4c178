"""Is a mixture of experts better than a dense MLP of equal cost on Jane Austen's text?

    python -m experiments.moe
    python -m experiments.moe generate --prompt="It is a truth"

Both are trained in one run, on the same batches, with equal operations per token: two
of 16 experts of 128 features and a router, against 264 features. Bits per byte of all
of *Emma*: 1.687, of the dense model 1.726 (means of three seeds). 5 min 7 s on
two cores (398 s of CPU time). `experts.png`: the tokens of each expert. More: LOG.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from experiments import language_model
from experiments.reports import moe as study
from transformer import checks, main
from transformer.generation import text_model
from transformer.models import decoder
from transformer.models import moe as moe_model
from transformer.network import masks, precision
from transformer.objectives import cross_entropy, load_balancing
from transformer.objectives.loss import Loss
from transformer.training.declaration import derive
from transformer.training.experiment import Dtype, Experiment, LossFn, Run


def forward(
    dense_loss: LossFn, mixture: Any, dtype: str, params: Any, batch: Any, key: Any
) -> tuple[Loss, list[dict[str, jax.Array]]]:
    """The sum of both models' losses, and the router outputs of each layer."""
    weights = precision.cast_weights(params["moe"], dtype)
    positions = masks.packed(batch["segment_BL"], batch["position_BL"])
    inputs = {"params": weights}, batch["ids_BL"], positions
    (x_BLD, w_VD), sown = mixture.net.apply(*inputs, mutable=["routing"])
    targets_BL, weight_BL = batch["targets_BL"], batch["weight_BL"]
    fused = partial(cross_entropy.fused_cross_entropy, chunks=mixture.derived["chunks"])
    moe = fused(x_BLD, w_VD, targets_BL, weight_BL)
    layers = list(load_balancing.router_outputs(sown["routing"]))
    router = load_balancing.router_losses(layers, weight_BL)
    dense = dense_loss(params["dense"], batch, key)
    sums = {**dense.sums, **router.sums, "moe_nats": moe.sums["nats"]}
    return Loss(dense.total + moe.total + router.total, dense.weight, sums), layers


def metrics(loss: Loss) -> dict[str, float]:
    """Bits per byte of both models, and `router_losses` per token."""
    sums, weight = loss.sums, float(loss.weight)
    moe = loss._replace(sums={**sums, "nats": sums["moe_nats"]})
    return {
        "loss": float(loss.total) / weight,
        "bits_per_byte/dense": cross_entropy.bits_per_byte(loss),
        "bits_per_byte/moe": cross_entropy.bits_per_byte(moe),
        "load_balance_loss": float(sums["load_balance_loss"]) / weight,
        "dispatched_fraction": float(sums["dispatched_fraction"]) / weight,
    }


@derive(language_model.experiment, steps=600, batch_size=16)
def experiment(
    model: Callable[..., Any] = decoder.language_model,
    *,
    depth: checks.Depth = 3,
    width: checks.Width = 128,
    experts: checks.FixedCount = 16,
    experts_per_token: checks.FixedCount = 2,
    expert_width: checks.FixedCount = 128,
    capacity_factor: checks.PositiveScale | None = None,
    dtype: Dtype = "auto",
    **rest: Any,
) -> Experiment:
    """A dense model and a mixture of experts of equal cost, on the same batches.

    Args:
        depth: blocks.
        width: features of a token, 64 for each head.
        experts: experts of a layer, an even number.
        experts_per_token: experts that compute a token.
        expert_width: hidden features of an expert.
        capacity_factor: slots of an expert, shared by the documents of a row.
    """
    sizes = {"width": width, "experts": experts, "expert_width": expert_width}
    sizes["experts_per_token"] = experts_per_token
    rest |= {"depth": depth, "width": width, "dtype": dtype}
    build = partial(language_model.experiment, **rest)
    moe_mlp = moe_model.expert_mlp(**sizes, capacity_factor=capacity_factor)
    dense_mlp = moe_model.dense_equivalent(**sizes)
    dense: Experiment = build(partial(model, make_mlp=dense_mlp))
    moe: Any = build(partial(model, make_mlp=moe_mlp))
    run = Run(moe.steps, moe.batch_size, dtype)
    losses = partial(forward, dense.loss, moe, run.compute_dtype)

    def loss(params: Any, batch: Any, key: jax.Array) -> Loss:
        return losses(params, batch, key)[0]

    def report(params: Any, key: jax.Array) -> dict[str, Any]:
        files = study.report(losses, held_out, moe.tokenizer, params, experts_per_token)
        return {**moe.report(params["moe"], key), **files}

    held_out = moe.evaluations["validation"]._replace(loss=loss, metrics=metrics)
    return moe._replace(
        fingerprint=f"{moe.fingerprint}; {sizes}",
        init=lambda key: {"dense": dense.init(key), "moe": moe.init(key)},
        loss=loss,
        metrics=metrics,
        evaluations={"validation": held_out},
        report=report,
        generate=lambda params, *key, **how: moe.generate(params["moe"], *key, **how),
        benchmarks={},
        net={"dense": dense.net, "moe": moe.net},
    )


if __name__ == "__main__":
    main.main(experiment, generate=text_model.generate)
