"""A plan in lines, several in a table, and in JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from transformer.planning.chips import GIB
from transformer.planning.plan import IDEAL_SHARE, Plan, Refusal


def lines(plan: Plan) -> str:
    """All of a plan, a line a number."""
    chip, memory = plan.topology.chip, plan.memory
    line, hours = plan.roofline, plan.hours
    rate = plan.tokens / line.best, plan.tokens / line.serial
    chips = plan.topology.size
    found = [
        ("plan", f"{plan.topology}, mesh {_mesh(plan)}, {plan.method}"),
        ("parameters", f"{plan.parameters:,}"),
        ("verdict", verdict(plan)),
        ("memory a chip", f"{_gib(memory.peak)} of {_gib(chip.memory)}: parameters "
         f"{_gib(memory.parameters)}, rest of the state {_gib(memory.optimizer)}, "
         f"gradients and activations {_gib(memory.temporaries)}"),
        ("state a chip", f"{plan.share:.2f} of an even share"),
        ("FLOPs a step and chip", f"model {plan.model_flops:.3g}, program "
         f"{plan.costs.flops:.3g}{_ratio(plan)}"),
        ("memory traffic", f"{plan.costs.traffic / 1e9:.1f} GB a step and chip"),
        *_collectives(plan),
        ("seconds", f"compute {line.compute:.4g}, memory {line.memory:.4g}, "
         f"collectives: {line.async_collectives:.4g} that overlap, "
         f"{line.sync_collectives:.4g} that wait"),
        ("step", f"{line.best:.4g} s if all overlaps, {line.serial:.4g} s as "
         f"scheduled; bound by {line.bound}"),
        ("utilization", f"{plan.utilization(line.best):.2f} / "
         f"{plan.utilization(line.serial):.2f} of {chip.flops / 1e12:.0f} TFLOP/s"),
        ("tokens a second", f"{rate[0]:,.0f} / {rate[1]:,.0f}"),
        ("run", f"{plan.steps:,} steps of {plan.tokens:,} tokens: {hours[0]:.2g} / "
         f"{hours[1]:.2g} hours, {hours[0] * chips:.3g} / {hours[1] * chips:.3g} "
         "chip-hours"),
        ("checkpoint", f"{_gib(plan.checkpoint_bytes)}; memory of a host beside it "
         f"{_gib(plan.host_bytes)}"),
        ("data", f"{plan.batch_bytes / line.best / 1e6:.3g} MB/s of batches"),
    ]  # fmt: skip
    if plan.costs.kernels:
        calls = (
            f"{plan.costs.kernels} Pallas calls: products by the blocks they compute"
        )
        found.append(("kernels", f"{calls}, traffic of their operands once"))
    if plan.costs.unknown_loops:
        loops = plan.costs.unknown_loops
        found.append(("counted once", f"{loops} loops of unknown length"))
    return "\n".join(f"{name:22} {text}" for name, text in found)


def verdict(plan: Plan | Refusal) -> str:
    """Whether the run fits, and what to change if it does not."""
    if isinstance(plan, Refusal):
        return (
            f"does not fit: {plan.topology}, {_mesh(plan)}: {plan.message}; more "
            "microbatches (--accumulate), a smaller --batch_size, or more chips"
        )
    memory, there = plan.memory, plan.topology.chip.memory
    if plan.fits:
        spare = f"fits: {1 - memory.peak / there:.0%} of the memory is free"
        if plan.share > IDEAL_SHARE:
            spare += f"; the state is {plan.share:.2f} times an even share"
        return spare
    missing = f"does not fit: {_gib(memory.peak - there)} too much; "
    if memory.parameters + memory.optimizer > there:
        return missing + "more chips, or fsdp over more of them, for the state"
    return missing + "a smaller --batch_size or --sequence_length, for activations"


def comparison(plans: Sequence[Plan | Refusal]) -> str:
    """One row a plan."""
    rows = [("mesh", "GiB a chip", "fits", "utilization", "tokens/s", "bound by")]
    for plan in plans:
        if isinstance(plan, Refusal):
            rows.append((_mesh(plan), "-", "no", "-", "-", "-"))
            continue
        line = plan.roofline
        both = plan.utilization(line.best), plan.utilization(line.serial)
        rows.append(
            (
                _mesh(plan),
                f"{plan.memory.peak / GIB:.1f}",
                "yes" if plan.fits else "no",
                f"{both[0]:.2f} / {both[1]:.2f}",
                f"{plan.tokens / line.serial:,.0f}",
                line.bound,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def to_json(plans: Sequence[Plan | Refusal]) -> str:
    """All numbers of the plans, in bytes, seconds and FLOPs; of a refusal the mesh and
    the message, and that it does not fit."""
    return json.dumps([_as_dict(plan) for plan in plans], indent=2)


def _as_dict(plan: Plan | Refusal) -> dict[str, Any]:
    if isinstance(plan, Refusal):
        names = {"topology": str(plan.topology), "mesh": dict(plan.mesh)}
        return {**names, "message": plan.message, "fits": plan.fits}
    line = plan.roofline
    return {
        **plan._asdict(),
        "topology": str(plan.topology),
        "mesh": dict(plan.mesh),
        "memory": {**plan.memory._asdict(), "peak": plan.memory.peak},
        "costs": {
            **plan.costs._asdict(),
            "collectives": [one._asdict() for one in plan.costs.collectives],
        },
        "roofline": {**line._asdict(), "best": line.best, "serial": line.serial},
        "fits": plan.fits,
        "utilization": [plan.utilization(s) for s in (line.best, line.serial)],
        "hours": plan.hours,
    }


def _collectives(plan: Plan) -> list[tuple[str, str]]:
    """A line for each kind: number in a step, bytes sent by a chip, and what of it
    overlaps."""
    kinds: dict[tuple[str, int], list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for one in plan.costs.collectives:
        if not one.traffic:
            continue
        sums = kinds[one.kind, one.group]
        sums[0] += one.executions
        sums[1] += one.traffic
        sums[2] += one.traffic * one.overlaps
    return [
        (
            kind,
            f"{number:.0f} of {group} chips, {sent / 1e6:,.1f} MB sent a chip, "
            f"{hidden / sent:.0%} of it overlaps",
        )
        for (kind, group), (number, sent, hidden) in sorted(kinds.items())
    ]


def _ratio(plan: Plan) -> str:
    """Of the program's products to those of a model, if it has any."""
    if not plan.model_flops:
        return ""
    return f" ({plan.costs.flops / plan.model_flops:.2f} times)"


def _mesh(plan: Plan | Refusal) -> str:
    return ",".join(f"{axis}:{n}" for axis, n in plan.mesh.items()) or "one chip"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size > GIB / 8 else f"{size / 2**20:.2f} MiB"
