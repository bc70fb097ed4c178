"""Language models with mixtures of experts: scanned, accumulated, sharded, causal, and
decoded token by token."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import LENGTH, ROWS, close, language_model, name_of, random_params

from transformer import axes
from transformer.models import decoder
from transformer.network import biases, masks, stack
from transformer.network.moe import experts, routing
from transformer.objectives import cross_entropy, load_balancing
from transformer.objectives.loss import Loss


def model(
    name: str, dispatch: Any, gates: Any = routing.raw_gates, **slots: Any
) -> Any:
    def make(*, width: int, hidden_features: int, make_bias: Any, einsum: Any) -> Any:
        return experts.MixtureOfExperts(
            width=width,
            hidden_features=hidden_features,
            experts=4,
            experts_per_token=2,
            dispatch=dispatch,
            gates=gates,
            **slots,
        )

    return language_model(name, make_mlp=make)._replace(loss=loss_with_router_losses)


def loss_with_router_losses(module: Any, params: Any, batch: Any) -> Loss:
    """Cross-entropy, load-balancing loss and z-loss of all layers."""
    tokens = masks.packed(batch["segment_BL"], batch["position_BL"])
    readout, collections = module.apply(
        {"params": params}, batch["ids_BL"], tokens, mutable=["routing"]
    )
    weight = batch["weight_BL"]
    loss = cross_entropy.cross_entropy(
        decoder.logits(readout), batch["targets_BL"], weight
    )
    for layer in load_balancing.router_outputs(collections["routing"]):
        load = load_balancing.load_balancing_loss(
            layer["logits_BLE"], layer["chosen_BLE"], weight
        )
        z_loss = load_balancing.router_z_loss(layer["logits_BLE"], weight)
        loss = loss._replace(total=loss.total + 0.1 * load.total + 0.1 * z_loss.total)
    return loss


CASES = [
    model("capacity", routing.capacity_dispatch(1.0)),
    model("dropless", routing.dropless_dispatch(8), routing.softmax_gates),
    model(
        "clamped",
        routing.dropless_dispatch(8),
        routing.softmax_gates,
        expert_map=experts.clamped_experts(),
        make_bias=biases.zero_init_bias,
    ),
]
every_model = pytest.mark.parametrize("case", CASES, ids=name_of)


@pytest.fixture(scope="module", params=CASES, ids=name_of)
def reference(request: Any) -> Any:
    """(case, parameters, loss and gradients) of an unrolled model on one device."""
    case = request.param
    params = random_params(case.make())
    return case, params, loss_and_grads(case)(params, case.batch(0))


def loss_and_grads(case: Any, **options: Any) -> Any:
    """From parameters and a batch to the Loss and the gradients of its total."""
    module = case.make(**options)

    def total(params: Any, batch: Any) -> Any:
        loss = case.loss(module, params, batch)
        return loss.total, loss

    value_and_grad = jax.value_and_grad(total, has_aux=True)

    @jax.jit
    def run(params: Any, batch: Any) -> Any:
        (_, loss), grads = value_and_grad(params, batch)
        return loss, grads

    return run


def test_scanned_remat_layers_equal_unrolled_layers(reference: Any) -> None:
    """Scanned = unrolled and remat = none, in one."""
    case, params, (loss, grads) = reference
    one = {**params, "stack": stack.stack_layer_params(params["stack"])}
    options = {"stack": stack.ScannedStack, "remat": stack.REMAT["weight_products"]}
    got, got_grads = loss_and_grads(case, **options)(one, case.batch(0))
    expected = {**grads, "stack": stack.stack_layer_params(grads["stack"])}
    close((loss, expected), (got, got_grads))


def test_accumulated_equals_full_batch(reference: Any) -> None:
    """Exactly, router losses included: rows are routed and balanced independently."""
    case, params, expected = reference
    run, batch = loss_and_grads(case), case.batch(0)
    halves = [jax.tree.map(lambda a, i=i: a[i::2], batch) for i in (0, 1)]
    parts = [run(params, half) for half in halves]
    close(expected, jax.tree.map(np.add, *jax.device_get(parts)))


MESHES = {
    "expert x data": {"expert": 2, "data": 4},
    "expert x data x fsdp x tensor": {"expert": 2, "fsdp": 2, "tensor": 2},
}


@pytest.mark.parametrize("shape", MESHES.values(), ids=MESHES)
def test_eight_devices_equal_one(reference: Any, shape: Any) -> None:
    case, params, expected = reference
    mesh = axes.make_mesh(**shape)
    batch = case.batch(0)
    params = jax.device_get(params)
    with jax.set_mesh(mesh):
        params = jax.device_put(params, axes.shardings(mesh, params))
        batch = jax.device_put(batch, axes.batch_shardings(mesh, batch))
        w_in = params["stack"]["layers_0"]["mlp"]["w_in_EDF"]
        assert w_in.addressable_shards[0].data.shape[0] == 4 // shape["expert"]
        close(expected, loss_and_grads(case)(params, batch))


def test_tokens_move_by_all_to_all() -> None:
    """With a capacity, devices exchange slots; only the router's weights are
    gathered."""
    layer = experts.MixtureOfExperts(
        width=32,
        hidden_features=64,
        experts=4,
        experts_per_token=2,
        dispatch=routing.capacity_dispatch(1.25),
    )
    shapes = {"x_BLD": np.ones((16, 64, 32), np.float32)}
    init = jax.jit(layer.init)
    params = jax.device_get(init(jax.random.key(0), shapes["x_BLD"])["params"])

    def total(params: Any, x_BLD: jax.Array) -> jax.Array:
        y_BLD: Any = layer.apply({"params": params}, x_BLD)
        return jnp.sum(jnp.square(y_BLD))

    mesh = axes.make_mesh(expert=4, data=2)
    with jax.set_mesh(mesh):
        params = jax.device_put(params, axes.shardings(mesh, params))
        batch = jax.device_put(shapes, axes.batch_shardings(mesh, shapes))
        lowered = jax.jit(jax.grad(total)).lower(params, batch["x_BLD"])
        program = (lowered.compile().as_text() or "").splitlines()
    gathered = [line for line in program if " all-gather(" in line]
    assert all("= f32[32,4]{" in line for line in gathered), gathered
    assert any(" all-to-all(" in line for line in program)


def test_mixtures_are_causal(reference: Any) -> None:
    """Features before t do not depend on tokens from t on: those displace no slot."""
    case, params, _ = reference
    batch = case.batch(0)
    tokens = masks.single_document(LENGTH)
    module = case.make()
    run = jax.jit(lambda ids: module.apply({"params": params}, ids, tokens)[0])
    ids = batch["ids_BL"]
    before = np.asarray(run(ids))
    for t in range(1, LENGTH, 3):
        changed = np.array(ids)
        changed[:, t:] = (changed[:, t:] + 7) % 64
        after = np.asarray(run(changed))
        close(before[:, :t], after[:, :t], 2e-6)
        assert np.abs(before - after)[:, t].max() > 1e-3


def test_dropless_decoding_and_packing_equal_whole_rows() -> None:
    """Decoded token by token, or packed with another document: the choices of other
    tokens have no effect."""
    case = CASES[1]
    module, params = case.make(depth=1), random_params(case.make(depth=1))
    batch = case.batch(0)
    ids_BL = batch["ids_BL"]

    @jax.jit
    def whole(tokens: masks.TokenPositions) -> jax.Array:
        return module.apply({"params": params}, ids_BL, tokens)[0]

    @jax.jit
    def step(cache: Any, ids_BC: jax.Array, t: jax.Array) -> Any:
        tokens = masks.TokenPositions(*(jnp.full(ids_BC.shape, n) for n in (t, t, 1)))
        return module.apply({"params": params}, ids_BC, cache, tokens, method="decode")

    whole_BLD = np.asarray(whole(masks.single_document(LENGTH)))
    cache = module.empty_cache(ROWS, LENGTH, 1, jnp.float32)
    for t in range(LENGTH):
        (x_BCD, _), cache = step(cache, ids_BL[:, t : t + 1], np.int32(t))
        close(whole_BLD[:, t : t + 1], x_BCD, 2e-5)
    packed_BLD = whole(masks.packed(batch["segment_BL"], batch["position_BL"]))
    first_BL = batch["segment_BL"] == 1
    close(whole_BLD[first_BL], np.asarray(packed_BLD)[first_BL], 2e-5)
