"""Seconds of a step from its costs on a chip (Williams et al. 2009, "Roofline",
doi 10.1145/1498765.1498785)."""

from __future__ import annotations

from typing import NamedTuple

from transformer.planning.chips import Topology
from transformer.planning.costs import Costs


class Roofline(NamedTuple):
    """Seconds that each resource needs for one step, if nothing else is slower.

    async_collectives: those that overlap with computation; the others wait.
    """

    compute: float
    memory: float
    async_collectives: float
    sync_collectives: float

    @property
    def best(self) -> float:
        """Seconds of a step if all overlaps."""
        collectives = self.async_collectives + self.sync_collectives
        return max(self.compute, self.memory, collectives)

    @property
    def serial(self) -> float:
        """Seconds of a step whose synchronous collectives wait."""
        busy = max(self.compute, self.memory, self.async_collectives)
        return busy + self.sync_collectives

    @property
    def bound(self) -> str:
        """The resource that decides."""
        seconds = {
            "compute": self.compute,
            "memory": self.memory,
            "interconnect": self.async_collectives + self.sync_collectives,
        }
        return max(seconds, key=seconds.__getitem__)


def of_costs(costs: Costs, topology: Topology) -> Roofline:
    """Of products in bfloat16. No resource is as fast as its data sheet says, so these
    are bounds, not predictions. Rings send to neighbors; what an all-to-all sends to
    others, the chips between them send on."""
    chip = topology.chip
    seconds = {True: 0.0, False: 0.0}
    for one in costs.collectives:
        sent = one.traffic
        if one.kind in ("all-to-all", "ragged-all-to-all"):
            sent *= topology.hops(one.group, one.span)
        seconds[one.overlaps] += sent / topology.send_rate(one.group, one.span)
    return Roofline(
        costs.flops / chip.flops,
        costs.traffic / chip.bandwidth,
        seconds[True],
        seconds[False],
    )
