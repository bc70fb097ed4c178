"""A plan counts what the run will have, and refuses what cannot be planned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import pytest
import tiny_experiment
from commands import exit_status, refusal

from transformer.models import decoder
from transformer.network import masks
from transformer.objectives import cross_entropy
from transformer.planning import chips, plan
from transformer.training import flops
from transformer.training.update import init_state

V5E = chips.parse("v5e:2x4")


@pytest.fixture(autouse=True)
def keep_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verb chooses the platform of its process."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


@pytest.fixture(scope="module")
def tiny() -> Any:
    return tiny_experiment.experiment(steps=50, batch_size=16)


def counted(experiment: Any, **sizes: int) -> plan.Plan:
    return plan.make(experiment, V5E, sizes, compile_it=False)


def test_a_plan_counts_the_parameters_and_bytes_of_the_state(tiny: Any) -> None:
    state = jax.eval_shape(lambda: init_state(tiny))
    got = counted(tiny, data=8)
    assert got.parameters == sum(a.size for a in jax.tree.leaves(state.params))
    size = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(state))
    assert got.checkpoint_bytes == size
    assert got.memory.parameters + got.memory.optimizer == size
    assert got.model_flops == 16 * flops.per_row(tiny) / 8
    assert got.fits
    divided = counted(tiny, fsdp=8)
    assert divided.memory.parameters < got.memory.parameters
    assert divided.share > 1  # The vocabulary's arrays do not divide by eight.


def test_collectives_of_data_and_fully_sharded_parallelism(tiny: Any) -> None:
    """data: one all-reduce of all gradients; fsdp: what is divided is gathered twice
    in bfloat16 and scattered once in float32."""
    params = jax.eval_shape(tiny.init, jax.random.key(0))
    numbers = sum(a.size for a in jax.tree.leaves(params))
    (one,) = counted(tiny, data=8).costs.collectives
    assert one[:4] == ("all-reduce", 4 * numbers, 8, 1)
    gather, scatter = counted(tiny, fsdp=8).costs.collectives
    divided = params["w_up_DF"].size
    assert gather.kind == "all-gather" and scatter.kind == "reduce-scatter"
    assert gather.bytes * 2 == scatter.bytes >= 4 * divided
    assert (gather.executions, scatter.executions) == (2, 1)


def decoder_of(length: int) -> Any:
    """An experiment on 32 x 128 tokens, in rows of `length`."""
    net = decoder.language_model(depth=2, vocab_size=64, width=64)
    rows = 32 * 128 // length
    ids_BL = jax.ShapeDtypeStruct((rows, length), "int32")
    batch = {
        "ids_BL": ids_BL,
        "weight_BL": jax.ShapeDtypeStruct((rows, length), "float32"),
    }

    def loss(params: Any, batch: Any, key: jax.Array) -> Any:
        tokens = masks.single_document(length)
        readout: Any = net.apply({"params": params}, batch["ids_BL"], tokens)
        targets = batch["ids_BL"], batch["weight_BL"]
        x_BLD, w_VD = readout
        return cross_entropy.fused_cross_entropy(x_BLD, w_VD, *targets, chunks=1)

    made = tiny_experiment.experiment(steps=50, batch_size=rows)
    abstract = {name: jax.numpy.zeros(a.shape, a.dtype) for name, a in batch.items()}
    return made._replace(
        init=lambda key: decoder.init_params(net, key),
        loss=loss,
        batch=lambda step, numbers: {n: a[: len(numbers)] for n, a in abstract.items()},
        tokens_per_row=length,
    )


def test_at_equal_tokens_longer_rows_cost_more() -> None:
    short, long = (counted(decoder_of(length), data=8) for length in (128, 512))
    assert short.tokens == long.tokens
    assert long.costs.flops > short.costs.flops
    assert long.model_flops > short.model_flops


@pytest.mark.parametrize(
    ("text", "group", "rate"),
    [
        ("v5e:16x16", 256, 200e9),
        ("v5e:16x16", 16, 100e9),
        ("v5p:8x8x8", 512, 600e9),
        ("v5p:8x8x8", 64, 400e9),
        ("h100:64", 8, 450e9),
        ("h100:64", 64, 50e9),
    ],
)
def test_links_of_the_axes_that_a_group_spans(
    text: str, group: int, rate: float
) -> None:
    assert chips.parse(text).send_rate(group) == pytest.approx(rate)


@pytest.mark.parametrize(
    "text", ["", "v5e", "v5e:", "v5e:16", "v5e:0x4", "v9:2x2", "h100:2x2", "v5e:٢x2"]
)
def test_other_topologies_are_refused(text: str, capsys, monkeypatch) -> None:
    line = refusal(["plan", f"--topology={text}"], capsys, monkeypatch)
    assert line.startswith("error: --topology: expected")


def test_a_batch_or_a_mesh_that_does_not_divide_is_refused(capsys, monkeypatch) -> None:
    common = ["plan", "--topology=v5e:2x4", "--method=count"]
    line = refusal([*common, "--batch_size=12"], capsys, monkeypatch)
    assert "batch_size: expected a multiple of 8" in line
    line = refusal([*common, "--mesh=fsdp:3"], capsys, monkeypatch)
    assert "impossible mesh: expected axes whose product" in line


def test_plans_are_printed_compared_and_written(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    """A run that fits ends with 0; one that does not, with 1 and what to change."""
    file = tmp_path / "plans.json"
    meshes = "--mesh=fsdp:8", "--mesh=fsdp:2,tensor:4"
    common = ["plan", "--method=count", "--batch_size=16", f"--json_file={file}"]
    status = exit_status([*common, "--topology=v5e:2x4", *meshes], monkeypatch)
    printed = capsys.readouterr().out
    assert status == 0
    assert printed.count("fits: ") == 2 and "bound by" in printed
    first, second = json.loads(file.read_text())
    assert first["mesh"] == {"fsdp": 8} and second["mesh"] == {"fsdp": 2, "tensor": 4}
    assert first["fits"] and first["memory"]["peak"] > 0
    small = chips.CHIPS["v5e"]._replace(memory=2000.0)
    monkeypatch.setitem(chips.CHIPS, "v5e", small)
    status = exit_status([*common, "--topology=v5e:2x4", *meshes], monkeypatch)
    assert status == 1
    assert "does not fit: " in capsys.readouterr().out
