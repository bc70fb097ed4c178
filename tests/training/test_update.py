"""The update is pure, and sums over microbatches and devices."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_experiment
from test_batching import MESHES

from transformer import axes
from transformer.training import batching, update
from transformer.training.experiment import Experiment

STEPS = 3
EXPERIMENT = tiny_experiment.experiment()


@cache
def first_state() -> update.State:
    return jax.device_get(jax.jit(lambda: update.init_state(EXPERIMENT))())


def train(experiment: Experiment, mesh) -> update.State:
    """The state after STEPS steps on a mesh."""
    with jax.set_mesh(mesh):
        state = first_state()
        state = jax.device_put(state, axes.shardings(mesh, state))
        batch_at = batching.sharded_batches(
            experiment.batch, experiment.batch_size, mesh
        )
        advance = jax.jit(lambda *given: update.update(experiment, *given))
        for step in range(STEPS):
            state, _ = advance(state, batch_at(step))
    return jax.device_get(state)


def single_device() -> jax.sharding.Mesh:
    return axes.make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def expected() -> update.State:
    return train(EXPERIMENT, single_device())


def assert_close(a, b) -> None:
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-6), a, b
    )


def test_update_is_pure():
    state = first_state()
    batch = EXPERIMENT.batch(0, range(8))
    before = jax.tree.map(np.array, (state, batch))
    advance = jax.jit(lambda *given: update.update(EXPERIMENT, *given))
    first, second = advance(state, batch), advance(state, batch)
    jax.tree.map(np.testing.assert_array_equal, first, second)
    jax.tree.map(np.testing.assert_array_equal, before, (state, batch))
    after, _ = first
    assert int(after.step) == 1
    assert np.array_equal(after.key, state.key)
    moment = after.optimizer_state[1].mu["w_up_DF"]
    assert np.all(np.isfinite(moment)) and np.any(moment)


def test_gradient_is_that_of_the_mean_loss():
    batch = EXPERIMENT.batch(0, range(8))

    def mean(params):
        loss = tiny_experiment.loss(params, batch, jax.random.key(0))
        return loss.total / loss.weight

    _, metrics = jax.jit(lambda *given: update.update(EXPERIMENT, *given))(
        first_state(), batch
    )
    for name, gradient in jax.jit(jax.grad(mean))(first_state().params).items():
        assert metrics.gradient_norms[name] == pytest.approx(
            np.linalg.norm(gradient), rel=1e-5
        )


def test_a_batch_that_scores_no_target_changes_nothing_but_the_decay():
    state = first_state()
    batch = EXPERIMENT.batch(0, range(8))
    batch["weight_BL"] = np.zeros_like(batch["weight_BL"])
    advance = jax.jit(lambda *given: update.update(EXPERIMENT, *given))
    after, metrics = advance(state, batch)
    assert all(norm == 0 for norm in jax.tree.leaves(metrics.gradient_norms))
    for before, now in zip(
        *map(jax.tree.leaves, (state.params, after.params)), strict=True
    ):
        np.testing.assert_allclose(before, now, rtol=1e-2)


def test_state_is_made_sharded_by_the_names_of_its_leaves():
    mesh = axes.make_mesh(data=2, fsdp=2, tensor=2)
    state = update.init_sharded_state(EXPERIMENT, mesh)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), first_state())
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert state.params["w_up_DF"].addressable_shards[0].data.shape == (4, 16)
    moment = state.optimizer_state[1].mu["w_up_DF"]
    assert moment.sharding == state.params["w_up_DF"].sharding


def test_each_step_and_microbatch_has_its_own_key():
    def noisy(params, batch, key):
        return tiny_experiment.loss(params, batch, key)._replace(
            total=jnp.sum(params["readout_VD"]),
            weight=jnp.float32(1),
            sums={"uniform": jax.random.uniform(key)},
        )

    batch = EXPERIMENT.batch(0, range(8))
    numbers = []
    for microbatches in (1, 2):
        experiment = EXPERIMENT._replace(loss=noisy, accumulate=microbatches)
        advance = jax.jit(lambda *given, e=experiment: update.update(e, *given))
        for step in range(2):
            _, metrics = advance(first_state()._replace(step=np.int32(step)), batch)
            numbers.append(float(metrics.loss.sums["uniform"]))
    assert len(set(numbers)) == 4
    assert numbers[2] != pytest.approx(2 * numbers[0])


@pytest.mark.parametrize("microbatches", [2, 8])
def test_accumulation_equals_the_full_batch(expected, microbatches):
    """Also where the weights of the microbatches differ."""
    experiment = tiny_experiment.experiment(accumulate=microbatches)
    weights = experiment.batch(0, range(8))["weight_BL"].reshape(-1, microbatches, 8)
    assert len(set(weights.sum((0, 2)).tolist())) > 1
    assert_close(train(experiment, single_device()), expected)


def test_microbatches_are_added_in_the_stated_dtype(expected):
    """In float32 unless it is said; parameters and metrics are float32 all the same."""
    batch = EXPERIMENT.batch(0, range(8))
    key, params = jax.random.key(0), first_state().params
    narrow = EXPERIMENT._replace(accumulate=4, gradient_dtype="bfloat16")
    for made, name in ((EXPERIMENT, "float32"), (narrow, "bfloat16")):
        of = jax.eval_shape(lambda m=made: update.loss_and_grad(m, params, batch, key))
        assert {leaf.dtype.name for leaf in jax.tree.leaves(of[1])} == {name}
        assert of[0].total.dtype == jnp.float32
    state = train(narrow, single_device())
    assert state.params["w_up_DF"].dtype == jnp.float32
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=0.02),
        state.params,
        expected.params,
    )


@pytest.mark.parametrize(
    ("name", "microbatches"), [*((n, 1) for n in MESHES), ("all", 2)]
)
def test_eight_devices_equal_one(expected, name, microbatches):
    experiment = tiny_experiment.experiment(accumulate=microbatches)
    assert_close(train(experiment, axes.make_mesh(**MESHES[name])), expected)
