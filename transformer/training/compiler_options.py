"""Options of the compiler for the training step on TPUs, where its defaults do not give
the collectives that fully sharded training needs (`docs/plan.md`)."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

TPU = {
    # Weights are gathered, not added up from each chip's part and zeros, which moves
    # twice as many bytes while nothing else runs.
    "xla_tpu_prefer_async_allgather_to_allreduce": "true",
    # They are gathered during products, which of a v5e need not be said, but of v6e and
    # v5p.
    "xla_enable_async_all_gather": "true",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
    "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
    "xla_tpu_overlap_compute_collective_tc": "true",
    # Gradients are added up while the layers before are differentiated, those of each
    # matrix by itself; only small ones are joined.
    "xla_enable_async_all_reduce": "true",
    "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": "true",
    "xla_jf_crs_combiner_threshold_in_bytes": str(2**20),
    # Layouts in which a sum can be scattered where it is made.
    "xla_tpu_assign_all_reduce_scatter_layout": "true",
    "xla_tpu_use_minor_sharding_for_major_trivial_input": "true",
    "xla_tpu_relayout_group_size_threshold_for_reduce_scatter": "1",
}


def for_mesh(mesh: Mesh) -> dict[str, str]:
    """The options for a program on this mesh; those that its compiler does not know
    are left out, which a line tells."""
    device = mesh.devices.flat[0]
    return dict(_options_of(device)) if device.platform == "tpu" else {}


@cache
def _options_of(device: Any) -> tuple[tuple[str, str], ...]:
    supported = {name: value for name, value in TPU.items() if _compiles(device, name)}
    if missing := [name for name in TPU if name not in supported]:
        print(f"compiler: does not know {', '.join(missing)}; compiling without")
    return tuple(supported.items())


def _compiles(device: Any, name: str) -> bool:
    mesh = Mesh([device], "x")
    place = NamedSharding(mesh, PartitionSpec())
    argument = jax.ShapeDtypeStruct((), jnp.float32, sharding=place)
    with jax.set_mesh(mesh):
        lowered = jax.jit(jnp.sin).lower(argument)
    try:
        lowered.compile(compiler_options={name: TPU[name]})
    except jax.errors.JaxRuntimeError as error:
        if "compile option" not in str(error):
            raise
        return False
    return True
