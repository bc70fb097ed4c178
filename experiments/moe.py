"""Does a mixture of experts read Jane Austen better than a dense MLP of equal work?

    python -m experiments.moe
    python -m experiments.moe generate --prompt="It is a truth"

Both are trained in the same run, on the same batches, with the same operations a token:
two of 16 experts of 128 features and a router, against 264 features. On two cores that
other work shared it took 5 min 7 s (398 s of CPU time). Bits per byte of the whole of
*Emma*: 1.686, the dense baseline 1.727. `experts.png`: who reads what. More: LOG.md.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import numpy as np

from experiments import language_model
from transformer import axes, cpu_tuning, main
from transformer.data.text import tokenizers
from transformer.generation import text_model
from transformer.models import decoder
from transformer.network import masks, mlp, precision
from transformer.network.kernels import activations as fast_activations
from transformer.network.moe import experts, routing
from transformer.objectives import cross_entropy, fused_cross_entropy, load_balancing
from transformer.objectives.loss import Loss
from transformer.training import evaluation, optimizers
from transformer.training.experiment import Evaluation, Experiment

NAMES = ("dense", "mixture")


def reslotted(net: Any, make: Any, *, depth: int) -> Any:
    """`net` with `depth` blocks and another MLP in each."""
    make_block = net.make_stack.keywords["make_block"]

    def replaced(block: Any, layer: int) -> Any:
        def other(*, make_attention: Any, make_mlp: Any, make_norm: Any) -> Any:
            return block(make_attention, make, make_norm)

        return make_block(other, layer)

    deep = partial(net.make_stack, depth=depth, make_block=replaced)
    return net.clone(make_stack=deep)


def mlps(
    *, width: int, hidden: int, number: int, k: int, dispatch: routing.Dispatch
) -> dict[str, Any]:
    """The two MLPs: `number` experts of which k serve a token, and a dense one as wide
    as those k, plus what costs as much as the router: D E = 2 D (E / 2)."""
    alike: Any = partial(
        partial,
        width=width,
        activation=fast_activations.relu_squared,
        output_init=nn.initializers.zeros,
    )
    scaled: Any = partial(nn.initializers.variance_scaling, 1.0, "fan_in", "normal")
    return {
        "dense": alike(mlp.MLP, hidden=k * hidden + number // 2, weight_init=scaled()),
        "mixture": alike(
            experts.Experts,
            hidden=hidden,
            experts=number,
            k=k,
            gates=routing.renormalised,
            dispatch=dispatch,
            router_init=nn.initializers.normal(width**-0.5),
            weight_init=scaled(batch_axis=0),
        ),
    }


def read(net: Any, params: Any, batch: Any) -> tuple[Loss, Any]:
    """Cross-entropy, and what the routers told."""
    tokens = masks.packed(batch["segment_BL"], batch["position_BL"])
    (x_BLD, w_VD), told = net.apply(
        {"params": params}, batch["ids_BL"], tokens, mutable=["routing"]
    )
    targets = batch["targets_BL"], batch["weight_BL"]
    return fused_cross_entropy.cross_entropy(
        x_BLD, w_VD, *targets, chunks=language_model.CHUNKS
    ), told


def both(
    nets: dict[str, Any], dtype: Any, bytes_V: Any, params: Any, batch: Any
) -> tuple[Loss, list[Any]]:
    """The sum of the losses, where no parameter of one model sees the other's, and what
    each layer's router told."""
    narrow = precision.cast(params, dtype)
    dense, _ = read(nets["dense"], narrow["dense"], batch)
    mixture, told = read(nets["mixture"], narrow["mixture"], batch)
    layers = list(load_balancing.told(told["routing"]))
    fair = load_balancing.over_layers(layers, batch["weight_BL"])
    total = dense.total + mixture.total + fair.total
    sums = {"dense": dense.sums["nats"], "mixture": mixture.sums["nats"], **fair.sums}
    loss = Loss(total, dense.weight, sums)
    targets = batch["targets_BL"], batch["weight_BL"]
    return cross_entropy.with_bytes(loss, *targets, bytes_V), layers


def report(loss: Loss) -> dict[str, float]:
    """Bits per byte of both; the balance, 1 at best; the share of choices kept."""
    weight = float(loss.weight)
    nats = (loss._replace(sums={**loss.sums, "nats": loss.sums[n]}) for n in NAMES)
    return {
        "loss": float(loss.total) / weight,
        **dict(zip(NAMES, map(cross_entropy.bits_per_byte, nats), strict=True)),
        "balance": float(loss.sums["balance"]) / weight,
        "kept": float(loss.sums["kept"]) / weight,
    }


def survey(
    pair: Any, vocabulary: int, params: Any, batch: Any, key: jax.Array
) -> tuple[Loss, jax.Array]:
    """The loss, and which symbols chose whom."""
    loss, layers = pair(params, batch)
    return loss, load_balancing.choices(layers, batch, vocabulary=vocabulary)


def typical(counts_EV: np.ndarray, words: list[str], most: int = 10) -> list[str]:
    """What each expert reads above its share: symbols by n log(p(e|v) / p(e))."""
    total_V, total_E = counts_EV.sum(0), counts_EV.sum(1)
    expected_EV = np.outer(total_E / total_E.sum(), total_V)
    lift_EV = counts_EV * np.log(np.maximum(counts_EV, 1e-9) / (expected_EV + 1e-9))
    best = np.argsort(-lift_EV, axis=1)[:, :most]
    return ["  ".join(words[v].replace(" ", "\u00b7") for v in row) for row in best]


def drawn(load_NE: np.ndarray, counts_NEV: np.ndarray, words: list[str]) -> Any:
    """A figure: each layer's experts, their load, and the symbols typical of them."""
    from matplotlib.figure import Figure

    layers, number = load_NE.shape
    limit = max(1.7, 1.05 * load_NE.max())
    figure = Figure(figsize=(6.2 * layers, 0.36 * number + 1.2), layout="constrained")
    for i, panel in enumerate(figure.subplots(1, layers, squeeze=False)[0]):
        order, told = np.argsort(-load_NE[i]), typical(counts_NEV[i], words)
        panel.barh(range(number), load_NE[i, order], color=f"C{i}", alpha=0.4)
        panel.axvline(1, color="black", linewidth=0.8, linestyle=":")
        for place, expert in enumerate(order):
            panel.text(0.03, place, told[expert], va="center", parse_math=False)
        panel.set(title=f"layer {i + 1}", xlabel="load (1: an equal share)")
        panel.set(yticks=range(number), yticklabels=order + 1, xlim=(0, limit))
        panel.invert_yaxis()
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def show(
    speech: text_model.Speech,
    symbols: tokenizers.Tokenizer,
    held_out: Evaluation,
    work: dict[str, float],
    params: Any,
    key: jax.Array,
) -> dict[str, Any]:
    """Continuations by the mixture, the numbers, and who reads what: the sums of the
    evaluation are those of `survey`."""
    loss, counts_NEV = evaluation.summed(held_out, params, axes.mesh())
    told = report(loss)
    load_NE = counts_NEV.sum(-1) / counts_NEV.sum(-1).mean(-1, keepdims=True)
    spelt = [repr(symbols.decode([v]))[1:-1] for v in range(symbols.vocabulary)]
    results = {
        **{f"bits per byte, {name}": told[name] for name in NAMES},
        "lower by, per cent": 100 * (1 - told["mixture"] / told["dense"]),
        **work,
        "largest load, in equal shares": float(load_NE.max()),
        "choices kept, share": told["kept"],
    }
    return {
        **language_model.show(speech, params, key),
        "experts.png": drawn(load_NE, counts_NEV, spelt),
        "results.json": results,
    }


def experiment(
    *,
    depth: int = 3,
    width: int = 128,
    number: int = 16,
    k: int = 2,
    hidden: int = 128,
    capacity: float | None = None,
    text: str = "austen",
    length: int = 256,
    batch_size: int = 16,
    steps: int = 600,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    seed: int = 0,
    workdir: Path | None = None,
) -> Experiment:
    """A dense model and a mixture of equal work a token, on the same batches.

    Args:
        depth: blocks.
        width: of the residual stream, 64 a head.
        number: of experts, even.
        k: experts of a token.
        hidden: features of an expert.
        capacity: slots of each expert in equal shares of a row; None drops no token.
        text: a shipped text, a TFDS name, or the path of a UTF-8 file or folder.
        length: tokens in a row.
        batch_size: rows in a step.
        steps: of training.
        dtype: of the products; auto is bfloat16 where the machine multiplies it fast.
        seed: of the parameters, the order of the rows and the samples.
        workdir: where the tokenizer is kept; None keeps it in the user's cache only.
    """
    heads = width // language_model.HEAD_FEATURES
    base = language_model.experiment(
        depth=heads,
        text=text,
        length=length,
        batch_size=batch_size,
        steps=steps,
        dtype=dtype,
        seed=seed,
        workdir=workdir,
    )
    symbols = tokenizers.from_bytes(base.files["tokenizer.json"])
    dispatch = routing.dropless() if capacity is None else routing.capacity(capacity)
    slots = mlps(width=width, hidden=hidden, number=number, k=k, dispatch=dispatch)
    plain = language_model.model(depth=heads, vocabulary=symbols.vocabulary)
    nets = {name: reslotted(plain, slots[name], depth=depth) for name in NAMES}
    compute = cpu_tuning.compute_dtype() if dtype == "auto" else dtype
    pair = partial(both, nets, compute, symbols.bytes_V)

    def init(key: jax.Array) -> Any:
        return {name: decoder.initial(nets[name], key) for name in NAMES}

    def loss(params: Any, batch: Any, key: jax.Array) -> Loss:
        return pair(params, batch)[0]

    flops = {
        name: decoder.training_flops(
            experts.active(shapes, k),
            mask=language_model.MASK,
            length=length,
            heads=heads,
            head_features=language_model.HEAD_FEATURES,
            depth=depth,
        )
        for name, shapes in jax.eval_shape(init, jax.random.key(0)).items()
    }
    work = {f"training MFLOP a token, {n}": flops[n] / length / 1e6 for n in NAMES}
    spoken = "float32" if cpu_tuning.on_cpu() else compute
    speech = base.show.args[0]._replace(
        language=language_model.language_of(nets["mixture"], spoken)._replace(
            weights=lambda params: precision.cast(params["mixture"], spoken)
        )
    )
    held_out = base.evaluations["validation"]._replace(loss=loss, report=report)
    surveyed = held_out._replace(loss=partial(survey, pair, symbols.vocabulary))
    return base._replace(
        name="mixture",
        architecture=f"{depth} x {width}, {number} experts of {hidden}, {k} a token",
        init=init,
        loss=loss,
        optimizer=optimizers.stable_muon(steps, matrix_rate=0.02, vector_rate=0.01),
        seed=seed,
        report=report,
        evaluations={"validation": held_out},
        show=partial(show, speech, symbols, surveyed, work),
        generate=partial(language_model.generate, speech),
        benchmark={},
        flops_per_row=sum(flops.values()),
    )


if __name__ == "__main__":
    main.run(experiment, generate=language_model.generate)
