"""Moments in bfloat16 are what float32 ones are, but for noise without a mean."""

from functools import partial
from typing import Any

import commands
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import short_training
import tiny_experiment

from transformer import axes, main
from transformer.planning import chips, costs, hlo, plan
from transformer.training import (
    batching,
    checkpoint,
    loop,
    narrow_state,
    optimizers,
    update,
)

INTERVALS = loop.Intervals(log=2, evaluate=4, checkpoint=2)
run = partial(main.run, tiny_experiment.experiment, intervals=INTERVALS)


def adamw(steps: int) -> Any:
    return optimizers.adamw(steps, learning_rate=0.01, b2=0.999)


def muon(steps: int) -> Any:
    return optimizers.muon_wsd(steps, muon_learning_rate=0.02, adam_learning_rate=0.01)


def assert_equal(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_number_becomes_its_neighbors_with_itself_as_mean() -> None:
    x = np.random.default_rng(0).normal(size=40).astype("f4")
    x_BD = jnp.broadcast_to(jnp.asarray(x), (10_000, 40))
    got = narrow_state.stochastic_round(x_BD, jax.random.key(0))
    wide = np.asarray(got.astype(jnp.float32))
    nearest = np.asarray(jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32))
    unit = 2.0 ** (np.floor(np.log2(np.abs(x))) - 7)
    assert np.all(np.abs(wide - x) < unit)
    assert all(len(np.unique(column)) == 2 for column in wide.T)
    assert np.all(np.abs(wide.mean(0) - x) < 5 * 0.5 * unit / 100)
    assert np.any(np.abs(nearest - x) > 5 * 0.5 * unit / 100)


def test_what_bfloat16_has_stays() -> None:
    x = jnp.array([0, -0.0, 1.5, -3e-30, jnp.inf, -jnp.inf], jnp.bfloat16)
    for seed in range(5):
        key = jax.random.key(seed)
        got = narrow_state.stochastic_round(x.astype(jnp.float32), key)
        np.testing.assert_array_equal(got, x)
        assert jnp.isnan(narrow_state.stochastic_round(jnp.array([jnp.nan]), key))[0]


def test_a_second_moment_falls_as_in_float32() -> None:
    """By 0.1 % a step, which rounding to the nearest loses: a gradient of one, then 700
    of zero halve it."""
    params = {"w_up_DF": jnp.ones((64, 64))}
    pair = optax.scale_by_adam(b2=0.999)
    narrow = narrow_state.keep_in_bfloat16(pair, seed=0)

    def second_moment(pair: Any) -> Any:
        def step(state: Any, size: jax.Array) -> Any:
            gradients = jax.tree.map(lambda leaf: leaf * size, params)
            return pair.update(gradients, state, params)[1], None

        sizes = jnp.ones(701).at[1:].set(0)
        state = jax.jit(lambda s: jax.lax.scan(step, s, sizes)[0])(pair.init(params))
        return getattr(state, "inner", state).nu["w_up_DF"].astype(jnp.float32)

    expected = float(second_moment(pair)[0, 0])
    got = np.asarray(second_moment(narrow))
    assert expected == pytest.approx(0.001 * 0.999**700, rel=1e-3)
    assert got.mean() == pytest.approx(expected, rel=0.01)
    assert got.std() < 0.1 * expected
    once = jnp.float32(0.001).astype(jnp.bfloat16)
    assert (once.astype(jnp.float32) * 0.999).astype(jnp.bfloat16) == once


@pytest.mark.parametrize("optimizer", [adamw, muon])
def test_the_bytes_of_the_moments_are_halved(optimizer: Any) -> None:
    """On a mesh and in a plan too; parameters and their average stay float32."""
    topology, sizes = chips.parse("v5e:2x4"), {"fsdp": 8}

    def planned(**how: Any) -> plan.Plan:
        made = tiny_experiment.experiment(optimizer, **how)
        return plan.make(made, topology, sizes, compile_it=False)

    wide, narrow = planned(), planned(state_dtype="bfloat16")
    assert narrow.memory.parameters == wide.memory.parameters
    assert narrow.memory.optimizer / wide.memory.optimizer < 0.55
    both = {"state_dtype": "bfloat16", "ema_decay": 0.9}
    made = tiny_experiment.experiment(optimizer, **both)
    state = jax.eval_shape(lambda: update.init_state(made))
    average = optimizers.average_of(state.optimizer_state)
    leaves = jax.tree.leaves((state.params, average))
    assert {leaf.dtype.name for leaf in leaves} == {"float32"}
    moments = jax.tree.leaves(state.optimizer_state.inner.inner)
    assert {a.dtype.name for a in moments if a.ndim > 1} == {"bfloat16"}


@pytest.mark.parametrize("optimizer", [adamw, muon])
@pytest.mark.parametrize("mesh", [{"data": 1}, {"fsdp": 8}], ids=str)
def test_a_run_learns_as_with_float32(optimizer: Any, mesh: dict[str, int]) -> None:
    """With accumulation and an average, on one device and on eight."""
    devices = jax.devices()[: np.prod(list(mesh.values()))]

    def loss(**how: Any) -> float:
        with jax.set_mesh(axes.make_mesh(devices=devices, **mesh)):
            made = tiny_experiment.experiment(
                optimizer, steps=100, accumulate=2, ema_decay=0.9, **how
            )
            return float(np.mean(short_training.train(made).losses[-20:]))

    wide, narrow = loss(), loss(state_dtype="bfloat16", gradient_dtype="bfloat16")
    assert narrow == pytest.approx(wide, rel=0.03)
    assert wide < 2


def test_the_noise_is_that_of_one_device_and_of_the_step() -> None:
    """And nothing is sent for it."""
    params = tiny_experiment.init(16, jax.random.key(0))
    gradients = tiny_experiment.init(16, jax.random.key(1))
    pair: Any = narrow_state.keep_in_bfloat16(optax.scale_by_adam(), seed=3)
    advance = jax.jit(lambda g, state: pair.update(g, state)[1])
    first = advance(gradients, pair.init(params))
    second = advance(gradients, first._replace(inner=pair.init(params).inner))
    moment = first.inner.nu["w_up_DF"]
    assert np.any(moment != second.inner.nu["w_up_DF"])
    mesh = axes.make_mesh(fsdp=8)
    with jax.set_mesh(mesh):
        place = lambda tree: jax.device_put(tree, axes.shardings(mesh, tree))  # noqa: E731
        given = place(gradients), place(pair.init(params))
        assert_equal(advance(*given), first)
        text = advance.lower(*given).compile().as_text()
    assert costs.of_program(hlo.parse(text)).collectives == ()


def test_a_run_is_resumed_and_restored_on_another_mesh_bit_for_bit(tmp_path) -> None:
    how: Any = {"state_dtype": "bfloat16", "width": 8}
    whole = run(tmp_path / "whole", steps=4, **how)
    made = tiny_experiment.experiment(steps=4, **how)
    assert type(whole.optimizer_state) is narrow_state.NarrowState
    folder = tmp_path / "whole" / checkpoint.FOLDER
    mesh = axes.make_mesh(fsdp=4, tensor=2)
    saved: Any = checkpoint.open_(folder, loop.checkpoint_identity(made))
    restored, _ = saved.restore(update.abstract_state(made, mesh))
    assert_equal(jax.device_get(restored), jax.device_get(whole))
    moment = restored.optimizer_state.inner[1].nu["w_up_DF"]
    assert moment.dtype == jnp.bfloat16 and moment.sharding.shard_shape((8, 32))[0] < 8
    mesh = axes.make_mesh()
    state, _ = saved.restore(update.abstract_state(made, mesh), which="2")
    batch_at = batching.sharded_batches(made.batch, made.batch_size, mesh)
    with jax.set_mesh(mesh):
        program: Any = loop.jit_update(made, mesh)
        for step in (2, 3):
            state, _ = program(state, batch_at(step))
    assert_equal(jax.device_get(state), jax.device_get(whole))


def test_another_dtype_is_refused(tmp_path, capsys, monkeypatch) -> None:
    """Also in the folder of a run from before there was the flag."""
    folder = tmp_path / "run"
    run(folder, steps=1)
    argv = [f"--workdir={folder}", "--state_dtype=bfloat16", "--steps=2"]
    line = commands.refusal(argv, capsys, monkeypatch)
    assert line.startswith("error: --state_dtype: expected float32")
    line = commands.refusal(["--state_dtype=float16"], capsys, monkeypatch)
    assert "--state_dtype: expected one of float32, bfloat16, got 'float16'" in line
