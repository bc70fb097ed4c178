"""A plan counts what the run will have, and refuses what cannot be planned."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jax
import pytest
import tiny_experiment
from commands import exit_status, refusal

from experiments import language_model, moe
from transformer import axes
from transformer.models import decoder
from transformer.network import masks
from transformer.objectives import cross_entropy
from transformer.planning import (
    chips,
    compilation,
    costs,
    plan,
    roofline,
    table,
    theory,
)
from transformer.training import flops
from transformer.training.update import init_state

V5E = chips.parse("v5e:2x4")


@pytest.fixture(autouse=True)
def keep_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verb changes the environment of its process, which child processes of later
    tests would inherit."""
    for name, value in compilation.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


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


@pytest.mark.parametrize("make", [language_model.experiment, moe.experiment])
@pytest.mark.parametrize(
    "sizes",
    [{"fsdp": 8}, {"fsdp": 4, "tensor": 2}, {"fsdp": 2, "context": 2, "expert": 2}],
    ids=str,
)
def test_a_chip_has_an_even_share_of_the_state(make: Any, sizes: dict) -> None:
    """All axes divide it: context and expert too, where nothing else needs them."""
    made = make(depth=2, sequence_length=16, batch_size=8)
    work = theory.Work(1.0, 1.0, 1.0)
    got = plan.make(made, V5E, sizes, compile_it=False, work=work)
    assert 1 <= got.share <= plan.IDEAL_SHARE


def test_collectives_of_data_and_fully_sharded_parallelism(tiny: Any) -> None:
    """data: one all-reduce of all gradients; fsdp: what is divided is gathered twice
    in bfloat16 and scattered once in float32, or as `--gradient_dtype` says."""
    params = jax.eval_shape(tiny.init, jax.random.key(0))
    numbers = sum(a.size for a in jax.tree.leaves(params))
    (one,) = counted(tiny, data=8).costs.collectives
    assert one[:4] == ("all-reduce", 4 * numbers, 8, 1)
    gather, scatter = counted(tiny, fsdp=8).costs.collectives
    divided = params["w_up_DF"].size
    assert gather.kind == "all-gather" and scatter.kind == "reduce-scatter"
    assert gather.bytes * 2 == scatter.bytes >= 4 * divided
    assert (gather.executions, scatter.executions) == (2, 1)
    narrow = counted(tiny._replace(gradient_dtype="bfloat16"), fsdp=8)
    same, half = narrow.costs.collectives
    assert same == gather and half == scatter._replace(bytes=scatter.bytes / 2)
    temporaries = counted(tiny, fsdp=8).memory.temporaries
    gradients = narrow.memory.parameters / 2
    assert temporaries - narrow.memory.temporaries == gradients


def test_gradients_of_weights_that_fsdp_does_not_divide_are_reduced(tiny: Any) -> None:
    """No dimension of the tiny model is a multiple of seven."""
    made = tiny._replace(batch_size=14)
    got = plan.make(made, chips.parse("h100:7"), {"fsdp": 7}, compile_it=False)
    assert got.costs.collectives == (
        costs.Collective("all-reduce", 4 * got.parameters, 7, 1, True, span=7),
    )
    assert "all-gather" not in table.lines(got)


def test_groups_of_gpus_on_several_nodes_send_over_the_network(tiny: Any) -> None:
    """Of data:8,fsdp:8 the weights are gathered within a node; the copies of a shard
    are on eight nodes."""
    made = tiny._replace(batch_size=64)
    topology, sizes = chips.parse("h100:64"), {"data": 8, "fsdp": 8}
    got = plan.make(made, topology, sizes, compile_it=False)
    spans = {one.kind: (one.group, one.span) for one in got.costs.collectives}
    assert spans["all-gather"] == spans["reduce-scatter"] == (8, 8)
    assert spans["all-reduce"] == (8, 57)
    seconds = sum(
        one.traffic / (50e9 if one.kind == "all-reduce" else 450e9)
        for one in got.costs.collectives
    )
    assert got.roofline.async_collectives == pytest.approx(seconds)


def test_gradients_are_reduced_between_slices_over_the_network(tiny: Any) -> None:
    """Within each slice as in one alone; between two, each chip its shard."""
    made, sizes = tiny._replace(batch_size=64), {"fsdp": 8}
    one, two = (
        plan.make(made, chips.parse(f"{slices}v5e:2x4"), sizes, compile_it=False)
        for slices in ("", "2x")
    )
    assert two.topology.size == 16 and two.mesh == {"slice": 2, "fsdp": 8}
    assert two.memory.parameters == one.memory.parameters
    *within, between = two.costs.collectives
    assert tuple(within) == one.costs.collectives
    assert (between.kind, between.group, between.span) == ("all-reduce", 2, 9)
    assert two.topology.send_rate(between.group, between.span) == 3.125e9


def test_what_is_not_counted_is_told(tiny: Any) -> None:
    assert counted(tiny, fsdp=8).method == "counted, not compiled"
    text = table.lines(counted(tiny, data=2, context=2, expert=2))
    assert "without what layers exchange over context and expert" in text


def test_a_step_that_does_not_fit_is_divided_where_it_may_be(tiny: Any) -> None:
    """Into the fewest microbatches whose activations fit; the state, gradients, FLOPs
    and tokens stay."""
    made = tiny._replace(batch_size=64, accumulate_to_fit=True)
    works, sizes = theory.works_of(made), {"data": 8}
    work = works(made)
    whole = plan.make(made, V5E, sizes, compile_it=False, work=work)
    kept = work.activations / 8

    def divide(experiment: Any, there: float) -> Any:
        chip = V5E.chip._replace(memory=there)
        return plan.fit(experiment, V5E._replace(chip=chip), sizes, works)

    assert divide(made, whole.memory.peak) == made
    some = whole.memory.peak - 0.6 * kept
    divided = divide(made, some)
    counted = works(divided)
    assert divided.accumulate == 4 and counted.activations == work.activations / 4
    got = plan.make(divided, V5E, sizes, compile_it=False, work=counted)
    assert got.memory.peak == pytest.approx(whole.memory.peak - 0.75 * kept)
    assert got.costs.flops == whole.costs.flops and got.tokens == whole.tokens
    assert divide(made, whole.memory.peak - kept) == made
    fixed = made._replace(accumulate_to_fit=False)
    assert divide(fixed, some) == fixed


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("v5e:2x4", 1),
        ("v5e:4x4", 4),
        ("v5p:2x2x1", 1),
        ("v5p:4x4x4", 16),
        ("h100:12", 2),
    ],
)
def test_hosts_of_a_topology(text: str, hosts: int) -> None:
    assert chips.parse(text).hosts == hosts


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


def test_auto_prefers_meshes_that_fit_and_then_the_shorter_step(
    tiny: Any, monkeypatch
) -> None:
    found = plan.candidates(tiny, V5E, theory.works_of(tiny))
    steps = [one.roofline.serial for one in found]
    assert len(found) > 5 and steps == sorted(steps)
    # Between what the most and the least divided plan needs.
    peaks = sorted(one.memory.peak for one in found)
    short = V5E.chip._replace(memory=(peaks[0] + peaks[-1]) / 2)
    found = plan.candidates(tiny, V5E._replace(chip=short), theory.works_of(tiny))
    fits = [one.fits for one in found]
    assert fits == sorted(fits, reverse=True) and len(set(fits)) == 2
    with pytest.raises(ValueError, match="batch_size: expected a multiple"):
        odd = tiny._replace(batch_size=7)
        plan.candidates(odd, chips.parse("v5e:4x8"), theory.works_of(tiny))


@pytest.mark.parametrize(
    ("text", "group", "rate"),
    [
        ("v5e:16x16", 256, 200e9),
        ("v5e:16x16", 16, 100e9),
        ("v5p:8x8x8", 512, 600e9),
        ("v5p:8x8x8", 64, 400e9),
        ("h100:64", 8, 450e9),
        ("h100:64", 64, 50e9),
        ("2xv5e:16x16", 256, 200e9),
        ("2xv5e:16x16", 512, 3.125e9),
    ],
)
def test_links_of_the_axes_that_a_group_spans(
    text: str, group: int, rate: float
) -> None:
    assert chips.parse(text).send_rate(group) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("text", "group", "span", "hops"),
    [
        ("v5e:16x16", 256, 0, 8),
        ("v5e:16x16", 16, 0, 4),
        ("v5e:16x16", 16, 241, 4),
        ("v5e:16x16", 8, 0, 2),
        ("v5e:16x16", 32, 249, 8),
        ("v5p:8x8x8", 512, 0, 6),
        ("v5e:2x4", 2, 0, 1),
        ("h100:8", 8, 0, 1),
    ],
)
def test_an_all_to_all_crosses_the_links_between_its_chips(
    text: str, group: int, span: int, hops: float
) -> None:
    """A byte crosses a quarter of a ring in the mean; all its links carry it on."""
    topology = chips.parse(text)
    one = costs.Collective("all-to-all", 1e9, group, 1, True, span)
    made = roofline.of_costs(costs.Costs(0, 0, (one,), 0, 0), topology)
    seconds = one.traffic * hops / topology.send_rate(group, span)
    assert made.async_collectives == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v5e",
        "v5e:",
        "v5e:16",
        "v5e:0x4",
        "v9:2x2",
        "h100:2x2",
        "v5e:٢x2",
        "2xh100:8",
        "0xv5e:2x2",
        "v5e:32x16",
        "2xv6e:32x16",
        "v5p:32x16x16",
    ],
)
def test_other_topologies_are_refused(text: str, capsys, monkeypatch) -> None:
    line = refusal(["plan", f"--topology={text}"], capsys, monkeypatch)
    assert line.startswith("error: --topology: expected")


def test_a_batch_or_a_mesh_that_does_not_divide_is_refused(capsys, monkeypatch) -> None:
    common = ["plan", "--topology=v5e:2x4", "--method=count"]
    line = refusal([*common, "--batch_size=12"], capsys, monkeypatch)
    assert "batch_size: expected a multiple of 8" in line
    for mesh in (["--mesh=fsdp:3"], ["--mesh", "fsdp:3"], ["-mesh=fsdp:3"]):
        line = refusal([*common, *mesh], capsys, monkeypatch)
        assert "impossible mesh: expected axes whose product" in line
    line = refusal([*common, "--mesh=fsdp:16"], capsys, monkeypatch)
    assert line.endswith("devices, 8; got fsdp=16 (product 16)")
    two = ["plan", "--topology=2xv5e:2x4", "--method=count", "--mesh=slice:4,fsdp:4"]
    line = refusal(two, capsys, monkeypatch)
    assert line.endswith("expected the number of TPU slices, 2; got 4")
    line = refusal([*common, "--mesh=fsdp:²"], capsys, monkeypatch)
    assert "--mesh: expected axis:size" in line


def test_a_file_that_cannot_be_written_is_refused_before_the_plan(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(plan, "make", None)
    common = ["plan", "--topology=v5e:2x4", "--method=count", "--batch_size=16"]
    for file in (tmp_path, tmp_path / "none" / "plans.json"):
        line = refusal([*common, f"--json_file={file}"], capsys, monkeypatch)
        assert line.startswith("error: --json_file: expected a file in a folder")


def test_a_step_that_does_not_compile_for_its_memory_does_not_fit(
    tiny: Any, tmp_path: Path, capsys, monkeypatch
) -> None:
    """libtpu refuses it; the other meshes are planned, the table and the JSON file have
    it, and the answer is kept."""
    calls, file = [], tmp_path / "plans.json"
    message = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required"

    def refuse(*arguments: Any) -> None:
        calls.append(arguments)
        raise jax.errors.JaxRuntimeError(message)

    monkeypatch.setattr(compilation, "_folder", lambda: tmp_path)
    monkeypatch.setattr(compilation, "_compile", refuse)
    monkeypatch.setattr(compilation, "is_possible", lambda: True)
    monkeypatch.setattr(compilation.importlib.metadata, "version", lambda name: "0")
    monkeypatch.setattr(
        compilation, "topology_mesh", lambda topology, sizes: axes.make_mesh(**sizes)
    )
    common = ["plan", "--topology=v5e:2x4", "--batch_size=16", f"--json_file={file}"]
    for _ in range(2):
        meshes = "--mesh=fsdp:8", "--mesh=data:8"
        assert exit_status([*common, *meshes], monkeypatch) == 1
        printed = capsys.readouterr().out
        assert f"does not fit: v5e:2x4, fsdp:8: {message}" in printed
        assert f"does not fit: v5e:2x4, data:8: {message}" in printed
        assert re.search(r"^fsdp:8 +- +no ", printed, re.MULTILINE)
        first, second = json.loads(file.read_text())
        assert first["mesh"] == {"fsdp": 8} and second["mesh"] == {"data": 8}
        assert first["message"] == message and not first["fits"]
    assert len(calls) == 2


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
    narrow = "--state_dtype=bfloat16", "--gradient_dtype=bfloat16"
    for given in (), narrow[:1], narrow:
        flags = [*common, "--topology=v5e:2x4", *meshes, *given]
        assert exit_status(flags, monkeypatch) == 1
        printed = capsys.readouterr().out
        assert "does not fit: " in printed
        others = " ".join(flag for flag in narrow if flag not in given)
        assert re.findall(r"or of gradients: (.*)\n", printed) == [others] * bool(
            others
        )
