"""The alphabet, the mesh, the placement of arrays by name, and sown arrays by layer."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import MODELS, random_params, text
from jax.sharding import PartitionSpec as Spec

from transformer import axes
from transformer.network import masks, stack


@pytest.mark.parametrize(
    ("name", "letters"),
    [
        ("w_q_DHK", "DHK"),
        ("embedding_VD", "VD"),
        ("weight_BL", "BL"),
        ("step", ""),
        ("count", ""),
        ("K", "K"),
        ("w_q", ""),
        ("b_DXK", ""),
        ("w_q_DHK_scale", ""),
    ],
)
def test_dimensions_are_the_capital_suffix(name: str, letters: str) -> None:
    assert axes.dimensions(name) == letters


def test_letters_have_words_and_known_mesh_axes() -> None:
    for letter, meaning in axes.ALPHABET.items():
        assert len(letter) == 1 and letter.isupper() and meaning.word
        assert {*meaning.parameter, *meaning.activation} <= set(axes.AXES)


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({}, (1, 8, 1, 1, 1, 1)),
        ({"tensor": 4}, (1, 2, 1, 4, 1, 1)),
        ({"data": 1, "fsdp": 2, "tensor": 2, "context": 2}, (1, 1, 2, 2, 2, 1)),
        ({"fsdp": 2, "expert": 4}, (1, 1, 2, 1, 1, 4)),
        ({"slice": 2, "fsdp": 4}, (2, 1, 4, 1, 1, 1)),
    ],
)
def test_data_axis_has_the_remaining_devices(
    sizes: dict[str, int], shape: tuple[int, ...]
) -> None:
    mesh = axes.make_mesh(**sizes)
    assert mesh.axis_names == axes.AXES and mesh.devices.shape == shape
    assert axes.batch_shards(mesh) == math.prod(shape[:3]) * shape[5]


def test_mesh_over_a_part_of_the_devices() -> None:
    mesh = axes.make_mesh(tensor=2, devices=jax.devices()[4:])
    assert mesh.devices.shape == (1, 2, 1, 2, 1, 1)
    assert mesh.devices.ravel().tolist() == jax.devices()[4:]


@dataclasses.dataclass(frozen=True)
class FakeTpu:
    """A device as `make_mesh` sees it."""

    id: int
    slice_index: int
    process_index: int = 0
    platform: str = "tpu"


def test_the_current_mesh_is_the_one_set_or_all_own_devices() -> None:
    assert axes.current_mesh() == axes.make_mesh()
    with jax.set_mesh(axes.make_mesh(fsdp=4, tensor=2)):
        assert axes.current_mesh() == axes.make_mesh(fsdp=4, tensor=2)


def test_a_mesh_of_own_devices_awaits_no_process(monkeypatch) -> None:
    """As that of a report: what it computes has no watchdog and no barrier."""
    monkeypatch.setattr(jax, "process_count", lambda *_: 2)
    with jax.set_mesh(axes.make_mesh()):
        assert not axes.spans_processes()
        monkeypatch.setattr(jax, "process_index", lambda *_: 1)
        assert axes.spans_processes()
    assert not axes.spans_processes()


def test_a_mesh_over_slices_has_them_on_the_outermost_axis() -> None:
    """Parameters are whole in each slice: `fsdp` is within one. The devices come from
    several hosts in any order."""
    devices = [FakeTpu(id=i, slice_index=i % 2) for i in range(8)]
    mesh = axes.make_mesh(devices=devices, fsdp=4)
    assert dict(mesh.shape)["slice"] == 2
    assert mesh.devices.shape == (2, 1, 4, 1, 1, 1)
    for index, of_slice in enumerate(mesh.devices):
        assert {device.slice_index for device in of_slice.ravel()} == {index}
    placed = axes.shardings(
        jax.sharding.AbstractMesh(mesh.devices.shape, axes.AXES),
        {"w_up_DF": jax.ShapeDtypeStruct((8, 16), "float32")},
    )
    assert placed["w_up_DF"].spec == Spec("fsdp", None)
    with pytest.raises(ValueError, match="slice: expected the number .*, 2; got 4"):
        axes.make_mesh(devices=devices, slice=4)
    with pytest.raises(ValueError, match=r"number of devices, 8; got slice=2, fsdp=8"):
        axes.make_mesh(devices=devices, fsdp=8)


def test_all_devices_have_the_mesh_that_is_planned(monkeypatch) -> None:
    """In whatever order JAX lists them: that of a topology, host by host, in which
    `jax.make_mesh` places no tensor:2 on a v6e:4x4, nor devices of several hosts."""
    devices = [
        FakeTpu(id=i, slice_index=0, process_index=i % 8 // 2) for i in range(16)
    ]
    monkeypatch.setattr(jax, "devices", lambda: devices[::-1])
    mesh = axes.make_mesh(fsdp=8, tensor=2)
    places = [(d.process_index, d.id) for d in mesh.devices.ravel()]
    assert places == sorted(places)
    assert mesh == axes.make_mesh(devices=devices, fsdp=8, tensor=2)
    for pair in mesh.devices.reshape(8, 2):
        assert len({device.process_index for device in pair}) == 1


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"data": 3}, "expected axes whose product is the number of devices, 8; got"),
        ({"tensor": 16}, r"8; got tensor=16 \(product 16\); .*device_count=16$"),
        ({"fsdp": 3}, r"got fsdp=3 \(product 6\)$"),
        ({"context": 0}, "mesh axis context: expected at least 1, got 0"),
        ({"data": -1}, "mesh axis data: expected at least 1, got -1"),
    ],
)
def test_impossible_meshes_raise(sizes: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        axes.make_mesh(**sizes)


MESH = {"data": 1, "fsdp": 2, "tensor": 2, "context": 2}


@pytest.mark.parametrize(
    ("name", "shape", "role", "spec"),
    [
        ("w_q_DHK", (8, 4, 6), "parameter", Spec(("fsdp", "context"), "tensor", None)),
        ("w_q_DHK", (6, 4, 6), "parameter", Spec("fsdp", "tensor", None)),
        (
            "w_q_DHK",
            (3, 8, 4, 6),
            "parameter",
            Spec(None, ("fsdp", "context"), "tensor", None),
        ),
        ("w_k_DGK", (8, 1, 6), "parameter", Spec(("fsdp", "context"), None, None)),
        ("w_q_DHK", (7, 4, 6), "parameter", Spec(None, "tensor", None)),
        ("embedding_VD", (64, 8), "parameter", Spec("tensor", ("fsdp", "context"))),
        ("gain_D", (8,), "parameter", Spec(("fsdp", "context"))),
        ("position_LD", (16, 8), "parameter", Spec(None, ("fsdp", "context"))),
        ("ids_BL", (8, 16), "activation", Spec("fsdp", "context")),
        ("x_BLD", (8, 16, 8), "activation", Spec("fsdp", "context", None)),
        ("k_BGMK", (8, 4, 16, 6), "activation", Spec("fsdp", "tensor", None, None)),
        (
            "attention_BHLM",
            (8, 4, 6, 6),
            "activation",
            Spec("fsdp", "tensor", "context", None),
        ),
        ("step", (), "parameter", Spec()),
        ("history", (5,), "parameter", Spec(None)),
        ("scale_DHK", (), "parameter", Spec()),
    ],
)
def test_placement_follows_from_the_name(
    name: str, shape: tuple[int, ...], role: str, spec: Spec
) -> None:
    mesh = axes.make_mesh(**MESH)
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    placed = axes.shardings(mesh, {"layer": {name: leaf}}, role=role)
    assert placed["layer"][name].spec == spec
    assert placed["layer"][name].is_equivalent_to(
        jax.sharding.NamedSharding(mesh, spec), len(shape)
    )


def test_rows_and_experts_share_the_expert_axis() -> None:
    mesh = axes.make_mesh(data=2, fsdp=2, expert=2)
    tree = {
        "x_BLD": jax.ShapeDtypeStruct((8, 4, 4), jnp.float32),
        "x_EBCD": jax.ShapeDtypeStruct((2, 8, 4, 4), jnp.float32),
    }
    placed = axes.shardings(mesh, tree, role="activation")
    assert placed["x_BLD"].spec[0] == ("data", "fsdp", "expert")
    assert placed["x_EBCD"].spec[:2] == ("expert", ("data", "fsdp"))


@pytest.mark.parametrize("kind", [stack.UnrolledStack, stack.ScannedStack])
def test_parameters_and_moments_are_sharded_by_name(kind: type) -> None:
    mesh = axes.make_mesh(fsdp=2, tensor=4)
    params = random_params(MODELS[0].make(stack=kind))
    optimizer = optax.adamw(1e-3)
    state = jax.eval_shape(optimizer.init, params)
    placed = jax.device_put(params, axes.shardings(mesh, params))
    moments = axes.shardings(mesh, state)[0]
    layer = ("layers_0",) if kind is stack.UnrolledStack else ("layers", "block")
    for tree in (placed, moments.mu, moments.nu):
        tree = tree["stack"]
        for name in layer:
            tree = tree[name]
        for block, name, axis in (
            ("attention", "w_q_DHK", ("fsdp", "tensor", None)),
            ("attention", "w_o_HKD", ("tensor", None, "fsdp")),
            ("attention", "b_q_HK", ("tensor", None)),
            ("mlp", "w_in_DF", ("fsdp", "tensor")),
            ("mlp", "b_out_D", ("fsdp",)),
        ):
            leaf = tree[block][name]
            sharding = leaf.sharding if isinstance(leaf, jax.Array) else leaf
            assert sharding.spec[-len(axis) :] == axis, name
    assert moments.count.spec == Spec()
    whole = sum(leaf.size for leaf in jax.tree.leaves(params))
    here = sum(a.addressable_shards[0].data.size for a in jax.tree.leaves(placed))
    assert here < whole / 4, (here, whole)


def test_batches_are_sharded_over_rows_and_positions() -> None:
    mesh = axes.make_mesh(data=2, fsdp=2, context=2)
    batch = text()
    placed = jax.device_put(batch, axes.batch_shardings(mesh, batch))
    assert placed["ids_BL"].addressable_shards[0].data.shape == (2, 8)
    np.testing.assert_array_equal(placed["ids_BL"], batch["ids_BL"])


def test_rows_not_divisible_by_the_mesh_raise() -> None:
    batch = {"ids_BL": np.zeros((6, 4), np.int32)}
    words = "ids_BL: expected a number of rows divisible by 8.*got 6"
    with pytest.raises(ValueError, match=words):
        axes.batch_shardings(axes.make_mesh(), batch)


def test_constraints_apply_under_a_mesh_only() -> None:
    x_BLD = jnp.ones((8, 4, 6))
    assert axes.constrain(x_BLD, "BLD") is x_BLD
    assert axes.replicate(x_BLD) is x_BLD
    mesh = axes.make_mesh(data=4, context=2)
    with jax.set_mesh(mesh):
        run = jax.jit(lambda x: (axes.constrain(x * 2, "BLD"), axes.replicate(x * 3)))
        divided, gathered = run(x_BLD)
    assert divided.addressable_shards[0].data.shape == (2, 2, 6)
    assert gathered.addressable_shards[0].data.shape == (8, 4, 6)
    with jax.set_mesh(axes.make_mesh(devices=jax.devices()[:1])):
        assert axes.constrain(x_BLD, "BLD") is x_BLD


def test_leaf_names_are_the_innermost() -> None:
    paths = jax.tree_util.tree_flatten_with_path(
        {"a": [{"w_DF": 1}, (2, 3)], "b_D": optax.TraceState(trace=4)}
    )[0]
    assert [axes.leaf_name(path) for path, _ in paths] == ["w_DF", "a", "a", "trace"]


def test_eight_devices_of_one_name_the_flag_that_simulates_them() -> None:
    words = r"devices, 1; got data=8 \(product 8\); .*XLA_FLAGS=.*device_count=8$"
    with pytest.raises(ValueError, match=words):
        axes.make_mesh(data=8, devices=jax.devices()[:1])


@pytest.mark.parametrize("kind", [stack.UnrolledStack, stack.ScannedStack])
def test_sown_arrays_are_in_the_order_of_eleven_layers(kind: type) -> None:
    """Of layers 0 to 10, unrolled or scanned: layer 10 is the last, not the third."""
    module = MODELS[0].make(stack=kind, depth=11)
    params = random_params(module)
    batch = text()
    tokens = masks.packed(batch["segment_BL"], batch["position_BL"])

    @jax.jit
    def run(params: Any) -> Any:
        arguments = {"params": params}, batch["ids_BL"], tokens
        (x_BLD, _), kept = module.apply(*arguments, mutable="intermediates")
        return x_BLD, kept["intermediates"]

    _, kept = run(params)
    streams = axes.sown_arrays(kept, "stream_BLD")
    assert len(streams) == 11
    if kind is stack.UnrolledStack:
        for i, stream_BLD in enumerate(kept["stack"]["stream_BLD"]):
            np.testing.assert_array_equal(streams[i], stream_BLD)
    weights = axes.sown_arrays(kept, "weights_BHLM", within="attention")
    layer = ("layers", "block") if kind is stack.ScannedStack else ("layers_10",)
    last = kept["stack"]
    for name in (*layer, "attention", "mixer", "weights_BHLM"):
        last = last[name]
    last = last[0][10] if kind is stack.ScannedStack else last[0]
    assert len(weights) == 11
    np.testing.assert_array_equal(weights[10], last)
    with pytest.raises(ValueError, match="expected layers that sow logits_BLE, got"):
        axes.sown_arrays(kept, "logits_BLE")
