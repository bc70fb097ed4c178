"""One step of training: the state, and the pure function from it to the next."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from transformer import axes
from transformer.training.experiment import Experiment


class State(NamedTuple):
    """All that training needs to continue: arrays only.

    step: int32 scalar, updates done. key: uint32 key data, folded by step.
    """

    step: jax.Array
    params: Any
    optimizer_state: Any
    key: jax.Array


class StepMetrics(NamedTuple):
    """The results of a step: its Loss, and the norm of each parameter's gradient."""

    loss: Any
    gradient_norms: Any


def init_state(experiment: Experiment, params: Any = None) -> State:
    """The state before the first step; pure, so that it can be traced and sharded.

    params: in place of those of `experiment.init`.
    """
    key = jax.random.key(experiment.seed)
    if params is None:
        params = experiment.init(jax.random.fold_in(key, 0))
    return State(
        step=jnp.int32(0),
        params=params,
        optimizer_state=experiment.optimizer.init(params),
        key=jax.random.key_data(jax.random.fold_in(key, 1)),
    )


# What the last abstract state was made of, the function that makes the state, and the
# abstract one: tracing a deep model takes seconds and many ask for it. JAX traces the
# same function once.
_last: list[tuple[Any, Any, State]] = []


def abstract_state(experiment: Experiment, mesh: Mesh) -> State:
    """Shapes, dtypes and shardings of the state, without computing it."""
    return _trace(experiment, mesh)[1]


def _trace(experiment: Experiment, mesh: Mesh) -> tuple[Any, State]:
    """`init_state` of the experiment, and its result without computing it."""
    source = experiment.init, experiment.optimizer, experiment.seed, mesh
    if not (_last and _last[0][0] == source):
        init = partial(init_state, experiment)
        _last[:] = [(source, init, _abstract_state(init, mesh))]
    return _last[0][1:]


def param_shapes(experiment: Experiment) -> Any:
    """Shapes and dtypes of the parameters; those of the last `abstract_state` where it
    is of this experiment."""
    source = experiment.init, experiment.optimizer, experiment.seed
    if _last and _last[0][0][:3] == source:
        params = _last[0][2].params
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params)
    return jax.eval_shape(experiment.init, jax.random.key(0))


def _abstract_state(init: Callable[..., State], mesh: Mesh) -> State:
    shapes = jax.eval_shape(init, None)
    return jax.tree.map(
        lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
        shapes,
        axes.shardings(mesh, shapes),
    )


def state_shardings(experiment: Experiment, mesh: Mesh) -> State:
    """The sharding of each leaf of the state, which follows from the leaf's name."""
    return jax.tree.map(lambda a: a.sharding, abstract_state(experiment, mesh))


def init_sharded_state(experiment: Experiment, mesh: Mesh, params: Any = None) -> State:
    """`init_state` computed already sharded (`out_shardings`), so that no device ever
    holds it whole."""
    init, abstract = _trace(experiment, mesh)
    shardings = jax.tree.map(lambda a: a.sharding, abstract)
    return jax.jit(init, out_shardings=shardings)(params)


def update(
    experiment: Experiment, state: State, batch: Any
) -> tuple[State, StepMetrics]:
    """The next state and the step's metrics. Pure; training is this function applied
    again and again."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    loss, gradient = loss_and_grad(experiment, state.params, batch, key)
    # Sums until here; this is the one division, by the weight of the global batch,
    # which is float32, and so is the quotient; 0 where no target is scored.
    weight = jnp.where(loss.weight == 0, 1, loss.weight)
    gradient = jax.tree.map(lambda g: g / weight, gradient)
    change, optimizer_state = experiment.optimizer.update(
        gradient, state.optimizer_state, state.params
    )
    params = optax.apply_updates(state.params, change)
    metrics = StepMetrics(loss, jax.tree.map(_norm, gradient))
    return State(state.step + 1, params, optimizer_state, state.key), metrics


def _norm(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32))))


def _round_gradient(experiment: Experiment, gradient: Any) -> Any:
    if experiment.gradient_dtype == "float32":
        return gradient
    return jax.tree.map(lambda g: g.astype(experiment.gradient_dtype), gradient)


def loss_and_grad(
    experiment: Experiment, params: Any, batch: Any, key: jax.Array
) -> tuple[Any, Any]:
    """Loss and gradient of its total, summed over `experiment.accumulate` microbatches
    in `experiment.gradient_dtype`.

    Microbatch i has the rows i, i + accumulate, ...: each device keeps its own rows.
    """
    count = experiment.accumulate

    def of_microbatch(microbatch: Any, key: jax.Array) -> tuple[Any, Any]:
        def total(params: Any) -> tuple[jax.Array, Any]:
            loss = experiment.loss(params, microbatch, key)
            return loss.total, loss

        with axes.add_gradients_in(experiment.gradient_dtype):
            (_, loss), gradient = jax.value_and_grad(total, has_aux=True)(params)
        return loss, _round_gradient(experiment, gradient)

    if count == 1:
        return of_microbatch(batch, key)
    microbatches = jax.tree.map(
        lambda a: a.reshape(-1, count, *a.shape[1:]).swapaxes(0, 1), batch
    )
    first = jax.tree.map(lambda a: a[0], microbatches)
    zero = jax.tree.map(
        lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(of_microbatch, first, key)
    )

    def add(sums: Any, numbered: tuple[jax.Array, Any]) -> tuple[Any, None]:
        number, microbatch = numbered
        more = of_microbatch(microbatch, jax.random.fold_in(key, number))
        return jax.tree.map(jnp.add, sums, more), None

    return jax.lax.scan(add, zero, (jnp.arange(count), microbatches))[0]
