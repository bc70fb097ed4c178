"""The alphabet of dimensions, the mesh of devices, and the placement of arrays on it.

Every array of rank >= 1 in network, model and loss code ends in its dimensions:
`w_q_DHK` is D x H x K. One table says what a letter means, what Turner (2023, "An
Introduction to Transformers", arXiv 2304.10557) calls it, and the mesh axes over which
the dimension is sharded, for a parameter and for an activation. A parameter's placement
follows from its *name*; optimizer moments have the same names and the same placement.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from transformer.checks import at_least

# From the outermost, whose neighbors are the farthest apart. `slice` is over the slices
# of a TPU, which a data center network connects: only rows are divided over it.
AXES = ("slice", "data", "fsdp", "tensor", "context", "expert")


class Dimension(NamedTuple):
    """One dimension: its word, its symbol in Turner (2023), and its mesh axes in both
    roles."""

    word: str
    turner: str
    parameter: tuple[str, ...] = ()
    activation: tuple[str, ...] = ()


ALPHABET = {
    "B": Dimension("batch (sequences)", "–", (), ("slice", "data", "fsdp", "expert")),
    "L": Dimension("positions in the sequence (queries)", "N", (), ("context",)),
    "M": Dimension("positions attended to (keys, memory)", "N"),
    "D": Dimension("width, features of a token", "D", ("fsdp", "context", "expert")),
    "H": Dimension("query heads", "H", ("tensor",), ("tensor",)),
    "G": Dimension("key/value heads (groups)", "–", ("tensor",), ("tensor",)),
    "R": Dimension("query heads of one group (H = G R)", "–"),
    "K": Dimension("features of a head", "D/H"),
    "U": Dimension("features of a value, apart from K", "–"),
    "F": Dimension("MLP hidden features", "–", ("tensor",), ("tensor",)),
    "J": Dimension("features of a condition (time, class)", "–"),
    "Z": Dimension("features shared by two encoders (CLIP)", "–"),
    "V": Dimension("vocabulary, classes", "–", ("tensor",), ("tensor",)),
    "E": Dimension("experts", "–", ("expert",), ("expert",)),
    "C": Dimension("parts of a dimension (chunk, candidates, slots)", "–"),
    "P": Dimension("features of one raw input (patch, observation)", "–"),
    "T": Dimension("time (frames, steps)", "–"),
    "S": Dimension("positions in space", "–"),
    "I": Dimension("alternatives for one row (ensemble members, beam hypotheses)", "–"),
    "N": Dimension("layers (leading, scanned)", "–"),
    "A": Dimension("kinds of tokens (BERT's token types)", "–"),
    "O": Dimension("output features of a map, beside D", "–"),
    "W": Dimension("taps of a convolution's kernel", "–"),
}

# Modules of a scanned stack (`network/stack.py`).
_SCAN = re.compile(r"layers|sections_\d+")
_SUFFIX = re.compile(rf"(?:^|_)([{''.join(ALPHABET)}]+)$")


_gradient_dtype = ContextVar("gradient_dtype", default="float32")


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


class ImpossibleMeshError(ValueError):
    """The product of the axes, `size`, is not the number of devices."""

    def __init__(self, axes: dict[str, int | None], size: int, devices: int) -> None:
        got = ", ".join(f"{axis}={n}" for axis, n in axes.items() if n not in (None, 1))
        super().__init__(
            f"impossible mesh: expected axes whose product is the number of devices, "
            f"{devices}; got {got or 'no axes'} (product {size})"
        )
        self.size = size


def _natural(text: str) -> tuple[tuple[int, str], ...]:
    """A sort key: layers_2 before layers_10."""
    parts = re.split(r"(\d+)", text)
    return tuple((int(p), "") if p.isdigit() else (-1, p) for p in parts)


def sown_arrays(collection: Any, name: str, *, within: str = "") -> list[jax.Array]:
    """The arrays that layers sowed as `name` in a collection of flax's `apply`, one per
    layer, the first layer first; unrolled and scanned stacks alike.

    within: only arrays of modules called so, such as "cross_attention" where a block
    has two attentions. ValueError when there are none: linear attention, for one, sows
    no attention weights.
    """
    found = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(collection)[0]:
        modules = [str(key.key) for key in path if hasattr(key, "key")]
        if leaf_name(path) == name and (not within or within in modules[:-1]):
            place = [
                _natural(jax.tree_util.keystr((key,), simple=True)) for key in path
            ]
            # Of a scan: one repetition after another, and in each its blocks.
            scans = (i + 1 for i, key in enumerate(modules) if _SCAN.fullmatch(key))
            cut = next(scans, len(place))
            layers = leaf.reshape(-1, *leaf.shape[leaf.ndim - len(dimensions(name)) :])
            for number, layer in enumerate(layers):
                found.append(([*place[:cut], ((number, ""),), *place[cut:]], layer))
    if not found:
        where = f" within {within!r}" if within else ""
        raise ValueError(f"expected layers that sow {name}{where}, got none")
    return [layer for _, layer in sorted(found, key=lambda pair: pair[0])]


def mesh_shape(
    devices: int,
    *,
    slice: int = 1,
    data: int | None = None,
    fsdp: int = 1,
    tensor: int = 1,
    context: int = 1,
    expert: int = 1,
) -> tuple[int, ...]:
    """The sizes of `AXES` over a number of devices.

    data=None: as many as the other axes leave. Raises ImpossibleMeshError when the
    product of the axes is not the number of devices.
    """
    others = {"slice": slice, "fsdp": fsdp, "tensor": tensor}
    others |= {"context": context, "expert": expert}
    for axis, size in {**others, "data": 1 if data is None else data}.items():
        at_least(f"mesh axis {axis}", size, 1)
    rest = math.prod(others.values())
    size = rest * (max(1, devices // rest) if data is None else data)
    if size != devices:
        raise ImpossibleMeshError({"data": data, **others}, size, devices)
    return slice, size // rest, fsdp, tensor, context, expert


def _shape_of_devices(devices: int, sizes: dict[str, Any]) -> tuple[int, ...]:
    """`mesh_shape`, whose error says how more devices can be simulated."""
    try:
        return mesh_shape(devices, **sizes)
    except ImpossibleMeshError as error:
        if error.size < devices:
            raise
        flag = f"--xla_force_host_platform_device_count={error.size}"
        raise ValueError(
            f"{error}; to simulate {error.size} devices on a CPU set XLA_FLAGS={flag}"
        ) from None


def with_slices(slices: int, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """`sizes` with the axis `slice` over several TPU slices. ValueError where it has
    another size."""
    asked = sizes.get("slice", slices)
    if asked != slices:
        raise ValueError(
            f"mesh axis slice: expected the number of TPU slices, {slices}; got {asked}"
        )
    return {**sizes, "slice": slices}


def make_mesh(*, devices: Sequence[Any] | None = None, **sizes: int | None) -> Mesh:
    """A mesh of named axes over `devices` (default: all devices of every process).

    sizes: of the axes, as `mesh_shape` takes them, with its errors; `slice` by default
    the number of TPU slices that the devices are on, and ValueError for another.
    """
    devices = jax.devices() if devices is None else devices
    slices = {_slice_of(device) for device in devices}
    if len(slices) > 1:
        sizes = with_slices(len(slices), sizes)
    shape = _shape_of_devices(len(devices), sizes)
    grid = np.asarray(sorted(devices, key=_place)).reshape(shape)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def current_mesh() -> Mesh:
    """The mesh of `jax.set_mesh`; that of all devices of this process where none is."""
    mesh = jax.sharding.get_mesh()
    return make_mesh(devices=jax.local_devices()) if mesh.empty else mesh


def spans_processes() -> bool:
    """Whether the mesh of `jax.set_mesh` has devices of other processes: only then may
    a function await them."""
    mesh, own = jax.sharding.get_mesh(), jax.process_index()
    if mesh.empty or jax.process_count() == 1:
        return False
    return any(device.process_index != own for device in mesh.devices.flat)


def _place(device: Any) -> tuple[int, int, int]:
    """The order of devices: those of a slice, and of a host there, follow each other.

    A step is planned in this order (`planning/compilation.py`), so it is not left to
    `jax.make_mesh`, which orders TPUs otherwise, and refuses tensor:4 on v6e:16x16.
    """
    return _slice_of(device), device.process_index, device.id


def _slice_of(device: Any) -> int:
    """The TPU slice of a device; 0 of others, whose interconnect is told otherwise."""
    is_tpu = device.platform == "tpu"
    return (getattr(device, "slice_index", 0) or 0) if is_tpu else 0


def _partition(
    shape: tuple[int, ...], letters: str, role: str, sizes: dict[str, int]
) -> PartitionSpec:
    """The mesh axes of each dimension: the first of its own that divide it evenly."""
    claimed = [getattr(ALPHABET[letter], role) for letter in letters]
    entries: list[Any] = [None] * (len(shape) - len(letters))
    named = shape[len(shape) - len(letters) :]
    for i, (size, axes) in enumerate(zip(named, claimed, strict=True)):
        # E has the expert axis in an array with both B and E.
        others = {a for j, c in enumerate(claimed) if j != i and len(c) == 1 for a in c}
        axes = tuple(a for a in axes if a not in others or len(axes) == 1)
        axes = tuple(a for a in axes if sizes.get(a, 1) > 1)
        while axes and size % math.prod(sizes[a] for a in axes):
            axes = axes[:-1]
        entries.append(axes or None)
    return PartitionSpec(*entries)


def parameter_axes(
    path: Sequence[Any], shape: tuple[int, ...]
) -> list[tuple[str, ...]]:
    """Of the mesh of `jax.set_mesh`, the axes that divide each dimension of the
    parameter on a pytree path; none where no mesh is set."""
    letters = dimensions(leaf_name(path))
    letters = letters if len(letters) <= len(shape) else ""
    return dimension_axes(shape, letters, "parameter")


def dimension_axes(
    shape: tuple[int, ...], letters: str, role: str
) -> list[tuple[str, ...]]:
    """Of the mesh of `jax.set_mesh`, the axes that divide each dimension of an array;
    none where no mesh is set. role: parameter or activation."""
    sizes = dict(jax.sharding.get_abstract_mesh().shape)
    entries = _partition(shape, letters, role, sizes)
    return [(e,) if isinstance(e, str) else tuple(e or ()) for e in entries]


def shardings(mesh: Mesh, tree: Any, *, role: str = "parameter") -> Any:
    """A NamedSharding for every leaf of `tree`, from the leaf's own name.

    For parameters, optimizer states, batches and caches, concrete or abstract. Leading
    dimensions before the suffix (scanned layers) and leaves without a suffix are
    replicated; so is a dimension that its axes do not divide evenly.
    """
    sizes = dict(mesh.shape)

    def place(path: Sequence[Any], leaf: Any) -> NamedSharding:
        letters = dimensions(leaf_name(path))
        shape = tuple(leaf.shape)
        letters = letters if len(letters) <= len(shape) else ""
        return NamedSharding(mesh, _partition(shape, letters, role, sizes))

    return jax.tree_util.tree_map_with_path(place, tree)


def batch_shardings(mesh: Mesh, batch: Any) -> Any:
    """`shardings` of activations: rows over data, positions over context.

    Raises ValueError when the rows cannot be divided evenly: a batch silently
    replicated on every device would make a slow run that looks like a fast one.
    """
    shards = batch_shards(mesh)

    def check(path: Sequence[Any], leaf: Any) -> None:
        if dimensions(leaf_name(path)).startswith("B") and leaf.shape[0] % shards:
            raise ValueError(
                f"{leaf_name(path)}: expected a number of rows divisible by {shards} "
                f"(mesh data x fsdp x expert), got {leaf.shape[0]}"
            )

    jax.tree_util.tree_map_with_path(check, batch)
    return shardings(mesh, batch, role="activation")


def batch_shards(mesh: Mesh) -> int:
    """The number of parts into which the mesh divides the rows of a batch."""
    return math.prod(mesh.shape[axis] for axis in ALPHABET["B"].activation)


@contextmanager
def add_gradients_in(dtype: str) -> Iterator[None]:
    """Within it, what is traced adds the gradients of weights over devices in `dtype`,
    where their products are of it (`gradient_dtype`)."""
    token = _gradient_dtype.set(dtype)
    try:
        yield
    finally:
        _gradient_dtype.reset(token)


def gradient_dtype() -> str:
    """Of the trace in progress, as `add_gradients_in` says: the dtype of the product,
    on one device, that is a part of a weight's gradient."""
    return _gradient_dtype.get()


def is_one_device() -> bool:
    """Whether no mesh is set by `jax.set_mesh`, or one of a single device."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.empty or mesh.size == 1


def constrain(x: jax.Array, letters: str) -> jax.Array:
    """`x` with the sharding constraint of its letters on the mesh of `jax.set_mesh`.

    The identity where no mesh is set, as in a notebook on one device.
    """
    if is_one_device():
        return x
    return jax.lax.with_sharding_constraint(x, activation_spec(x.shape, letters))


def activation_spec(shape: tuple[int, ...], letters: str) -> PartitionSpec:
    """The mesh axes of an activation's dimensions on the mesh of `jax.set_mesh`."""
    sizes = dict(jax.sharding.get_abstract_mesh().shape)
    return _partition(shape, letters, "activation", sizes)


def platform() -> str:
    """Of the mesh of `jax.set_mesh`, which may be of chips that are not here; where
    none is set, of JAX's default device: cpu, gpu or tpu."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return getattr(device, "platform", None) or jax.default_backend()


def replicate(x: jax.Array) -> jax.Array:
    """`x` replicated on every device of the mesh; the identity where none is set.

    For an embedding table before its lookup: a gather from a sharded table makes the
    partitioner rematerialize the whole activation instead.
    """
    if is_one_device():
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())
