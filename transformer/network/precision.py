"""The precision policy, in one place; linear maps and logits.

| what | dtype |
|---|---|
| parameters and their moving average | float32 |
| moments of the optimizer | float32, or `--state_dtype` |
| gradients, added over microbatches and devices | float32, or `--gradient_dtype` |
| linear maps and the residual stream | the experiment's compute dtype |
| norm statistics, gains and biases, attention scores and softmax | float32 |
| final logits, loss | float32 |
| decoding on a CPU | float32, or weights of `narrow_weights` |

A model computes in the dtype of its weights, so one cast of the parameter tree at the
start of the loss is the whole policy; gradients come back float32 through that cast.
The first word of a parameter's name decides, and nothing else:

| parameter | in the forward pass |
|---|---|
| `gain_*`, `bias_*`, `lambda_*`, `sink_*` (`FLOAT32_PREFIXES`) | float32 |
| every other name (`w_*`, `b_*`, `embedding_*`, ...) | compute dtype |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from transformer import axes
from transformer.axes import is_one_device, leaf_name

# (subscripts, a, b, dtype=float32): `einsum_f32`, or another library's.
Einsum = Callable[..., jax.Array]

# Of the weights, asked for by flag.
DecodeDtype = Literal["float32", "bfloat16", "int8"]


@runtime_checkable
class Weight(Protocol):
    """A weight that is no array and multiplies itself (`narrow_weights`), in the place
    of one that `linear`, `unembed` or `embed` takes."""

    def einsum(self, subscripts: str, x: jax.Array) -> jax.Array:
        """`einsum_f32(subscripts, x, weight)`."""
        ...

    def rows(self, ids: jax.Array) -> jax.Array:
        """Rows of a table, float32."""
        ...


# Names of activations, for remat policies: the output of every linear map; the queries,
# keys and values of attention, and what its kernel keeps for the backward pass.
LINEAR_OUTPUT = "linear_output"
ATTENTION = "attention"

# Small vectors that scale float32 intermediates: norm gains and biases, and the
# coefficients of an attention function.
FLOAT32_PREFIXES = ("gain_", "bias_", "lambda_", "sink_")


def cast_weights(
    params: Any, dtype: Any, *, float32: Sequence[str] = FLOAT32_PREFIXES
) -> Any:
    """`params` in `dtype`, except leaves whose name begins with one of `float32`."""

    def cast(path: Any, leaf: jax.Array) -> jax.Array:
        exempt = leaf_name(path).startswith(tuple(float32))
        return leaf if exempt else leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(cast, params)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def to_bfloat16(x: jax.Array, dtype: Any) -> jax.Array:
    """`x.astype(dtype)`, bit for bit. On a CPU float32 becomes bfloat16 by integer
    arithmetic: XLA's own conversion keeps a fused kernel from the full vector width, so
    that a kernel with an exp takes two to four times as long."""
    if (x.dtype, dtype) != (jnp.float32, jnp.bfloat16):
        return x.astype(dtype)
    return jax.lax.platform_dependent(
        x, cpu=_round_to_bfloat16, default=lambda wide: wide.astype(jnp.bfloat16)
    )


def _round_to_bfloat16(x: jax.Array) -> jax.Array:
    """float32 to the nearest bfloat16, ties to even."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # Rounding may carry a NaN into a number.
    bits = jnp.where(x == x, nearest, 0x7FC0).astype(jnp.uint16)
    return jax.lax.bitcast_convert_type(bits, jnp.bfloat16)


to_bfloat16.defvjp(
    lambda x, dtype: (to_bfloat16(x, dtype), jnp.zeros((), x.dtype)),
    lambda dtype, like, grad: (grad.astype(like.dtype),),
)


def einsum_f32(
    subscripts: str, *operands: jax.Array, dtype: Any = jnp.float32
) -> jax.Array:
    """`jnp.einsum` accumulated in float32 and returned in `dtype`: float32 for scores
    and logits."""
    wide = jnp.einsum(subscripts, *operands, preferred_element_type=jnp.float32)
    return wide.astype(dtype)


def _narrow_einsum(
    subscripts: str, *operands: jax.Array, dtype: Any = None
) -> jax.Array:
    """`jnp.einsum` in the dtype of the operands. A device rounds its part of the sum,
    and the parts are added in that dtype."""
    return jnp.einsum(subscripts, *operands, preferred_element_type=operands[0].dtype)


def weight_gradient(einsum: Einsum, *dtypes: Any) -> Einsum:
    """`einsum` for the product that is the gradient of a weight, from features and a
    weight of these dtypes. `einsum_f32` adds what devices have of it in float32, and
    rounds the sum; where `axes.gradient_dtype` is the dtype of both, in that."""
    narrow = all(dtype == axes.gradient_dtype() != "float32" for dtype in dtypes)
    return _narrow_einsum if narrow and einsum is einsum_f32 else einsum


def linear(
    subscripts: str,
    x: jax.Array,
    w: jax.Array | Weight,
    *,
    einsum: Einsum = einsum_f32,
) -> jax.Array:
    """A linear map: `jnp.einsum` of activations and weights, accumulated in float32, in
    x's dtype. Every linear map of the network is a call of this function.

    Each letter must stand in two of the three parts of the subscripts, so that both
    gradients are einsums of the same letters; `einsum` computes all three. The result
    has the checkpoint name `LINEAR_OUTPUT`. A `Weight` has no gradient.
    """
    if isinstance(w, Weight):
        return w.einsum(subscripts, x).astype(x.dtype)
    return checkpoint_name(_linear(einsum, subscripts, x, w), LINEAR_OUTPUT)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _linear(einsum: Einsum, subscripts: str, x: jax.Array, w: jax.Array) -> jax.Array:
    return einsum(subscripts, x, w, dtype=x.dtype)


def _linear_forward(einsum: Einsum, subscripts: str, x: jax.Array, w: jax.Array) -> Any:
    return _linear(einsum, subscripts, x, w), (x, w)


def _linear_backward(
    einsum: Einsum, subscripts: str, residuals: Any, grad: jax.Array
) -> Any:
    """Both gradients, from operands in the forward pass's dtypes: a float32 output
    gradient would make the backward products, two thirds of all, float32."""
    x, w = residuals
    operands, result = subscripts.split("->")
    first, second = operands.split(",")
    x_grad = einsum(f"{result},{second}->{first}", grad, w, dtype=x.dtype)
    of_weight = weight_gradient(einsum, x.dtype, w.dtype)
    w_grad = of_weight(f"{first},{result}->{second}", x, grad, dtype=w.dtype)
    return x_grad, w_grad


_linear.defvjp(_linear_forward, _linear_backward)


# Elementwise; hashable, for it is static.
Transform = Callable[[jax.Array], jax.Array]


def _identity(logits: jax.Array) -> jax.Array:
    """The product is the logits."""
    return logits


@dataclass(frozen=True)
class SoftCap:
    """cap * tanh(logits / cap) (Gemma 2, arXiv 2408.00118, section 2)."""

    cap: float

    def __call__(self, logits: jax.Array) -> jax.Array:
        return self.cap * jnp.tanh(logits / self.cap)


@dataclass(frozen=True)
class Scale:
    """factor * logits (muP, Granite, Cohere)."""

    factor: float

    def __call__(self, logits: jax.Array) -> jax.Array:
        return self.factor * logits


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["w_VD"],
    meta_fields=["transform"],
)
@dataclass(frozen=True)
class Unembedding:
    """The table w_VD of a model whose logits are more than its product with the
    features, and the function of that product: in the place of a plain table, for a
    model returns features and table, so that a loss over a large vocabulary need not
    hold all logits. It is no array, so that who does not multiply by `unembed` fails.
    """

    w_VD: jax.Array
    transform: Transform

    @property
    def shape(self) -> tuple[int, ...]:
        """(V, D)."""
        return self.w_VD.shape

    def __getitem__(self, tokens: Any) -> Unembedding:
        """Of some tokens only, such as `[:ids]`."""
        return Unembedding(self.w_VD[tokens], self.transform)


# What a model returns beside its features.
Table = jax.Array | Weight | Unembedding


def unembedding_parts(table: Table) -> tuple[Any, Transform]:
    """(w_VD, transform) of either."""
    if isinstance(table, Unembedding):
        return table.w_VD, table.transform
    return table, _identity


def unembed(
    subscripts: str, x: jax.Array, table: Table, *, einsum: Einsum = einsum_f32
) -> jax.Array:
    """The logits of features, float32: subscripts are those of the product, such as
    "BLD,VD->BLV"."""
    w_VD, transform = unembedding_parts(table)
    if isinstance(w_VD, Weight):
        return transform(w_VD.einsum(subscripts, x))
    return transform(einsum(subscripts, x, w_VD))


def embed(table_VD: jax.Array | Weight, ids: jax.Array) -> jax.Array:
    """Rows of a table of embeddings, for ids of any shape."""
    if isinstance(table_VD, Weight):
        return table_VD.rows(ids)
    if is_one_device():
        return table_VD[ids]
    from transformer.network import lookup

    return lookup.rows(table_VD, ids)
