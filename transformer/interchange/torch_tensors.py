"""Parameters as a state dict of PyTorch and back, without files; on a CPU without a
copy where a tensor holds one parameter.

PyTorch is imported where it is asked for: this package does not need it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from transformer.interchange import layout, table
from transformer.interchange.architecture import Architecture
from transformer.training.checksum import leaf_paths


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError:
        message = "expected the package torch, got none; pip install torch"
        raise ValueError(message) from None


def _to_numpy(torch: Any, tensor: Any) -> np.ndarray:
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        # NumPy has no bfloat16 of its own.
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def to_torch(architecture: Architecture, sizes: Any, params: Any) -> dict[str, Any]:
    """The state dict of transformers' class: names and layouts as in its files. Tensors
    share the memory of float32 parameters on a CPU: to train them, clone them."""
    torch = _torch()
    leaves = {
        path: torch.from_dlpack(leaf).numpy()
        for path, leaf in leaf_paths(params).items()
    }
    state = {}
    for binding in table.bind(architecture.table(sizes), params):
        values = [leaves[part.path][part.index] for part in binding.parts]
        packed = layout.pack(binding.layout, binding.arrays, values)
        state[binding.name] = torch.from_numpy(packed)
    return state


def from_torch(architecture: Architecture, sizes: Any, state: Mapping[str, Any]) -> Any:
    """The float32 parameters of a state dict. ValueError for a tensor that is missing,
    left over, or of another shape; copies of tied tensors are not compared."""
    torch, rules = _torch(), architecture.table(sizes)
    net = architecture.net(sizes)
    shapes = jax.eval_shape(lambda: architecture.init(net, jax.random.key(0)))
    values: dict[str, np.ndarray] = {
        path: np.empty(leaf.shape, np.float32)
        for path, leaf in leaf_paths(shapes).items()
    }
    bindings = table.bind(rules, shapes)
    table.check_names(rules, bindings, state)
    for binding in bindings:
        tensor = _to_numpy(torch, state[binding.name])
        table.check_shape(binding, tensor.shape)
        places = layout.placements(binding.layout, binding.arrays)
        for part, place in zip(binding.parts, places, strict=True):
            values[part.path][part.index] = layout.unpack(tensor, place)
    leaves = [jnp.asarray(value) for value in values.values()]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)
