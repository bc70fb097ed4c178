"""One step of training: the state, and the pure function from it to the next."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from transformer import axes
from transformer.training.experiment import Experiment


class State(NamedTuple):
    """All that training needs to go on: arrays only.

    step: int32 scalar, updates done. key: uint32 key data, folded by step.
    """

    step: jax.Array
    params: Any
    optimizer_state: Any
    key: jax.Array


class Told(NamedTuple):
    """What a step tells: its Loss, and the norm of each parameter's gradient."""

    loss: Any
    norms: Any


def initial(experiment: Experiment) -> State:
    """The state before the first step; pure, so that it can be born sharded."""
    key = jax.random.key(experiment.seed)
    params = experiment.init(jax.random.fold_in(key, 0))
    return State(
        step=jnp.int32(0),
        params=params,
        optimizer_state=experiment.optimizer.init(params),
        key=jax.random.key_data(jax.random.fold_in(key, 1)),
    )


def abstract(experiment: Experiment, mesh: Mesh) -> State:
    """Shapes, dtypes and places of the state, without computing any of it."""
    shapes = jax.eval_shape(lambda: initial(experiment))
    return jax.tree.map(
        lambda a, place: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place),
        shapes,
        axes.placement(mesh, shapes),
    )


def born(experiment: Experiment, mesh: Mesh) -> State:
    """`initial`, each leaf made where its name places it: never whole anywhere."""
    places = jax.tree.map(lambda a: a.sharding, abstract(experiment, mesh))
    return jax.jit(lambda: initial(experiment), out_shardings=places)()


def update(experiment: Experiment, state: State, batch: Any) -> tuple[State, Told]:
    """The next state, and what to tell of the step: its Loss and the norm of each
    parameter's gradient. Pure; the whole of training is this, again and again."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    loss, gradient = summed(experiment, state.params, batch, key)
    # Sums until here; this is the one division, by the weight of the whole batch.
    gradient = jax.tree.map(lambda g: g / loss.weight, gradient)
    change, optimizer_state = experiment.optimizer.update(
        gradient, state.optimizer_state, state.params
    )
    params = optax.apply_updates(state.params, change)
    told = Told(loss, jax.tree.map(_norm, gradient))
    return State(state.step + 1, params, optimizer_state, state.key), told


def _norm(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32))))


def summed(
    experiment: Experiment, params: Any, batch: Any, key: jax.Array
) -> tuple[Any, Any]:
    """Loss and gradient of its total, added up over `accumulate` parts of the batch.

    Part i holds the rows i, i + accumulate, ...: each device keeps its own rows.
    """
    parts = experiment.accumulate

    def one(part: Any, key: jax.Array) -> tuple[Any, Any]:
        def total(params: Any) -> tuple[jax.Array, Any]:
            loss = experiment.loss(params, part, key)
            return loss.total, loss

        (_, loss), gradient = jax.value_and_grad(total, has_aux=True)(params)
        return loss, gradient

    if parts == 1:
        return one(batch, key)
    split = jax.tree.map(
        lambda a: a.reshape(-1, parts, *a.shape[1:]).swapaxes(0, 1), batch
    )
    first = jax.tree.map(lambda a: a[0], split)
    zero = jax.tree.map(
        lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(one, first, key)
    )

    def add(sums: Any, numbered: tuple[jax.Array, Any]) -> tuple[Any, None]:
        number, part = numbered
        more = one(part, jax.random.fold_in(key, number))
        return jax.tree.map(jnp.add, sums, more), None

    return jax.lax.scan(add, zero, (jnp.arange(parts), split))[0]
