"""The training step compiled ahead of time for TPUs that are not here.

libtpu compiles without a TPU; only the process of the verb `plan` loads it, one at a
time, because two refuse each other. Compiling takes minutes, so what it found
is kept in the cache folder, by the program and the versions of the compiler; that it
refused a program for its memory too.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from transformer import axes, storage
from transformer.planning import costs as costs_
from transformer.planning import hlo
from transformer.planning.chips import Topology
from transformer.training import compiler_options, flops
from transformer.training.experiment import Experiment
from transformer.training.loop import jit_update
from transformer.training.update import State

# Makes libtpu compile for chips that are not here, and ask no metadata server.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    # `exclusive` sees to it; libtpu's own lock stays where a process was killed.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Compilation(NamedTuple):
    """costs: of the program. temporaries: bytes on a chip beside its arguments.
    method: the compiler and the time it took."""

    costs: costs_.Costs
    temporaries: float
    method: str


class DoesNotFitError(Exception):
    """The step needs more memory than a chip has, as the compiler's message says."""


def is_possible() -> bool:
    """Whether libtpu is installed. Does not load it."""
    return importlib.util.find_spec("libtpu") is not None


def exclusive() -> AbstractContextManager[None]:
    """Within it, no other process has libtpu; waits for one that has."""
    return storage.claim(_folder() / "libtpu")


def _folder() -> Path:
    return storage.cache_home() / "plans"


def topology_mesh(topology: Topology, sizes: Mapping[str, int]) -> Mesh:
    """The mesh over a topology's devices, as of a run there. ValueError for a topology
    that libtpu does not have."""
    from jax.experimental import topologies

    one = str(topology._replace(slices=1))
    slices: Any = {"num_slices": topology.slices} if topology.slices > 1 else {}
    try:
        described = topologies.get_topology_desc(one, "tpu", **slices)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            "--topology: expected one for which libtpu compiles, or --method=count, "
            f"got {topology}: {str(error).partition(chr(10))[0]}"
        ) from None
    return axes.make_mesh(devices=described.devices, **sizes)


def compile_step(
    experiment: Experiment, state: State, batch: Any, mesh: Mesh, topology: Topology
) -> Compilation:
    """The step's costs as compiled, from the cache where the same program was.
    DoesNotFitError where the compiler finds too little memory."""
    with jax.set_mesh(mesh):
        traced = jit_update(experiment, mesh).trace(state, batch)
        lowered = traced.lower()
    versions = f"jax {jax.__version__}, libtpu {importlib.metadata.version('libtpu')}"
    options = str(compiler_options.for_mesh(mesh))
    program = lowered.as_text(), str(topology), str(mesh.shape), options, versions
    content = "\n".join(program)
    name = hashlib.sha256(content.encode()).hexdigest()[:32]
    path = _folder() / f"{name}.json.gz"
    if not path.exists():
        print(
            f"compiling for {topology}, {_form(mesh)}: 1 to 15 minutes; kept for next "
            "time",
            flush=True,
        )
        compiled = _compile_or_refuse(lowered, mesh)
        storage.commit(path, gzip.compress(json.dumps(compiled).encode()))
    kept = json.loads(gzip.decompress(path.read_bytes()))
    if "refusal" in kept:
        raise DoesNotFitError(kept["refusal"])
    costs = costs_.of_program(hlo.parse(kept["text"]))
    kernels = flops.matmul_flops(traced.jaxpr.jaxpr, kernels_alone=True)
    return Compilation(
        costs._replace(flops=costs.flops + kernels),
        kept["temporaries"],
        f"compiled by {versions} in {kept['seconds']:.0f} s",
    )


def _compile_or_refuse(lowered: Any, mesh: Mesh) -> dict[str, Any]:
    """What is kept of a program, or of a refusal for its memory: its first line."""
    try:
        return _compile(lowered, mesh)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"refusal": str(error).partition("\n")[0]}


def _compile(lowered: Any, mesh: Mesh) -> dict[str, Any]:
    """The text of the program, rather than its costs, so that another version of this
    package can read it."""
    start = time.perf_counter()
    with jax.set_mesh(mesh):
        program = lowered.compile()
    sizes: Any = program.memory_analysis()
    beside = sizes.temp_size_in_bytes + sizes.output_size_in_bytes
    return {
        "text": hlo.without_metadata(program.as_text()),
        "temporaries": beside - sizes.alias_size_in_bytes,
        "seconds": time.perf_counter() - start,
    }


def _form(mesh: Mesh) -> str:
    sizes = (f"{axis}:{n}" for axis, n in mesh.shape.items() if n > 1)
    return ",".join(sizes) or "one chip"
