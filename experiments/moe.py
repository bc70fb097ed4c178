"""Does a mixture of experts model Jane Austen's text better than a dense MLP of equal
compute?

    python -m experiments.moe
    python -m experiments.moe generate --prompt="It is a truth"

Both are trained in one run, on the same batches, with equal operations a token: two of
16 experts of 128 features and a router, against 264 features. Bits per byte of the
whole of *Emma*: 1.686; baseline, the dense model: 1.727. 5 min 7 s on two shared cores
(398 s of CPU time). `experts.png`: the tokens of each expert. More: LOG.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from experiments import language_model
from transformer import main
from transformer.generation import text_model
from transformer.models import decoder, defaults
from transformer.network import masks, precision
from transformer.network.moe import routing
from transformer.network.moe.experts import MixtureOfExperts
from transformer.objectives import cross_entropy, load_balancing
from transformer.objectives.loss import Loss
from transformer.training.declaration import derive
from transformer.training.experiment import Dtype, Experiment, LossFn, Run

NAMES = ("dense", "moe")


def moe_mlp(
    *, width: int, expert_width: int, capacity_factor: float | None
) -> defaults.MakeOfWidth:
    """The mixture of experts in the slot `make_mlp`. capacity_factor: None drops no
    token."""
    dispatch = routing.dropless_dispatch()
    if capacity_factor is not None:
        dispatch = routing.capacity_dispatch(capacity_factor)
    return partial(
        MixtureOfExperts,
        hidden_features=expert_width,
        gates=routing.softmax_gates,
        dispatch=dispatch,
        activation=defaults.relu_squared,
        router_init=nn.initializers.normal(width**-0.5),
        weight_init=defaults.fan_in_init(batch_axis=0),
        output_init=defaults.ZERO,
    )


def forward(
    dense_loss: LossFn, net: Any, dtype: str, params: Any, batch: Any, key: jax.Array
) -> tuple[Loss, list[dict[str, jax.Array]]]:
    """The sum of both models' losses, which share no parameter, and the router outputs
    of each layer."""
    weights = precision.cast_weights(params["moe"], dtype)
    positions = masks.packed(batch["segment_BL"], batch["position_BL"])
    (x_BLD, w_VD), sown = net.apply(
        {"params": weights}, batch["ids_BL"], positions, mutable=["routing"]
    )
    targets = batch["targets_BL"], batch["weight_BL"]
    moe = cross_entropy.fused(x_BLD, w_VD, *targets, chunks=language_model.CHUNKS)
    layers = list(load_balancing.router_outputs(sown["routing"]))
    router = load_balancing.router_losses(layers, batch["weight_BL"])
    dense = dense_loss(params["dense"], batch, key)
    sums = {"nats_dense": dense.sums["nats"], "nats_moe": moe.sums["nats"]}
    sums |= {"bytes": dense.sums["bytes"], **router.sums}
    return Loss(dense.total + moe.total + router.total, dense.weight, sums), layers


def metrics(loss: Loss) -> dict[str, float]:
    """Bits per byte of both; load_balance_loss, 1 at best; dispatched_fraction, of the
    choices within the experts' capacity."""
    sums, weight = loss.sums, float(loss.weight)
    numbers = {"loss": float(loss.total) / weight}
    for name in NAMES:
        one = loss._replace(sums={**sums, "nats": sums[f"nats_{name}"]})
        numbers[f"bits_per_byte/{name}"] = cross_entropy.bits_per_byte(one)
    for name in ("load_balance_loss", "dispatched_fraction"):
        numbers[name] = float(sums[name]) / weight
    return numbers


@derive(language_model.experiment, steps=600, batch_size=16)
def experiment(
    model: Callable[..., Any] = decoder.language_model,
    *,
    depth: int = 3,
    width: int = 128,
    experts: int = 16,
    experts_per_token: int = 2,
    expert_width: int = 128,
    capacity_factor: float | None = None,
    dtype: Dtype = "auto",
    **rest: Any,
) -> Experiment:
    """A dense model and a mixture of experts of equal compute, on the same batches.

    The slot `model` is called with `depth`, `vocab_size`, `width` and `make_mlp`.

    Args:
        depth: blocks.
        width: features of a token, 64 for each head.
        experts: experts of a layer, an even number.
        experts_per_token: experts that compute a token.
        expert_width: hidden features of an expert.
        capacity_factor: slots of an expert, in equal shares of a row; None: no limit.
    """
    # As costly as the chosen experts and the router: D E = 2 D (E / 2).
    dense_width = experts_per_token * expert_width + experts // 2
    dense_mlp = partial(defaults.mlp(width=width), hidden_features=dense_width)
    mixture = moe_mlp(
        width=width, expert_width=expert_width, capacity_factor=capacity_factor
    )
    mixture = partial(mixture, experts=experts, experts_per_token=experts_per_token)
    dense, moe = (
        language_model.experiment(
            partial(model, width=width, make_mlp=mlp), depth=depth, dtype=dtype, **rest
        )
        for mlp in (dense_mlp, mixture)
    )
    run = Run(moe.steps, moe.batch_size, dtype)
    both = partial(forward, dense.loss, moe.net, run.compute_dtype)

    def init(key: jax.Array) -> Any:
        return {"dense": dense.init(key), "moe": moe.init(key)}

    def loss(params: Any, batch: Any, key: jax.Array) -> Loss:
        return both(params, batch, key)[0]

    def report(params: Any, key: jax.Array) -> dict[str, Any]:
        from experiments.reports import moe as study

        usage = study.expert_usage(both, held_out, moe.tokenizer.vocab_size)
        files = study.report(usage, moe.tokenizer, params, experts_per_token)
        return {**moe.report(params["moe"], key), **files}

    def generate(params: Any, key: jax.Array, **flags: Any) -> str:
        assert moe.generate is not None
        return moe.generate(params["moe"], key, **flags)

    held_out = moe.evaluations["validation"]._replace(loss=loss, metrics=metrics)
    return moe._replace(
        fingerprint=f"{depth} x {width}, {experts} experts of {expert_width}, "
        f"{experts_per_token} a token",
        init=init,
        loss=loss,
        metrics=metrics,
        evaluations={"validation": held_out},
        report=report,
        generate=generate,
        benchmarks={},
        net={"dense": dense.net, "moe": moe.net},
    )


if __name__ == "__main__":
    main.main(experiment, generate=text_model.generate)
