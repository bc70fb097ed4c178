"""The alphabet of dimensions, the mesh of devices, and where each array lies on it.

Every array of rank >= 1 in network, model and loss code ends in its dimensions:
`w_q_DHK` is D x H x K. One table says what a letter means, what Turner (2023, "An
Introduction to Transformers", arXiv 2304.10557) calls it, and over which mesh axes that
dimension is divided, for a parameter and for an activation. A parameter's placement
follows from its *name*; optimizer moments bear the same names, so they follow too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor", "context", "expert")


class Letter(NamedTuple):
    """One dimension: its word, Turner's symbol, its mesh axes in both roles."""

    word: str
    turner: str
    parameter: tuple[str, ...] = ()
    activation: tuple[str, ...] = ()


ALPHABET = {
    "B": Letter("batch (sequences)", "–", (), ("data", "fsdp", "expert")),
    "L": Letter("positions in the sequence (queries)", "N", (), ("context",)),
    "M": Letter("positions attended to (keys, memory)", "N"),
    "D": Letter("width, features of a token", "D", ("fsdp",)),
    "H": Letter("query heads", "H", ("tensor",), ("tensor",)),
    "G": Letter("key/value heads (groups)", "–", ("tensor",), ("tensor",)),
    "R": Letter("query heads of one group (H = G R)", "–"),
    "K": Letter("features of a head", "D/H"),
    "F": Letter("MLP hidden features", "–", ("tensor",), ("tensor",)),
    "J": Letter("features of a condition (time, class)", "–"),
    "V": Letter("vocabulary", "–", ("tensor",), ("tensor",)),
    "E": Letter("experts", "–", ("expert",), ("expert",)),
    "C": Letter("rows of one chunk, slots of one expert", "–"),
    "P": Letter("features of one raw patch", "–"),
    "T": Letter("time (frames)", "–"),
    "S": Letter("positions in space", "–"),
    "I": Letter("members of an ensemble", "–"),
    "N": Letter("layers (leading, scanned)", "–"),
}

_SUFFIX = re.compile(rf"(?:^|_)([{''.join(ALPHABET)}]+)$")


def dimensions(name: str) -> str:
    """The dimension letters that `name` ends in: "DHK" of "w_q_DHK", "" of "step"."""
    match = _SUFFIX.search(name)
    return match.group(1) if match else ""


def leaf_name(path: Sequence[Any]) -> str:
    """The innermost name on a pytree path: dictionary key or field; "" if none."""
    for key in reversed(path):
        name = getattr(key, "key", getattr(key, "name", None))
        if isinstance(name, str):
            return name
    return ""


def mesh(
    *,
    data: int | None = None,
    fsdp: int = 1,
    tensor: int = 1,
    context: int = 1,
    expert: int = 1,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """A mesh of named axes over `devices` (default: all, of every process).

    `data=None` takes the devices that the other axes leave. Raises ValueError when the
    axes' product is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    others = {"fsdp": fsdp, "tensor": tensor, "context": context, "expert": expert}
    for axis, size in {**others, "data": 1 if data is None else data}.items():
        if size < 1:
            raise ValueError(f"mesh axis {axis}: expected at least 1, got {size}")
    rest = math.prod(others.values())
    data = len(devices) // rest if data is None else data
    if data * rest != len(devices):
        asked = ", ".join(f"{k}={v}" for k, v in {"data": data, **others}.items())
        raise ValueError(
            f"impossible mesh: expected axes whose product is the number of devices, "
            f"{len(devices)}; got {asked} (product {data * rest})"
        )
    shape = (data, fsdp, tensor, context, expert)
    if list(devices) == jax.devices():
        # Knows the machine's interconnect, where a plain reshape would not.
        return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    grid = np.asarray(devices).reshape(shape)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _partition(
    shape: tuple[int, ...], letters: str, role: str, sizes: dict[str, int]
) -> PartitionSpec:
    """Axes of each dimension; one that its axes do not divide is not divided."""
    claimed = [getattr(ALPHABET[letter], role) for letter in letters]
    entries: list[Any] = [None] * (len(shape) - len(letters))
    named = shape[len(shape) - len(letters) :]
    for i, (size, axes) in enumerate(zip(named, claimed, strict=True)):
        # B leaves the expert axis to E where both stand in one array.
        others = {a for j, c in enumerate(claimed) if j != i and len(c) == 1 for a in c}
        axes = tuple(a for a in axes if a not in others or len(axes) == 1)
        axes = tuple(a for a in axes if sizes.get(a, 1) > 1)
        divides = size % math.prod(sizes[a] for a in axes) == 0
        entries.append(axes if axes and divides else None)
    return PartitionSpec(*entries)


def placement(mesh: Mesh, tree: Any, *, role: str = "parameter") -> Any:
    """A NamedSharding for every leaf of `tree`, from the leaf's own name.

    Works for parameters, optimizer states, batches and caches, concrete or abstract.
    Leading dimensions beyond the suffix (scanned layers) and leaves without a suffix
    are replicated; so is a dimension that its axes do not divide evenly.
    """
    sizes = dict(mesh.shape)

    def place(path: Sequence[Any], leaf: Any) -> NamedSharding:
        letters = dimensions(leaf_name(path))
        shape = tuple(leaf.shape)
        letters = letters if len(letters) <= len(shape) else ""
        return NamedSharding(mesh, _partition(shape, letters, role, sizes))

    return jax.tree_util.tree_map_with_path(place, tree)


def batch_placement(mesh: Mesh, batch: Any) -> Any:
    """`placement` by the rule of activations: rows over data, positions over context.

    Raises ValueError when the rows cannot be divided evenly: a batch that silently lay
    whole on every device would be a slow run that looks like a fast one.
    """
    shards = batch_shards(mesh)

    def check(path: Sequence[Any], leaf: Any) -> None:
        if dimensions(leaf_name(path)).startswith("B") and leaf.shape[0] % shards:
            raise ValueError(
                f"{leaf_name(path)}: expected a number of rows divisible by {shards} "
                f"(mesh data x fsdp x expert), got {leaf.shape[0]}"
            )

    jax.tree_util.tree_map_with_path(check, batch)
    return placement(mesh, batch, role="activation")


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts the mesh divides the rows of a batch."""
    return math.prod(mesh.shape[axis] for axis in ALPHABET["B"].activation)


def constrain(x: jax.Array, letters: str) -> jax.Array:
    """`x` held to its letters' activation axes on the mesh of `jax.set_mesh`.

    The identity where no mesh is set, as in a notebook on one device.
    """
    abstract = jax.sharding.get_abstract_mesh()
    if abstract.empty or abstract.size == 1:
        return x
    spec = _partition(x.shape, letters, "activation", dict(abstract.shape))
    return jax.lax.with_sharding_constraint(x, spec)


def whole(x: jax.Array) -> jax.Array:
    """`x` gathered onto every device of the mesh; the identity where none is set.

    For an embedding table before its lookup: a gather from a divided table makes the
    partitioner rematerialise the whole activation instead.
    """
    abstract = jax.sharding.get_abstract_mesh()
    if abstract.empty or abstract.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())
