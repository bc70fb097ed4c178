"""Weights of int8 or bfloat16 in the place of float32 ones, for decoding on a CPU.

Decoding a few rows is bound by reading the weights, so weights of half or a quarter of
the bytes decode faster. A `NarrowWeight` stands in a parameter tree where an array
stood; `precision.linear`, `precision.unembed` and `precision.embed` multiply by it.
Activations, sums and the cache stay float32.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from transformer import cpu_tuning
from transformer.axes import leaf_name
from transformer.network.precision import DecodeDtype

NarrowDtype = Literal["bfloat16", "int8"]

# Dimensions of a weight that are summed over, by the name of its parameter: those that
# the network multiplies by `linear`, `unembed` and `embed`, and by nothing else.
SUMMED = {
    "w_in_DF": "D",
    "w_gate_DF": "D",
    "w_out_FD": "F",
    "w_q_DHK": "D",
    "w_k_DGK": "D",
    "w_v_DGK": "D",
    "w_o_HKD": "HK",
    "embedding_VD": "D",
    "unembedding_VD": "D",
}
# More rows are multiplied by XLA with weights widened before: for them arithmetic is
# the limit.
MOST_ROWS = 8
LARGEST_INT8 = 127


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["values", "scale"],
    meta_fields=[],
)
@dataclass(frozen=True)
class NarrowWeight:
    """Numbers `values` times `scale`.

    values: int8, or uint16, the bits of bfloat16, in the shape of the weight. scale:
    float32, one for each output, in that shape with 1 for dimensions that are summed
    over. Stacked layers have one more dimension in front, of both. It is no array, so
    that code which does not multiply by `precision` fails.
    """

    values: jax.Array
    scale: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return self.values.shape

    def dequantize(self) -> jax.Array:
        """The weight that this one stands for, float32."""
        return _widen(self.values) * self.scale

    def rows(self, ids: jax.Array) -> jax.Array:
        """Rows of a table, float32."""
        return _widen(self.values[ids]) * self.scale[ids]

    def einsum(self, subscripts: str, x: jax.Array) -> jax.Array:
        """`precision.einsum_f32(subscripts, x, weight)`, accumulated and returned in
        float32. The result has the letters of x that are not summed over, then those of
        the weight, each in their order; ValueError for other subscripts."""
        operands, result = subscripts.split("->")
        first, second = operands.split(",")
        summed = [letter for letter in first if letter not in result]
        others = [letter for letter in second if letter not in summed]
        lead = first[: len(first) - len(summed)]
        inputs = "".join(summed)
        outputs = "".join(others)
        if second not in (inputs + outputs, outputs + inputs) or (
            (first, result) != (lead + inputs, lead + outputs)
        ):
            raise ValueError(
                f"{subscripts!r}: expected a product of features and a weight, such as "
                f"BLD,DF->BLF, for a narrow weight"
            )
        sizes = dict(zip(second, self.shape, strict=True))
        x_RD = x.reshape(-1, math.prod(sizes[letter] for letter in inputs))
        if x_RD.shape[0] > MOST_ROWS:
            wide = self.dequantize()
            return jnp.einsum(subscripts, x, wide, preferred_element_type=jnp.float32)
        y_RF = self._kernel(x_RD, outputs_first=second != inputs + outputs)
        shape = [sizes[letter] for letter in outputs]
        return y_RF.reshape(*x.shape[: len(lead)], *shape)

    def _kernel(self, x_RD: jax.Array, *, outputs_first: bool) -> jax.Array:
        from transformer.network.kernels import narrow_products

        scale_F = self.scale.reshape(-1)
        sizes = (scale_F.size, -1) if outputs_first else (-1, scale_F.size)
        values = self.values.reshape(sizes)
        x_RD = x_RD.astype(jnp.float32)
        return narrow_products.product(
            x_RD, values, scale_F, outputs_first=outputs_first
        )


def _widen(values: jax.Array) -> jax.Array:
    if values.dtype == jnp.uint16:
        values = jax.lax.bitcast_convert_type(values, jnp.bfloat16)
    return values.astype(jnp.float32)


def to_int8(w: jax.Array, axes: tuple[int, ...]) -> NarrowWeight:
    """The nearest int8 multiples of a scale, that of the largest magnitude along `axes`
    over 127 (symmetric quantization by channel, Jacob et al. 2017, arXiv 1712.05877,
    section 3). The error is at most half a scale."""
    largest = jnp.max(jnp.abs(w), axis=axes, keepdims=True)
    scale = jnp.where(largest == 0, 1.0, largest / LARGEST_INT8).astype(jnp.float32)
    values = jnp.clip(jnp.round(w / scale), -LARGEST_INT8, LARGEST_INT8)
    return NarrowWeight(values.astype(jnp.int8), scale)


def to_bfloat16(w: jax.Array, axes: tuple[int, ...]) -> NarrowWeight:
    """The nearest bfloat16 numbers, with scales of 1."""
    shape = tuple(1 if i in axes else size for i, size in enumerate(w.shape))
    bits = jax.lax.bitcast_convert_type(w.astype(jnp.bfloat16), jnp.uint16)
    return NarrowWeight(bits, jnp.ones(shape, jnp.float32))


_ROUND = {"int8": to_int8, "bfloat16": to_bfloat16}


def narrow(params: Any, dtype: NarrowDtype) -> Any:
    """`params` with `NarrowWeight`s for the leaves named in `SUMMED`; others stay, as
    does an embedding beside an unembedding: its rows are looked up, not multiplied."""
    compiled = jax.jit(_ROUND[dtype], static_argnums=1)
    names = {leaf_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    looked_up = {"embedding_VD"} if "unembedding_VD" in names else set()

    def leaf_of(path: Any, leaf: jax.Array) -> Any:
        name = leaf_name(path)
        if name not in SUMMED or name in looked_up:
            return leaf
        letters, summed = name.rpartition("_")[2], SUMMED[name]
        stacked = leaf.ndim - len(letters)
        return compiled(leaf, tuple(stacked + letters.index(c) for c in summed))

    return jax.tree_util.tree_map_with_path(leaf_of, params)


def is_narrow(leaf: Any) -> bool:
    """Whether it is a `NarrowWeight`; for `jax.tree.map(..., is_leaf=is_narrow)`."""
    return isinstance(leaf, NarrowWeight)


def dequantize(weights: Any) -> Any:
    """Weights with float32 arrays for `NarrowWeight`s."""

    def widen(leaf: Any) -> Any:
        return leaf.dequantize() if is_narrow(leaf) else leaf

    return jax.tree.map(widen, weights, is_leaf=is_narrow)


def describe(weights: Any, dtype: DecodeDtype) -> str:
    """One line: how many numbers are narrow, and the names of the others."""
    leaves = jax.tree_util.tree_leaves_with_path(weights, is_leaf=is_narrow)
    sizes = {True: 0, False: 0}
    for _, leaf in leaves:
        sizes[is_narrow(leaf)] += math.prod(leaf.shape)
    arrays = sum(is_narrow(leaf) for _, leaf in leaves)
    others = sorted({leaf_name(path) for path, leaf in leaves if not is_narrow(leaf)})
    return (
        f"decoding with {dtype} weights: {sizes[True]:,} numbers of {arrays} arrays; "
        f"{sizes[False]:,} stay float32 ({', '.join(others) or 'none'})"
    )


def require(dtype: DecodeDtype) -> None:
    """ValueError for another dtype, and where this machine cannot decode in that one by
    choice: it needs a CPU, one device, and for narrow weights numba."""
    asked = f"--decode_dtype={dtype}"
    if dtype not in get_args(DecodeDtype):
        known = ", ".join(get_args(DecodeDtype))
        raise ValueError(f"--decode_dtype: expected one of {known}, got {dtype!r}")
    if not cpu_tuning.on_cpu():
        raise ValueError(
            f"{asked}: expected a CPU, got {jax.default_backend()}, which decodes in "
            "the dtype of the run"
        )
    if dtype not in get_args(NarrowDtype):
        return
    devices = jax.sharding.get_abstract_mesh().size
    if devices > 1:
        raise ValueError(f"{asked}: expected one device, got {devices}")
    if importlib.util.find_spec("numba") is None:
        raise ValueError(
            f"{asked}: expected numba, which compiles the products, got none: pip "
            "install -e '.[narrow]'"
        )
