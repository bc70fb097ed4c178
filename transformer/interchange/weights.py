"""Parameters from tensors and back, one tensor at a time.

Reading goes from mapped files to where each parameter lies on the mesh: a host holds
its share of the model and one tensor. Nothing is left at random: a tensor that is
missing, left over, of another shape, no float or not finite is an error that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np

from transformer.interchange import layout
from transformer.interchange import table as table_
from transformer.interchange.table import Binding, Table
from transformer.interchange.tensor_files import DTYPES, PlannedTensor, StoredTensor
from transformer.training.checksum import leaf_paths

FLOATS = ("F64", "F32", "F16", "BF16")


class Source(NamedTuple):
    """A tensor of a file, and where a leaf of the parameters is in it."""

    name: str
    tensor: StoredTensor
    place: layout.Placement


def check(
    bindings: list[Binding], table: Table, tensors: Mapping[str, StoredTensor]
) -> None:
    """ValueError, in one line, unless the file has each tensor of the table, in its
    shape and as floats, and no other but those that the table ignores and copies that
    equal their original."""
    table_.check_names(table, bindings, tensors)
    for binding in bindings:
        tensor = tensors[binding.name]
        table_.check_shape(binding, tensor.shape)
        if tensor.dtype not in FLOATS:
            raise ValueError(
                f"{binding.name}: expected values of {', '.join(FLOATS)}, got "
                f"{tensor.dtype}, which is quantized or packed; dequantize it first"
            )
    for copy, original in {**table.tied, **table.copies}.items():
        if copy in tensors and not _equal(tensors[copy], tensors[original]):
            raise ValueError(
                f"{copy}: expected the values of {original}, to which the "
                "architecture or the configuration ties it, got others"
            )
    for name, compute in table.computed.items():
        if name in tensors and not _rounds(compute(), tensors[name]):
            raise ValueError(
                f"{name}: expected the values that the architecture computes, of "
                f"shape {compute().shape}, got others of shape {tensors[name].shape}"
            )


def _rounds(values: np.ndarray, tensor: StoredTensor) -> bool:
    """Whether a tensor holds values of up to 1, rounded to its dtype."""
    if tensor.dtype not in FLOATS or tensor.shape != values.shape:
        return False
    step = max(float(ml_dtypes.finfo(DTYPES[tensor.dtype]).eps), 1e-6)
    return bool(np.abs(tensor.read().astype(np.float64) - values).max() <= step)


def _equal(a: StoredTensor, b: StoredTensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    mine, theirs = a.read(), b.read()
    return all(
        np.array_equal(x, y, equal_nan=True) for x, y in zip(mine, theirs, strict=True)
    )


def read(
    bindings: list[Binding],
    tensors: Mapping[str, StoredTensor],
    abstract_params: Any,
) -> Any:
    """The parameters in the shapes, dtypes and shardings of `abstract_params`, from
    tensors that `check` has accepted."""
    sources: dict[str, dict[tuple[int, ...], Source]] = {}
    for binding in bindings:
        places = layout.placements(binding.layout, binding.arrays)
        for part, place in zip(binding.parts, places, strict=True):
            source = Source(binding.name, tensors[binding.name], place)
            sources.setdefault(part.path, {})[part.index] = source
    leaves = {
        path: _read_leaf(leaf, sources[path])
        for path, leaf in leaf_paths(abstract_params).items()
    }
    return jax.tree.unflatten(jax.tree.structure(abstract_params), leaves.values())


def _read_leaf(leaf: Any, sources: Mapping[tuple[int, ...], Source]) -> jax.Array:
    lead = len(next(iter(sources)))

    def shard(index: Any) -> np.ndarray:
        ranges = [range(n)[i] for n, i in zip(leaf.shape, index, strict=True)]
        values = np.empty([len(r) for r in ranges], leaf.dtype)
        for place in np.ndindex(values.shape[:lead]):
            at = tuple(ranges[axis][i] for axis, i in enumerate(place))
            name, tensor, where = sources[at]
            part = layout.unpack(tensor.read(), where)[index[lead:]]
            check_finite(name, part)
            values[place] = part
        return values

    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    sharding = leaf.sharding or one
    return jax.make_array_from_callback(leaf.shape, sharding, shard)


def check_finite(name: str, values: np.ndarray) -> None:
    """ValueError for NaN and infinities: what a model computes from them is NaN, of
    which the first token is the most likely."""
    if values.dtype == ml_dtypes.bfloat16:
        # By the bits of the exponent, since NumPy has no fast loop for this dtype.
        is_bad = (values.view(np.uint16) & 0x7F80) == 0x7F80
    else:
        is_bad = ~np.isfinite(values)
    if is_bad.any():
        raise ValueError(
            f"{name}: expected finite numbers, got {int(is_bad.sum()):,} of "
            f"{values.size:,} that are NaN or infinite"
        )


class CastCounts:
    """Of the tensors that were cast: how many there are, and numbers in them, how many
    numbers were rounded, and of these to 0."""

    def __init__(self) -> None:
        self.tensors = self.numbers = self.rounded = self.zeros = 0

    def cast(self, values: np.ndarray, dtype: Any, name: str) -> np.ndarray:
        """The values in `dtype`. ValueError where one would become infinite."""
        self.tensors += 1
        self.numbers += values.size
        if values.dtype == dtype:
            return values
        with np.errstate(over="ignore", under="ignore"):
            made = values.astype(dtype)
        back = made.astype(values.dtype)
        # A NaN is unlike itself, and none of ours.
        is_rounded = (back != values) & (values == values)
        too_large = np.isinf(back) & is_rounded
        if too_large.any():
            largest = ml_dtypes.finfo(dtype).max
            raise ValueError(
                f"{name}: expected numbers of at most {float(largest):.5g} for "
                f"{np.dtype(dtype).name}, got {too_large.sum()} beyond, such as "
                f"{float(values[too_large][0]):.5g}"
            )
        self.rounded += int(is_rounded.sum())
        self.zeros += int((is_rounded & (back == 0)).sum())
        return made

    def describe(self, dtype: str) -> str:
        """The counts in words. dtype: that was asked for."""
        line = f"{self.tensors} tensors, {self.numbers:,} numbers of {dtype}"
        if self.rounded:
            line += f", {self.rounded:,} of them rounded ({self.zeros:,} to 0)"
        return line


def _at(leaf: Any, index: tuple[int, ...]) -> np.ndarray:
    """The part of an array at an index of its first axes."""
    if index:
        leaf = _take(leaf, index) if isinstance(leaf, jax.Array) else leaf[index]
    return np.asarray(leaf)


@jax.jit
def _take(array: jax.Array, index: tuple[int, ...]) -> jax.Array:
    # One program for all layers: an index outside `jit` is a constant of its program.
    return array[index]


def plan(
    bindings: list[Binding],
    params: Any,
    dtypes: Mapping[str, str],
    counts: CastCounts,
) -> list[PlannedTensor]:
    """The tensors of a file with these parameters, in the order of the table. dtypes:
    of each tensor, by name, such as "BF16". counts: grow as they are made."""
    leaves = leaf_paths(params)

    def make(binding: Binding, dtype: Any) -> np.ndarray:
        values = [_at(leaves[part.path], part.index) for part in binding.parts]
        packed = layout.pack(binding.layout, binding.arrays, values)
        return counts.cast(packed, dtype, binding.name)

    planned = []
    for binding in bindings:
        dtype = np.dtype(DTYPES[dtypes[binding.name]])
        size = int(np.prod(binding.shape)) * dtype.itemsize

        def values(binding: Binding = binding, dtype: Any = dtype) -> np.ndarray:
            return make(binding, dtype)

        planned.append(PlannedTensor(binding.name, binding.shape, dtype, size, values))
    return planned
