"""The contract of a new attention, block or stack: tests of the properties that all
have here.

`check_attention`, `check_block` and `check_stack` build a small model around one slot
and raise AssertionError with the property and the largest difference for the first
one that fails. For tests of own variants:

    contract.check_attention(make_attention, width=32)

Properties: parameters are named after their dimensions; bfloat16 weights give bfloat16
features; no token depends on a later one; cached decoding equals whole rows; scanned
layers equal unrolled ones; remat equals none; eight devices equal one (skipped, with a
printed line, where there are fewer).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transformer import axes
from transformer.network import masks, mlp, norms, stack
from transformer.network.block import Block, Make
from transformer.network.precision import cast_weights

ROWS, LENGTH, CHUNK = 4, 12, 5
MESH = {"fsdp": 2, "tensor": 2, "context": 2}


def check_attention(
    make_attention: Make, *, width: int, causal: bool = True, decodes: bool = True
) -> None:
    """Check all properties of pre-norm blocks with this attention of `width` features.

    causal: whether the mask is causal. decodes: whether it decodes from a cache; if
    not, its `empty_cache` must raise ValueError.
    """

    def make_block(block: Any, layer: int) -> nn.Module:
        make_mlp = partial(mlp.MLP, width=width, hidden_features=2 * width)
        return block(make_attention, make_mlp, norms.RMSNorm)

    check_block(make_block, width=width, causal=causal, decodes=decodes)


def check_block(
    make_block: stack.MakeBlock,
    *,
    width: int,
    depth: int = 2,
    block: type[nn.Module] = Block,
    causal: bool = True,
    decodes: bool = True,
) -> None:
    """Check all properties of `depth` of these blocks; scanned layers are left out,
    with a printed line, where make_block(block, layer) makes none twice."""
    make = partial(stack.UnrolledStack, depth, make_block, block=block)
    check_stack(make, width=width, causal=causal, decodes=decodes)
    params, batch = random_params(make(), width), _batch(width)
    value, grads = _value_and_grad(make(), params, batch)
    again = make(remat=stack.REMAT["all"])
    _require_equal(
        "remat = none", (value, grads), _value_and_grad(again, params, batch)
    )
    kinds = stack.block_kinds(make_block, block, depth)
    if not stack.repeats(kinds):
        print(f"scanned = unrolled: skipped, none of {depth} blocks repeats")
        return
    scanned = stack.ScannedStack(depth, make_block, block=block)
    found = stack.sections(kinds)
    got = _value_and_grad(scanned, stack.stack_layer_params(params, found), batch)
    expected = value, stack.stack_layer_params(grads, found)
    _require_equal("scanned = unrolled", expected, got)


def check_stack(
    make_stack: Callable[[], nn.Module],
    *,
    width: int,
    causal: bool = True,
    decodes: bool = True,
) -> None:
    """Check the properties of any stack: names, dtype, causality, cached = whole, eight
    devices = one."""
    module = make_stack()
    params = random_params(module, width)
    _check_names(params)
    _check_dtype(module, params, width)
    if causal:
        _check_causality(module, params, width)
    _check_decoding(module, params, width, decodes=decodes)
    _check_sharding(module, params, _batch(width))


def random_params(module: nn.Module, width: int) -> Any:
    """Parameters of a stack from numpy: gains near 1, all others near 0, with standard
    deviation 0.3, so that no gain is exactly 1 and no weight 0."""
    arguments = _batch(width)["x_BLD"], masks.single_document(LENGTH)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *arguments)
    rng = np.random.default_rng(0)

    def sample(path: Any, leaf: Any) -> jax.Array:
        mean = 1.0 if axes.leaf_name(path).startswith("gain_") else 0.0
        return jnp.asarray(np.float32(mean + 0.3 * rng.normal(size=leaf.shape)))

    return jax.tree_util.tree_map_with_path(sample, shapes["params"])


def _batch(width: int) -> dict[str, np.ndarray]:
    shape = 2, ROWS, LENGTH, width
    x_BLD, direction_BLD = np.random.default_rng(1).normal(size=shape).astype("f4")
    return {"x_BLD": x_BLD, "direction_BLD": direction_BLD}


@partial(jax.jit, static_argnums=0)
def _value_and_grad(module: nn.Module, params: Any, batch: dict[str, Any]) -> Any:
    """A random projection of the features, and its gradient by the parameters."""

    def projection(params: Any, batch: dict[str, Any]) -> jax.Array:
        tokens = masks.single_document(LENGTH)
        y_BLD = module.apply({"params": params}, batch["x_BLD"], tokens)
        return jnp.sum(jnp.asarray(y_BLD) * batch["direction_BLD"])

    return jax.value_and_grad(projection)(params, batch)


def _require_equal(name: str, expected: Any, got: Any, limit: float = 1e-4) -> None:
    """AssertionError where a leaf differs by more than `limit` of its largest entry."""
    leaves = zip(
        jax.tree_util.tree_flatten_with_path(expected)[0],
        jax.tree.leaves(got),
        strict=True,
    )
    for (path, a), b in leaves:
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        difference = np.abs(a - b).max() / max(np.abs(a).max(), 1e-2)
        if not difference <= limit:
            raise AssertionError(
                f"{name}: largest relative difference {difference:.1e} in "
                f"{axes.leaf_name(path) or 'the output'}, expected at most {limit:.0e}"
            )


def _check_names(params: Any) -> None:
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = axes.leaf_name(path)
        if not 0 < len(axes.dimensions(name)) <= leaf.ndim:
            raise AssertionError(
                f"parameters are named after their dimensions: got {name} of shape "
                f"{leaf.shape}; its placement follows from a name such as w_q_DHK"
            )


def _check_dtype(module: nn.Module, params: Any, width: int) -> None:
    def features(params: Any, x_BLD: jax.Array) -> Any:
        weights = {"params": cast_weights(params, jnp.bfloat16)}
        return module.apply(weights, x_BLD, masks.single_document(LENGTH))

    x_BLD = _batch(width)["x_BLD"].astype(jnp.bfloat16)
    y_BLD = jax.eval_shape(features, params, x_BLD)
    if y_BLD.dtype != jnp.bfloat16:
        raise AssertionError(
            f"bfloat16 weights give bfloat16 features: got {y_BLD.dtype}; cast the "
            f"result of float32 arithmetic to the values' dtype"
        )


def _check_causality(module: nn.Module, params: Any, width: int) -> None:
    x_BLD, direction_BLD = _batch(width).values()

    def projections(x_BLD: jax.Array) -> jax.Array:
        tokens = masks.single_document(LENGTH)
        y_BLD = module.apply({"params": params}, x_BLD, tokens)
        return (jnp.asarray(y_BLD) * direction_BLD[:1])[0].sum(-1)

    influence_LBMD = jax.jit(jax.jacrev(projections))(x_BLD[:1])
    influence_LM = np.abs(np.asarray(influence_LBMD)).max((1, 3))
    later = np.triu(influence_LM, 1)
    if later.max() > 1e-6 * influence_LM.max():
        query, key = np.unravel_index(later.argmax(), later.shape)
        raise AssertionError(
            f"causality: the gradient of token {query} by the later token {key} is "
            f"{later.max():.1e}, expected 0"
        )


def _check_decoding(module: Any, params: Any, width: int, *, decodes: bool) -> None:
    """One chunk of tokens, then one token at a time."""
    if not decodes:
        try:
            module.empty_cache(ROWS, LENGTH, CHUNK, jnp.float32)
        except ValueError:
            return
        raise AssertionError("cached = whole: expected empty_cache to raise ValueError")
    x_BLD, index_BL = _batch(width)["x_BLD"], np.arange(LENGTH)[None]
    variables, whole = {"params": params}, masks.single_document(LENGTH)
    expected = jax.jit(module.apply)(variables, x_BLD, whole)
    decode = jax.jit(partial(module.apply, method="decode"))
    cache = module.empty_cache(ROWS, LENGTH, CHUNK, jnp.float32)
    parts, edges = [], [0, *range(CHUNK, LENGTH + 1)]
    for start, stop in zip(edges, edges[1:], strict=False):
        at = index_BL[:, start:stop].astype(np.int32)
        tokens = masks.TokenPositions(at, at, np.ones_like(at))
        y_BLD, cache = decode(variables, x_BLD[:, start:stop], cache, tokens)
        parts.append(y_BLD)
    _require_equal("cached = whole", expected, np.concatenate(parts, axis=1))


def _check_sharding(module: nn.Module, params: Any, batch: dict[str, Any]) -> None:
    devices = jax.devices()
    if len(devices) < 8:
        print(f"eight devices = one: skipped, there are {len(devices)}")
        return
    expected = _value_and_grad(module, params, batch)
    mesh = axes.make_mesh(**MESH, devices=devices[:8])
    with jax.set_mesh(mesh):
        params = jax.device_put(params, axes.shardings(mesh, params))
        batch = jax.device_put(batch, axes.batch_shardings(mesh, batch))
        got = _value_and_grad(module, params, batch)
    _require_equal("eight devices = one", expected, got)
