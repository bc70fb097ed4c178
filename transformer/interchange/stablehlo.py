"""A forward pass as StableHLO, for programs without this library: one file for CPU,
CUDA and TPU, with any number of rows and, up to the model's length, of tokens.

The file holds the function (tensors, ids) -> logits, where `tensors` are those of the
exported safetensors by their own names:

    import jax, numpy as np, safetensors.numpy
    forward = jax.export.deserialize(open("forward.stablehlo", "rb").read())
    tensors = safetensors.numpy.load_file("model.safetensors")
    logits = forward.call(tensors, np.array([[1, 2, 3]], np.int32))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from transformer import storage
from transformer.interchange import layout, table
from transformer.interchange.folder import PretrainedFolder
from transformer.models import decoder
from transformer.network import masks

FILE = "forward.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")
# A difference of the two programs, over the logits' spread, that is rounding.
TOLERANCE = 1e-4


def params_of(bindings: list[table.Binding], tensors: Mapping[str, Any]) -> Any:
    """The parameters of tensors by name, as operations of JAX: the tree of a table
    whose parameters are not cut along leading axes."""
    params: dict[str, Any] = {}
    for binding in bindings:
        places = layout.placements(binding.layout, binding.arrays)
        for part, place in zip(binding.parts, places, strict=True):
            *modules, name = part.path.split("/")
            inner = params
            for module in modules:
                inner = inner.setdefault(module, {})
            inner[name] = layout.unpack(tensors[binding.name], place)
    return params


def lower(opened: PretrainedFolder) -> jax.export.Exported:
    """The forward pass of a decoder in an unrolled stack. ValueError for a scanned
    one."""
    if any(part.index for binding in opened.bindings for part in binding.parts):
        raise ValueError("stablehlo: expected an unrolled stack, got a scanned one")

    def forward(tensors: Mapping[str, jax.Array], ids_BL: jax.Array) -> jax.Array:
        params = params_of(opened.bindings, tensors)
        tokens = masks.single_document(ids_BL.shape[1])
        return decoder.logits(opened.net.apply({"params": params}, ids_BL, tokens))

    limit = [f"L <= {opened.sizes.length}"]
    rows, length = jax.export.symbolic_shape("B, L", constraints=limit)
    tensors = {
        binding.name: jax.ShapeDtypeStruct(binding.shape, jnp.float32)
        for binding in opened.bindings
    }
    ids_BL = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    return jax.export.export(jax.jit(forward), platforms=PLATFORMS)(tensors, ids_BL)


def write(opened: PretrainedFolder) -> float:
    """Write `FILE` into an exported folder of float32, call it, and return its largest
    difference from the net, over the spread. RuntimeError where that is no rounding."""
    try:
        data = lower(opened).serialize()
    except ImportError:
        raise ValueError(
            "stablehlo: expected the package flatbuffers, got none; pip install "
            "flatbuffers"
        ) from None
    tensors = {name: tensor.read() for name, tensor in opened.tensors.items()}
    ids_BL = np.arange(14, dtype=np.int32).reshape(2, 7) % opened.sizes.vocab_size
    got = jax.export.deserialize(bytearray(data)).call(tensors, ids_BL)
    readout = opened.net.apply(
        {"params": opened.read_params()}, ids_BL, masks.single_document(7)
    )
    expected = decoder.logits(readout)
    difference = float(jnp.abs(got - expected).max() / jnp.std(expected))
    if not difference < TOLERANCE:
        raise RuntimeError(
            f"stablehlo: expected the logits of the net, got a difference of "
            f"{difference:.1e} of their spread"
        )
    storage.commit(opened.folder / FILE, bytes(data))
    return difference
