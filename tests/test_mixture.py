"""Models with a mixture of experts in the slot: in other stacks, in parts, on other
meshes, without sight of the future; and the experiment."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import LENGTH, ROWS, close, random_params, language_model, name_of

from experiments import language_model as austen
from experiments import moe
from transformer import axes
from transformer.models import decoder
from transformer.network import masks, stack
from transformer.network.moe import experts, routing
from transformer.objectives import cross_entropy, load_balancing
from transformer.objectives.loss import Loss


def model(name: str, dispatch: Any, gates: Any = routing.raw_gates) -> Any:
    def make(*, width: int, hidden: int, make_bias: Any, einsum: Any) -> Any:
        return experts.MixtureOfExperts(
            width=width,
            hidden_features=hidden,
            experts=4,
            experts_per_token=2,
            dispatch=dispatch,
            gates=gates,
        )

    return language_model(name, make_mlp=make)._replace(loss=balanced)


def balanced(module: Any, params: Any, batch: Any) -> Loss:
    """Cross-entropy, balance and drift of all layers."""
    tokens = masks.packed(batch["segment_BL"], batch["position_BL"])
    readout, told = module.apply(
        {"params": params}, batch["ids_BL"], tokens, mutable=["routing"]
    )
    weight = batch["weight_BL"]
    loss = cross_entropy.cross_entropy(
        decoder.logits(readout), batch["targets_BL"], weight
    )
    for layer in load_balancing.router_outputs(told["routing"]):
        load = load_balancing.load_balancing_loss(
            layer["logits_BLE"], layer["chosen_BLE"], weight
        )
        drift = load_balancing.router_z_loss(layer["logits_BLE"], weight)
        loss = loss._replace(total=loss.total + 0.1 * load.total + 0.1 * drift.total)
    return loss


CASES = [
    model("capacity", routing.capacity_dispatch(1.0)),
    model("dropless", routing.dropless_dispatch(8), routing.softmax_gates),
]
every_model = pytest.mark.parametrize("case", CASES, ids=name_of)


@pytest.fixture(scope="module", params=CASES, ids=name_of)
def plain(request: Any) -> Any:
    """(case, parameters, loss and gradients) of an unrolled model on one device."""
    case = request.param
    params = random_params(case.make())
    return case, params, compiled(case)(params, case.batch(0))


def compiled(case: Any, **how: Any) -> Any:
    """From parameters and a batch to the Loss and the gradients of its total."""
    module = case.make(**how)

    def total(params: Any, batch: Any) -> Any:
        loss = case.loss(module, params, batch)
        return loss.total, loss

    slope = jax.value_and_grad(total, has_aux=True)

    @jax.jit
    def run(params: Any, batch: Any) -> Any:
        (_, loss), slopes = slope(params, batch)
        return loss, slopes

    return run


def test_scanned_layers_that_save_little_equal_unrolled_ones(plain: Any) -> None:
    """Two theorems in one: scanned = unrolled, remat = none."""
    case, params, (loss, slopes) = plain
    one = {**params, "stack": stack.stack_layer_params(params["stack"])}
    how = {"stack": stack.Scanned, "remat": stack.REMAT["weight_products"]}
    got, got_slopes = compiled(case, **how)(one, case.batch(0))
    expected = {**slopes, "stack": stack.stack_layer_params(slopes["stack"])}
    close((loss, expected), (got, got_slopes))


def test_accumulated_equals_full_batch(plain: Any) -> None:
    """Exactly, balance included: rows are routed and balanced each by itself."""
    case, params, expected = plain
    run, batch = compiled(case), case.batch(0)
    halves = [jax.tree.map(lambda a, i=i: a[i::2], batch) for i in (0, 1)]
    parts = [run(params, half) for half in halves]
    close(expected, jax.tree.map(jnp.add, *parts))


MESHES = {
    "expert x data": {"expert": 2, "data": 4},
    "expert x data x fsdp x tensor": {"expert": 2, "fsdp": 2, "tensor": 2},
}


@pytest.mark.parametrize("shape", MESHES.values(), ids=MESHES)
def test_eight_devices_equal_one(plain: Any, shape: Any) -> None:
    case, params, expected = plain
    mesh = axes.mesh(**shape)
    batch = case.batch(0)
    with jax.set_mesh(mesh):
        params = jax.device_put(params, axes.placement(mesh, params))
        batch = jax.device_put(batch, axes.batch_placement(mesh, batch))
        w_in = params["stack"]["layers_0"]["mlp"]["w_in_EDF"]
        assert w_in.addressable_shards[0].data.shape[0] == 4 // shape["expert"]
        close(expected, compiled(case)(params, batch))


def test_tokens_travel_to_their_experts() -> None:
    """Under a capacity devices exchange slots; all that they gather is the router."""
    layer = experts.MixtureOfExperts(
        width=32,
        hidden_features=64,
        experts=4,
        experts_per_token=2,
        dispatch=routing.capacity_dispatch(1.25),
    )
    shapes = {"x_BLD": jnp.ones((16, 64, 32))}
    params = layer.init(jax.random.key(0), shapes["x_BLD"])["params"]

    def total(params: Any, x_BLD: jax.Array) -> jax.Array:
        y_BLD: Any = layer.apply({"params": params}, x_BLD)
        return jnp.sum(jnp.square(y_BLD))

    mesh = axes.mesh(expert=4, data=2)
    with jax.set_mesh(mesh):
        params = jax.device_put(params, axes.placement(mesh, params))
        batch = jax.device_put(shapes, axes.batch_placement(mesh, shapes))
        lowered = jax.jit(jax.grad(total)).lower(params, batch["x_BLD"])
        program = (lowered.compile().as_text() or "").splitlines()
    gathered = [line for line in program if " all-gather(" in line]
    assert all("= f32[32,4]{" in line for line in gathered), gathered
    assert any(" all-to-all(" in line for line in program)


def test_the_future_is_not_seen(plain: Any) -> None:
    """Features before t do not depend on tokens from t on, whom they may displace."""
    case, params, _ = plain
    batch = case.batch(0)
    tokens = masks.single_document(LENGTH)
    module = case.make()
    run = jax.jit(lambda ids: module.apply({"params": params}, ids, tokens)[0])
    ids = batch["ids_BL"]
    before = run(ids)
    for t in range(1, LENGTH, 3):
        changed = np.array(ids)
        changed[:, t:] = (changed[:, t:] + 7) % 64
        after = run(changed)
        close(before[:, :t], after[:, :t], 2e-6)
        assert float(jnp.abs(before - after)[:, t].max()) > 1e-3


def test_dropless_rows_can_be_read_in_parts() -> None:
    """Token by token out of the cache, or beside another document: nothing of the
    others' choices is seen."""
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

    alone_BLD = whole(masks.single_document(LENGTH))
    cache = module.empty_cache(ROWS, LENGTH, 1, jnp.float32)
    for t in range(LENGTH):
        (x_BCD, _), cache = step(cache, ids_BL[:, t : t + 1], jnp.int32(t))
        close(alone_BLD[:, t : t + 1], x_BCD, 2e-5)
    packed_BLD = whole(masks.packed(batch["segment_BL"], batch["position_BL"]))
    first_BL = batch["segment_BL"] == 1
    close(np.asarray(alone_BLD)[first_BL], np.asarray(packed_BLD)[first_BL], 2e-5)


# The experiment.


@pytest.fixture(scope="module")
def tiny() -> Any:
    return moe.experiment(
        depth=1,
        width=64,
        number=4,
        hidden_features=127,
        length=32,
        dtype="float32",
        steps=3,
    )


def test_both_models_cost_the_same() -> None:
    """By default to the last operation; a remainder is the mixture's loss."""
    told = moe.experiment()
    dense, sparse = told.report.args[-1].values()
    assert dense == sparse == told.flops_per_row / 2 / told.tokens_per_row / 1e6


def test_the_models_do_not_touch_each_other(tiny: Any) -> None:
    """The dense one is `austen`, its loss and gradients; the mixture adds its own."""
    base = austen.experiment(depth=1, length=32, dtype="float32", steps=3)
    # As wide as two experts of 127, with half a router of four.
    params, batch = tiny.init(jax.random.key(0)), tiny.batch(0, range(8))
    close(base.init(jax.random.key(0)), params["dense"])
    key = jax.random.key(1)

    def total(of: Any, params: Any) -> Any:
        loss = of.loss(params, batch, key)
        return loss.total, loss

    slope = jax.value_and_grad(total, argnums=1, has_aux=True)
    run = jax.jit(lambda p: (slope(tiny, p), slope(base, p["dense"])[1]))
    ((_, loss), both), dense = run(params)
    close(dense, both["dense"])
    told = tiny.metrics(jax.device_get(loss))
    # Both begin with equal probabilities of all symbols.
    assert told["dense"] == pytest.approx(told["mixture"], rel=1e-6)
    assert told["kept"] == pytest.approx(1.0)
    assert 1.0 <= told["balance"] < 1.5


def test_experts_are_orthogonalised_one_by_one(tiny: Any) -> None:
    """An expert that no token met stays; the others move by matrices of norm one."""
    params = tiny.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    slopes = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
    layer = slopes["mixture"]["stack"]["layers_0"]["mlp"]
    layer["w_in_EDF"] = layer["w_in_EDF"].at[1].set(0)
    run = jax.jit(lambda g, p: tiny.optimizer.update(g, tiny.optimizer.init(p), p)[0])
    change = run(slopes, params)["mixture"]["stack"]["layers_0"]["mlp"]["w_in_EDF"]
    assert not np.any(np.asarray(change[1]))
    for expert in (0, 2, 3):
        sizes = np.linalg.svd(np.asarray(change[expert]), compute_uv=False)
        assert 0.6 < sizes.min() / sizes.max() < 1


def test_what_it_shows(tiny: Any) -> None:
    """Each weighted token of the held-out text chose two experts; untrained, both
    models say every symbol is as likely."""
    speech, symbols, held_out, work = tiny.report.args
    few, params = held_out._replace(batches=2), tiny.init(jax.random.key(0))
    shown = moe.show(speech, symbols, few, work, params, jax.random.key(0))
    numbers = shown["results.json"]
    assert numbers["bits per byte, dense"] == pytest.approx(
        numbers["bits per byte, mixture"]
    )
    assert numbers["largest load, in equal shares"] >= 1
    assert shown["experts.png"].axes[0].get_title() == "layer 1"
    # The last batch, some of whose targets do not count.
    batch = held_out.batch(held_out.batches - 1, range(16))
    _, counts_NEV = jax.jit(few.loss)(params, batch, jax.random.key(0))
    ids, weight = batch["ids_BL"].ravel(), batch["weight_BL"].ravel()
    expected_V = 2 * np.bincount(ids, weight, symbols.vocab_size)
    np.testing.assert_array_equal(counts_NEV.sum((0, 1)), expected_V)


def test_typical_symbols_are_those_above_their_share() -> None:
    counts_EV = np.array([[90.0, 10, 0, 500], [10, 90, 4, 500]])
    assert moe.typical(counts_EV, ["a", "b", "c", "all"], 1) == ["a", "b"]
