"""The update as a pure function; batches on a mesh; parts, devices and hosts add."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_experiment

from transformer import axes
from transformer.training import batching, update
from transformer.training.experiment import Experiment

STEPS = 3
EXPERIMENT = tiny_experiment.experiment()


@cache
def first_state() -> update.State:
    return jax.device_get(jax.jit(lambda: update.init_state(EXPERIMENT))())


def trained(experiment: Experiment, mesh) -> update.State:
    """The state after a few steps on a mesh, through the feed."""
    with jax.set_mesh(mesh):
        state = first_state()
        state = jax.device_put(state, axes.placement(mesh, state))
        at = batching.sharded_batches(experiment.batch, experiment.batch_size, mesh)
        advance = jax.jit(lambda *given: update.update(experiment, *given))
        for step in range(STEPS):
            state, _ = advance(state, at(step))
    return jax.device_get(state)


def one() -> jax.sharding.Mesh:
    return axes.mesh(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def alone() -> update.State:
    return trained(EXPERIMENT, one())


def close(a, b, tolerance: float = 2e-6) -> None:
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=tolerance), a, b
    )


def test_update_is_pure():
    state = first_state()
    batch = EXPERIMENT.batch(0, range(8))
    before = jax.tree.map(np.array, (state, batch))
    advance = jax.jit(lambda *given: update.update(EXPERIMENT, *given))
    first, told = advance(state, batch)
    second, told_again = advance(state, batch)
    jax.tree.map(np.testing.assert_array_equal, (first, told), (second, told_again))
    jax.tree.map(np.testing.assert_array_equal, before, (state, batch))
    assert int(first.step) == 1
    assert np.array_equal(first.key, state.key)
    moved = first.optimizer_state[1].mu["w_up_DF"]
    assert np.all(np.isfinite(moved)) and np.any(moved)


def test_the_gradient_is_that_of_the_mean_loss():
    batch = EXPERIMENT.batch(0, range(8))

    def mean(params):
        loss = tiny_experiment.loss(params, batch, jax.random.key(0))
        return loss.total / loss.weight

    _, told = jax.jit(lambda *given: update.update(EXPERIMENT, *given))(
        first_state(), batch
    )
    for name, gradient in jax.jit(jax.grad(mean))(first_state().params).items():
        assert told.norms[name] == pytest.approx(np.linalg.norm(gradient), rel=1e-5)


def test_state_is_born_where_its_names_place_it():
    mesh = axes.mesh(data=2, fsdp=2, tensor=2)
    born = update.init_sharded_state(EXPERIMENT, mesh)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(born), first_state())
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(born))
    assert born.params["w_up_DF"].addressable_shards[0].data.shape == (4, 16)
    moments = born.optimizer_state[1].mu["w_up_DF"]
    assert moments.sharding == born.params["w_up_DF"].sharding


def test_each_step_and_part_has_its_own_key():
    """The loss sees a key that differs between steps and between parts."""

    def noisy(params, batch, key):
        return tiny_experiment.loss(params, batch, key)._replace(
            total=jnp.sum(params["readout_VD"]),
            weight=jnp.float32(1),
            sums={"drawn": jax.random.uniform(key)},
        )

    batch = EXPERIMENT.batch(0, range(8))
    drawn = []
    for parts in (1, 2):
        experiment = EXPERIMENT._replace(loss=noisy, accumulate=parts)
        advance = jax.jit(lambda *given, e=experiment: update.update(e, *given))
        for step in range(2):
            _, told = advance(first_state()._replace(step=np.int32(step)), batch)
            drawn.append(float(told.loss.sums["drawn"]))
    assert len(set(drawn)) == 4
    assert drawn[2] != pytest.approx(2 * drawn[0])


@pytest.mark.parametrize("parts", [2, 8])
def test_accumulated_is_the_full_batch(alone, parts):
    """Also where the parts' weights differ, as the rows' do here."""
    experiment = tiny_experiment.experiment(accumulate=parts)
    weights = experiment.batch(0, range(8))["weight_BL"].reshape(-1, parts, 8)
    assert len(set(weights.sum((0, 2)).tolist())) > 1
    close(trained(experiment, one()), alone)


MESHES = {
    "data": {"data": 8},
    "fsdp": {"fsdp": 8},
    "tensor": {"tensor": 8},
    "context": {"context": 8},
    "all": {"data": 1, "fsdp": 2, "tensor": 2, "context": 2},
}


@pytest.mark.parametrize(("name", "parts"), [*((n, 1) for n in MESHES), ("all", 2)])
def test_one_device_is_eight(alone, name, parts):
    experiment = tiny_experiment.experiment(accumulate=parts)
    close(trained(experiment, axes.mesh(**MESHES[name])), alone)


@pytest.mark.parametrize("name", MESHES)
def test_feed_is_the_batch(name):
    """What lies on the mesh is the batch, and each device holds its part of it."""
    experiment = tiny_experiment.experiment()
    mesh = axes.mesh(**MESHES[name])
    fed = batching.sharded_batches(experiment.batch, 8, mesh)(3)
    expected = experiment.batch(3, range(8))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(fed), expected)
    for key, array in fed.items():
        for shard in array.addressable_shards:
            np.testing.assert_array_equal(shard.data, expected[key][shard.index])


def test_feed_asks_only_for_rows_of_its_devices():
    """A mesh whose devices are every other one, as those of a process may be."""
    asked = []

    def batch(step, rows):
        asked.append(list(rows))
        return tiny_experiment.rows_of(0, step, rows)

    mesh = axes.mesh(data=8)
    shape = {"ids_BL": jax.ShapeDtypeStruct((16, 8), jnp.int32)}
    places = axes.batch_placement(mesh, shape)

    class Mine:
        """A sharding of which this process addresses the odd devices."""

        def addressable_devices_indices_map(self, shape):
            every = places["ids_BL"].devices_indices_map(shape)
            return {d: index for d, index in every.items() if d.id % 2}

    rows = batching._rows(shape, {"ids_BL": Mine()})
    assert rows == [2, 3, 6, 7, 10, 11, 14, 15]
    batching.sharded_batches(batch, 16, mesh)(0)
    assert asked == [[0], list(range(16))]


@pytest.mark.parametrize(
    ("batch_size", "parts", "sizes"),
    [(12, 1, {"data": 8}), (8, 2, {"fsdp": 8}), (9, 2, {"tensor": 8})],
)
def test_impossible_division_is_refused(batch_size, parts, sizes):
    with pytest.raises(ValueError, match=r"expected a multiple of .* got \d+"):
        batching.check(batch_size, parts, axes.mesh(**sizes))
