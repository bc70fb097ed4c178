"""Batches on a mesh, and threads that make them ahead."""

import itertools
import threading
import time
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_experiment

from transformer import axes
from transformer.training import batching

MESHES = {
    "data": {"data": 8},
    "fsdp": {"fsdp": 8},
    "tensor": {"tensor": 8},
    "context": {"context": 8},
    "all": {"data": 1, "fsdp": 2, "tensor": 2, "context": 2},
}


@pytest.mark.parametrize("name", MESHES)
def test_sharded_batch_is_the_batch(name):
    """As a whole, and in the part of each device."""
    experiment = tiny_experiment.experiment()
    mesh = axes.make_mesh(**MESHES[name])
    sharded = batching.sharded_batches(experiment.batch, 8, mesh)(3)
    expected = experiment.batch(3, range(8))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(sharded), expected)
    for key, array in sharded.items():
        for shard in array.addressable_shards:
            np.testing.assert_array_equal(shard.data, expected[key][shard.index])


def test_only_rows_of_addressable_devices_are_made():
    """A process may address every other device of the mesh."""
    calls = []

    def batch(step, rows):
        calls.append(list(rows))
        return tiny_experiment.rows_of(0, step, rows)

    mesh = axes.make_mesh(data=8)
    shape = {"ids_BL": jax.ShapeDtypeStruct((16, 8), jnp.int32)}
    shardings = axes.batch_shardings(mesh, shape)

    class OddDevices:
        """A sharding of which this process addresses the odd devices."""

        def addressable_devices_indices_map(self, shape):
            every = shardings["ids_BL"].devices_indices_map(shape)
            return {d: index for d, index in every.items() if d.id % 2}

    rows = batching._local_rows(shape, {"ids_BL": OddDevices()})
    assert rows == [2, 3, 6, 7, 10, 11, 14, 15]
    batching.sharded_batches(batch, 16, mesh)(0)
    assert calls == [[0], list(range(16))]


@pytest.mark.parametrize(
    ("batch_size", "microbatches", "sizes"),
    [(12, 1, {"data": 8}), (8, 2, {"fsdp": 8}), (9, 2, {"tensor": 8})],
)
def test_batch_that_does_not_divide_is_refused(batch_size, microbatches, sizes):
    with pytest.raises(ValueError, match=r"expected a multiple of .* got \d+"):
        batching.check(batch_size, microbatches, axes.make_mesh(**sizes))


def test_prefetch_is_the_function_in_order():
    def slow(step):
        time.sleep(0.01 * (step % 3))
        return step * step

    for depth, threads in itertools.product((1, 4), (1, 3)):
        values = batching.prefetch(slow, range(5, 20), depth=depth, threads=threads)
        assert list(values) == [step * step for step in range(5, 20)]
    assert list(batching.prefetch(slow, range(0))) == []


def test_prefetch_is_at_most_depth_ahead():
    started = []

    def record(step):
        started.append(step)
        return step

    values = batching.prefetch(record, itertools.count(), depth=3)
    wait_for(lambda: len(started) == 3)
    for expected in range(5):
        assert next(values) == expected
        wait_for(lambda n=expected: len(started) == n + 4)
    time.sleep(0.05)
    assert started == list(range(8))
    values.close()


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_prefetch_raises_at_its_step_with_the_traceback():
    def fails(step):
        if step == 3:
            raise RuntimeError("row 3 is bad")
        return step

    values = batching.prefetch(fails, range(10), depth=5, threads=2)
    assert [next(values) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="row 3 is bad") as caught:
        next(values)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == "fails"
    wait_for(lambda: not threads_alive())


def test_close_ends_the_threads():
    values = batching.prefetch(lambda step: step, itertools.count(), threads=3)
    assert next(values) == 0 and threads_alive()
    values.close()
    assert not threads_alive()
    with pytest.raises(ValueError, match="depth and threads >= 1, got 0, 1"):
        batching.prefetch(lambda step: step, range(3), depth=0)


def threads_alive():
    return [t for t in threading.enumerate() if t.name.startswith("prefetch")]
