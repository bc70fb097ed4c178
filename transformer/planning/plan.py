"""A plan: what a run of an experiment needs on a topology and a mesh, as numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh

from transformer import axes
from transformer.planning import compilation, roofline, theory
from transformer.planning.chips import Topology
from transformer.planning.costs import Costs
from transformer.training import batching, remat
from transformer.training.experiment import Experiment
from transformer.training.update import abstract_state

# State and parameters of a chip may exceed an even share by this, for small arrays
# that no axis divides.
IDEAL_SHARE = 1.05


class Memory(NamedTuple):
    """Bytes on one chip: parameters, the rest of the state, and what a step holds
    beside them (gradients, activations)."""

    parameters: float
    optimizer: float
    temporaries: float

    @property
    def peak(self) -> float:
        return sum(self)


class Plan(NamedTuple):
    """mesh: axis -> size. method: how it was found. model_flops: of one step on one
    chip, by the model alone. steps, tokens, row_bytes: of the run, of a step, of a row
    of a batch. shares: parameters and state of a chip over an even share."""

    topology: Topology
    mesh: Mapping[str, int]
    method: str
    parameters: int
    memory: Memory
    model_flops: float
    costs: Costs
    roofline: roofline.Roofline
    steps: int
    tokens: int
    batch_bytes: float
    checkpoint_bytes: float
    share: float

    @property
    def fits(self) -> bool:
        return self.memory.peak <= self.topology.chip.memory

    def utilization(self, seconds: float) -> float:
        """Model FLOPs over what the chip could do in a step of `seconds`."""
        return self.model_flops / self.topology.chip.flops / seconds

    @property
    def hours(self) -> tuple[float, float]:
        """Of the run, if all overlaps and as scheduled."""
        line = self.roofline
        return line.best * self.steps / 3600, line.serial * self.steps / 3600

    @property
    def host_bytes(self) -> float:
        """On one host, of a checkpoint while it is written, and of two batches."""
        return (self.checkpoint_bytes + 2 * self.batch_bytes) / self.topology.hosts


class Refusal(NamedTuple):
    """Instead of a plan: the compiler's message where the step needs more memory than a
    chip has."""

    topology: Topology
    mesh: Mapping[str, int]
    message: str

    @property
    def fits(self) -> bool:
        return False


def abstract_mesh(topology: Topology, sizes: Mapping[str, int]) -> AbstractMesh:
    """A mesh without devices. ValueError unless its axes fill the topology."""
    if topology.slices > 1:
        sizes = axes.with_slices(topology.slices, sizes)
    shape = axes.mesh_shape(topology.size, **sizes)
    return AbstractMesh(shape, axes.AXES, axis_types=(AxisType.Auto,) * len(axes.AXES))


def refusal(topology: Topology, sizes: Mapping[str, int], message: str) -> Refusal:
    """For a mesh of these sizes."""
    shape = dict(abstract_mesh(topology, sizes).shape)
    return Refusal(topology, _large_axes(shape), message)


def _large_axes(shape: Mapping[str, int]) -> dict[str, int]:
    return {axis: n for axis, n in shape.items() if n > 1}


def abstract_batch(experiment: Experiment, mesh: Any) -> Any:
    """Shapes and shardings of a step's batch."""
    rows = {
        name: jax.ShapeDtypeStruct(
            (experiment.batch_size, *np.shape(a)[1:]), np.asarray(a).dtype
        )
        for name, a in experiment.batch(0, [0]).items()
    }
    shardings = axes.batch_shardings(mesh, rows)
    return jax.tree.map(
        lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
        rows,
        shardings,
    )


def make(
    experiment: Experiment,
    topology: Topology,
    sizes: Mapping[str, int],
    *,
    compile_it: bool,
    work: theory.Work | None = None,
) -> Plan:
    """The plan of `experiment` on a mesh of these sizes.

    compile_it: compile the step for the topology with libtpu; else count. work:
    `theory.work_of(experiment)`, where it is known already. ValueError for axes that do
    not fill the topology and for a batch that does not divide.
    """
    work = work or theory.work_of(experiment)
    mesh: Any = abstract_mesh(topology, sizes)
    batching.check(experiment.batch_size, experiment.accumulate, mesh)
    if compile_it:
        mesh = compilation.topology_mesh(topology, sizes)
    state, batch = abstract_state(experiment, mesh), abstract_batch(experiment, mesh)
    parameters = theory.state_bytes(state.params)
    rest = theory.state_bytes(state) - parameters
    if compile_it:
        found = compilation.compile_step(experiment, state, batch, mesh, topology)
        costs, temporaries, method = found.costs, found.temporaries, found.method
    else:
        costs = theory.costs(work, experiment, state, mesh)
        kept = theory.activation_share(work, mesh)
        gradients = parameters * theory.gradient_bytes(experiment) / 4
        temporaries, method = kept + gradients, theory.method(mesh)
    whole = sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(state))
    count = sum(math.prod(a.shape) for a in jax.tree.leaves(state.params))
    rows = experiment.batch_size
    return Plan(
        topology,
        _large_axes(dict(mesh.shape)),
        method,
        count,
        Memory(parameters, rest, temporaries),
        work.model_flops / topology.size,
        costs,
        roofline.of_costs(costs, topology),
        experiment.steps,
        rows * experiment.tokens_per_row,
        sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(batch)),
        whole,
        _share(theory.state_bytes(state), whole, mesh),
    )


def fit(
    experiment: Experiment,
    topology: Topology,
    sizes: Mapping[str, int],
    works: theory.Works,
) -> Experiment:
    """`experiment` in the first of its `remat.divisions` that fits as counted: as few
    microbatches, where it may be divided (`accumulate_to_fit`), and then as little
    computed again, where the memory chooses the policy. Where none fits, as it is, with
    the policy that recomputes most. ValueError for a batch that does not divide over
    the mesh."""
    mesh: Any = abstract_mesh(topology, sizes)
    for made in remat.divisions(experiment, axes.batch_shards(mesh)):
        work = works(made)
        if make(made, topology, sizes, compile_it=False, work=work).fits:
            return made
    names = remat.policies(experiment)
    return remat.choose(experiment, names[-1]) if names else experiment


def candidates(
    experiment: Experiment, topology: Topology, works: theory.Works
) -> list[Plan]:
    """Counted plans on the sensible meshes, the best first: tensor up to eight chips of
    a host, the rest fsdp, or fsdp within data; each `fit`. Those that fit come first,
    then those of the shorter step as scheduled, then those of fewer axes. ValueError
    where the batch divides over none."""
    found, refusal = [], ValueError(f"--mesh: expected chips, got {topology}")
    for tensor in (1, 2, 4, 8):
        rest, remainder = divmod(topology.slice_size, tensor)
        for data in (1, 2, 4, 8, 16, 32, 64) if not remainder else ():
            if rest % data or (rest > 1 and rest // data == 1):
                continue
            sizes = {"data": data, "fsdp": rest // data, "tensor": tensor}
            try:
                made = fit(experiment, topology, sizes, works)
                how: Any = {"compile_it": False, "work": works(made)}
                found.append(make(made, topology, sizes, **how))
            except ValueError as error:
                refusal = error
    if not found:
        raise refusal from None
    return sorted(
        found, key=lambda plan: (not plan.fits, plan.roofline.serial, len(plan.mesh))
    )


def _share(own: float, whole: float, mesh: Mesh | AbstractMesh) -> float:
    """A chip's bytes of the state over its part of a state divided over all axes but
    `slice` and `data`, whose copies are by decision."""
    sizes = dict(mesh.shape)
    parts = mesh.size // sizes["slice"] // sizes["data"]
    return own * parts / whole
