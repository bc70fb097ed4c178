"""Equal results for every model: scanned and unrolled layers, remat, accumulation,
packed and padded rows, one device and eight, kernels, bfloat16."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import (
    KERNELS,
    LENGTH,
    MODELS,
    ROWS,
    Case,
    KernelCase,
    close,
    name_of,
    random_params,
    text,
)
from kinds import KINDS

from transformer import axes
from transformer.network import masks, precision, stack

ALL = [*MODELS, *KINDS]
every_model = pytest.mark.parametrize("case", ALL, ids=name_of)
every_language_model = pytest.mark.parametrize("case", MODELS, ids=name_of)

MESHES = {
    "data": {"data": 8},
    "fsdp": {"fsdp": 8},
    "tensor": {"tensor": 4, "data": 2},
    "context": {"context": 4, "data": 2},
    "fsdp x tensor x context": {"fsdp": 2, "tensor": 2, "context": 2},
    "expert x data x fsdp": {"expert": 2, "data": 2, "fsdp": 2},
}


def value_and_grad(case: Case, module: Any, params: Any, batch: Any) -> Any:
    """(mean loss, gradients), as one jitted function computes them."""

    def mean(params: Any, batch: Any) -> jax.Array:
        loss = case.loss(module, params, batch)
        return loss.total / loss.weight

    return jax.jit(jax.value_and_grad(mean))(params, batch)


@functools.cache
def unrolled_result(index: int) -> Any:
    """(module, params, value and gradients) of a model: unrolled, no remat, no
    kernel."""
    case = ALL[index]
    module = case.make()
    params = random_params(module, init_params=case.init_params)
    return module, params, value_and_grad(case, module, params, case.batch(0))


def reference(case: Case) -> Any:
    return unrolled_result(ALL.index(case))


def stack_layers(tree: Any) -> Any:
    """An unrolled model's parameters or gradients in the shape of a scanned one's."""
    if not isinstance(tree, dict):
        return tree
    return {
        name: stack.stack_layer_params(inner)
        if name == "stack"
        else stack_layers(inner)
        for name, inner in tree.items()
    }


@every_model
def test_scanned_layers_equal_unrolled_layers(case: Case) -> None:
    _, params, (value, gradients) = reference(case)
    module = case.make(stack=stack.ScannedStack)
    shapes = random_params(module, init_params=case.init_params)
    assert jax.tree.structure(shapes) == jax.tree.structure(stack_layers(params))
    got = value_and_grad(case, module, stack_layers(params), case.batch(0))
    close((value, stack_layers(gradients)), got)


@pytest.mark.parametrize(
    ("case", "policy"),
    [
        *((case, "all") for case in ALL),
        *((MODELS[1], name) for name in ("products", "weight_products", "attention")),
    ],
    ids=name_of,
)
def test_remat_equals_none(case: Case, policy: str) -> None:
    _, params, expected = reference(case)
    module = case.make(remat=stack.REMAT[policy])
    close(expected, value_and_grad(case, module, params, case.batch(0)))


def test_remat_equals_none_when_scanned() -> None:
    case = MODELS[1]
    _, params, (value, gradients) = reference(case)
    module = case.make(stack=stack.ScannedStack, remat=stack.REMAT["all"])
    got = value_and_grad(case, module, stack_layers(params), case.batch(0))
    close((value, stack_layers(gradients)), got)


def test_remat_policies_save_less_and_less() -> None:
    """Each policy saves less than the policy before it."""
    case = MODELS[0]
    saved = []
    for policy in stack.REMAT.values():
        module = case.make(remat=policy)

        def loss(params: Any, module: Any = module) -> jax.Array:
            return case.loss(module, params, case.batch(0)).total

        _, vjp = jax.eval_shape(lambda p, f=loss: jax.vjp(f, p), random_params(module))
        saved.append(sum(leaf.size for leaf in jax.tree.leaves(vjp)))
    assert saved == sorted(saved, reverse=True) and len(set(saved)) == len(saved), saved


@every_model
def test_accumulated_equals_full_batch(case: Case) -> None:
    """Losses add: halves of the batch, summed, then one division."""
    module, params, (value, gradients) = reference(case)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def total(params: Any, batch: Any) -> Any:
        loss = case.loss(module, params, batch)
        return loss.total, loss.weight

    batch = case.batch(0)
    parts = [
        total(params, jax.tree.map(lambda a, i=i: a[i : i + ROWS // 2], batch))
        for i in (0, ROWS // 2)
    ]
    ((a, a_weight), a_grad), ((b, b_weight), b_grad) = parts
    weight = a_weight + b_weight
    summed = jax.tree.map(lambda x, y: (x + y) / weight, a_grad, b_grad)
    close((value, gradients), ((a + b) / weight, summed))


@every_language_model
def test_packed_equals_separate(case: Case) -> None:
    """Each document of each packed row, alone in its own padded row."""
    module, params, _ = reference(case)
    batch = text(1)

    @jax.jit
    def features(batch: Any) -> jax.Array:
        tokens = masks.packed(batch["segment_BL"], batch["position_BL"])
        return module.apply({"params": params}, batch["ids_BL"], tokens)[0]

    together_BLD = np.asarray(features(batch))
    for document in (1, 2):
        here_BL = batch["segment_BL"] == document
        alone = {name: np.zeros_like(batch[name]) for name in batch}
        for row in range(ROWS):
            count = here_BL[row].sum()
            for name in ("ids_BL", "position_BL"):
                alone[name][row, :count] = batch[name][row, here_BL[row]]
            alone["segment_BL"][row, :count] = 1
            # The ids in the padding have no effect.
            alone["ids_BL"][row, count:] = document + 7
        apart_BLD = np.asarray(features(alone))
        for row in range(ROWS):
            count = here_BL[row].sum()
            close(together_BLD[row][here_BL[row]], apart_BLD[row, :count], 2e-5)


@every_language_model
def test_padded_equals_unpadded(case: Case) -> None:
    module, params, _ = reference(case)
    length = 11
    ids_BL = text(2)["ids_BL"]
    segment_BL = np.zeros_like(ids_BL)
    segment_BL[:, :length] = 1
    apply = jax.jit(
        lambda ids, tokens: module.apply({"params": params}, ids, tokens)[0]
    )
    index_BL = np.arange(LENGTH, dtype=np.int32)[None]
    unpadded_BLD = apply(ids_BL[:, :length], masks.single_document(length))
    padded_BLD = apply(ids_BL, masks.packed(jnp.asarray(segment_BL), index_BL))
    close(unpadded_BLD, padded_BLD[:, :length], 2e-5)


@pytest.mark.parametrize(
    ("case", "shape"),
    [
        *((case, "fsdp x tensor x context") for case in ALL),
        *((MODELS[i % len(MODELS)], shape) for i, shape in enumerate(MESHES)),
    ],
    ids=name_of,
)
def test_eight_devices_equal_one(case: Case, shape: str) -> None:
    module, params, expected = reference(case)
    mesh = axes.make_mesh(**MESHES[shape])
    batch = case.batch(0)
    with jax.set_mesh(mesh):
        params = jax.device_put(params, axes.shardings(mesh, params))
        batch = jax.device_put(batch, axes.batch_shardings(mesh, batch))
        got = value_and_grad(case, module, params, batch)
    close(expected, got)


def test_training_on_eight_devices_equals_one() -> None:
    """Three AdamW steps; the moments are sharded as their parameters."""
    case = MODELS[1]
    module, start, _ = reference(case)
    # A large epsilon: where a gradient is rounding, so is Adam's division by its size.
    optimizer = optax.adamw(1e-2, eps=1e-3)

    def step(params: Any, state: Any, batch: Any) -> Any:
        gradients = jax.grad(lambda p: case.loss(module, p, batch).total / 64)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    results = []
    for shape in ({"devices": jax.devices()[:1]}, {"fsdp": 2, "tensor": 2}):
        mesh = axes.make_mesh(**shape)
        with jax.set_mesh(mesh):
            params = jax.device_put(start, axes.shardings(mesh, start))
            abstract = jax.eval_shape(optimizer.init, params)
            moments = axes.shardings(mesh, abstract)
            state = jax.jit(optimizer.init, out_shardings=moments)(params)
            run = jax.jit(step, out_shardings=(axes.shardings(mesh, params), moments))
            for seed in range(3):
                batch = case.batch(seed)
                batch = jax.device_put(batch, axes.batch_shardings(mesh, batch))
                params, state = run(params, state, batch)
        results.append(jax.device_get(params))
    w_in = params["stack"]["layers_0"]["mlp"]["w_in_DF"]
    mu = state[0].mu["stack"]["layers_0"]["mlp"]["w_in_DF"]
    assert mu.sharding == w_in.sharding
    assert mu.addressable_shards[0].data.shape == (16, 32)
    close(*results, 1e-4)


@pytest.mark.parametrize("kernel", KERNELS, ids=name_of)
def test_model_with_a_kernel_equals_model_without(kernel: KernelCase) -> None:
    case = MODELS[1]
    _, params, expected = reference(case)
    module = case.make(kernel=kernel.kernel)
    close(expected, value_and_grad(case, module, params, case.batch(0)))


@every_language_model
def test_intermediates_do_not_change_the_result(case: Case) -> None:
    module, params, _ = reference(case)
    batch = case.batch(0)
    tokens = masks.packed(batch["segment_BL"], batch["position_BL"])
    scanned = case.make(stack=stack.ScannedStack)

    @jax.jit
    def run(params: Any, stacked: Any) -> Any:
        ids_BL = batch["ids_BL"]
        alone = module.apply({"params": params}, ids_BL, tokens)[0]
        outputs = [
            m.apply({"params": p}, ids_BL, tokens, mutable=["intermediates"])
            for m, p in ((module, params), (scanned, stacked))
        ]
        return alone, [(out[0], kept["intermediates"]) for out, kept in outputs]

    without_BLD, ((with_BLD, kept), (scan_BLD, scan_kept)) = run(
        params, stack_layers(params)
    )
    np.testing.assert_array_equal(without_BLD, with_BLD)
    close(without_BLD, scan_BLD)
    for name in ("stream_BLD", "weights_BHLM"):
        close(axes.sown_arrays(kept, name), axes.sown_arrays(scan_kept, name))
    weights = axes.sown_arrays(kept, "weights_BHLM")
    rows_BHL = np.asarray(weights[0]).sum(-1)
    seen_BHL = np.broadcast_to((batch["segment_BL"] > 0)[:, None], rows_BHL.shape)
    np.testing.assert_allclose(rows_BHL, seen_BHL, atol=1e-5)


def test_bfloat16_stays_near_float32() -> None:
    case = MODELS[1]
    module, params, (value, gradients) = reference(case)

    def narrow(module: Any, params: Any, batch: Any) -> Any:
        return case.loss(module, precision.cast_weights(params, jnp.bfloat16), batch)

    got, got_gradients = value_and_grad(
        case._replace(loss=narrow), module, params, case.batch(0)
    )
    assert abs(float(got) - float(value)) < 0.02 * float(value)
    assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(got_gradients))
    close(gradients, got_gradients, 0.1)
