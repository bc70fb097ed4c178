"""What a compiled program costs one chip: products, memory traffic, collectives.

Loops count as often as they run. A collective that the compiler divides into a start, a
number of steps and an end overlaps with computation; one in a single instruction does
not.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np

from transformer.planning.hlo import Array, Instruction, Program

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
)
# Instructions that move no bytes of main memory.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call",
    "conditional", "after-all", "partition-id", "replica-id", "copy-done", "iota",
    "optimization-barrier",
}  # fmt: skip
_CHANNEL = re.compile(r"channel_id=(\d+)")
_MESH_GROUP = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_IOTA_GROUP = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_LISTED_GROUP = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_KERNEL = re.compile(r'custom_call_target="(tpu_custom_call|[^"]*triton[^"]*)"')


class Collective(NamedTuple):
    """A collective of one chip with `group` chips, itself included.

    bytes: of the whole array, that is the result of an all-gather, else the operand.
    executions: a step. overlaps: with computation.
    """

    kind: str
    bytes: float
    group: int
    executions: int
    overlaps: bool

    @property
    def traffic(self) -> float:
        """Bytes that a chip sends in a step, by the ring algorithms (Patarasuk and Yuan
        2009, doi 10.1016/j.jpdc.2008.09.002)."""
        if self.kind == "collective-permute":
            return self.bytes * self.executions
        passes = 2 if self.kind == "all-reduce" else 1
        share = (self.group - 1) / self.group
        return passes * share * self.bytes * self.executions


class Costs(NamedTuple):
    """Of one step on one chip. flops: of matrix products. traffic: bytes read from and
    written to main memory. kernels: calls of opaque kernels, whose products the text
    does not tell. unknown_loops: counted once."""

    flops: float
    traffic: float
    collectives: tuple[Collective, ...]
    kernels: int
    unknown_loops: int


def of_program(program: Program) -> Costs:
    """The costs in the text of a compiled program."""
    flops, kernels = 0.0, 0
    for name, instruction, count in program.instructions():
        if instruction.opcode in ("dot", "convolution"):
            flops += count * product_flops(instruction, program.computations[name])
        kernels += count * bool(
            instruction.opcode == "custom-call"
            and _KERNEL.search(instruction.attributes)
        )
    return Costs(
        flops,
        memory_traffic(program),
        tuple(collectives(program)),
        kernels,
        program.unknown_loops,
    )


def product_flops(
    instruction: Instruction, computation: dict[str, Instruction]
) -> float:
    """Floating-point operations of a dot or a convolution, two a multiplication. A TPU
    writes products as convolutions, of which padding is not multiplied."""
    left, right = (computation[name].arrays[0] for name in instruction.operands[:2])
    (result,) = instruction.arrays[:1]
    if instruction.opcode == "dot":
        match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        dims = [int(n) for n in match.group(1).split(",") if n] if match else []
        contracted = math.prod(left.shape[i] for i in dims)
        return 2.0 * contracted * math.prod(result.shape)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if labels is None:
        raise ValueError(f"convolution {instruction.name}: expected dim_labels")
    inputs, kernel, output = labels.groups()
    total = 2.0 * right.shape[kernel.index("i")]
    total *= result.shape[output.index("b")] * result.shape[output.index("f")]
    windows = _windows(instruction.attributes, len(inputs) - 2)
    for at, window in enumerate(windows):
        axis = str(at)
        total *= _valid_pairs(
            left.shape[inputs.index(axis)],
            right.shape[kernel.index(axis)],
            result.shape[output.index(axis)],
            window,
        )
    return total


def _windows(attributes: str, axes: int) -> list[dict[str, int]]:
    """stride, low padding, and dilations of input and kernel, of each spatial axis."""
    text = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(f.split("=") for f in text.group(1).split()) if text else {}

    def of(name: str, default: int) -> list[int]:
        if name not in fields:
            return [default] * axes
        return [int(part.split("_")[0]) for part in fields[name].split("x")]

    names = ("stride", 1), ("pad", 0), ("lhs_dilate", 1), ("rhs_dilate", 1)
    columns = {name: of(name, default) for name, default in names}
    return [{name: column[i] for name, column in columns.items()} for i in range(axes)]


def _valid_pairs(size: int, taps: int, outputs: int, window: dict[str, int]) -> int:
    """How many pairs of an output position and a tap meet an input, not padding."""
    position = np.arange(outputs)[:, None] * window["stride"] - window["pad"]
    position = position + np.arange(taps) * window["rhs_dilate"]
    last = (size - 1) * window["lhs_dilate"]
    valid = (position >= 0) & (position <= last)
    return int(np.sum(valid & (position % window["lhs_dilate"] == 0)))


def collectives(program: Program) -> list[Collective]:
    """Each collective once, though its start, steps and end all name it: those have one
    channel. An all-reduce of which each chip keeps a slice is a reduce-scatter."""
    starts = {
        called
        for computation in program.computations.values()
        for instruction in computation.values()
        if "async" in instruction.name or instruction.opcode.endswith("-start")
        for called in instruction.callees
    }
    found: dict[str, Collective] = {}
    for name, instruction, count in program.instructions():
        kind = instruction.opcode.removesuffix("-start")
        if kind not in COLLECTIVES:
            continue
        divided = instruction.opcode.endswith("-start") or name in starts
        operands = [
            array
            for operand in instruction.operands
            for array in program.computations[name][operand].arrays
        ]
        if kind == "all-reduce" and "all-reduce-scatter" in name:
            kind = "reduce-scatter"
        size = sum(array.bytes for array in operands)
        group = _group(instruction.attributes)
        size *= group if kind == "all-gather" else 1
        channel = _CHANNEL.search(instruction.attributes)
        key = channel.group(1) if channel else f"{name}/{instruction.name}"
        known = found.get(key)
        if known is None:
            found[key] = Collective(kind, size, group, count, divided)
        else:
            # The first call that the program makes of it has its executions.
            found[key] = known._replace(overlaps=True)
    return [one for one in found.values() if one.group > 1]


def _group(attributes: str) -> int:
    """The number of chips of a group."""
    if match := _MESH_GROUP.search(attributes):
        sizes = dict(part.split("=") for part in match.group(1).split(","))
        axes = [a.strip() for a in match.group(2).split(",")]
        return math.prod(int(sizes.get(axis, 1)) for axis in axes)
    if match := _IOTA_GROUP.search(attributes):
        return int(match.group(1))
    if match := _LISTED_GROUP.search(attributes):
        return len(match.group(1).split(","))
    return 2 if "source_target_pairs" in attributes else 1


def memory_traffic(program: Program) -> float:
    """Bytes that the executed instructions read from and write to main memory; a fusion
    is one instruction. Of an array that a fusion only slices, the slice counts, and of
    one that it updates in place, the update."""
    inner = {
        called
        for computation in program.computations.values()
        for instruction in computation.values()
        if instruction.opcode not in ("while", "conditional", "call")
        for called in instruction.callees
    }
    total = 0.0
    for name, instruction, count in program.instructions():
        if name in inner or instruction.opcode in _FREE:
            continue
        total += count * _instruction_traffic(instruction, program, name)
    return total


def _instruction_traffic(
    instruction: Instruction, program: Program, name: str
) -> float:
    computation = program.computations[name]
    arrays = [computation[o].arrays for o in instruction.operands if o in computation]
    if instruction.opcode == "copy-start":
        return sum(_slow(a) for a in (arrays[0][0], instruction.arrays[0]))
    if instruction.opcode in ("dynamic-slice", "gather", "slice"):
        return 2 * sum(map(_slow, instruction.arrays))
    if instruction.opcode in ("dynamic-update-slice", "scatter"):
        return 2 * sum(map(_slow, arrays[-2 if len(arrays) < 3 else 1]))
    fused = next(iter(instruction.callees), "")
    if instruction.opcode != "fusion" or fused not in program.computations:
        return sum(map(_slow, instruction.arrays)) + sum(
            _slow(a) for operand in arrays for a in operand
        )
    return _fusion_traffic(instruction, arrays, program.computations[fused])


def _fusion_traffic(
    instruction: Instruction,
    arrays: list[tuple[Array, ...]],
    fused: dict[str, Instruction],
) -> float:
    total = 0.0
    parameters = [i for i in fused.values() if i.opcode == "parameter"]
    by_number = {p.name: p for p in parameters}
    users: dict[str, list[Instruction]] = {name: [] for name in by_number}
    for one in fused.values():
        for operand in one.operands:
            if operand in users:
                users[operand].append(one)
    updated = [i for i in fused.values() if i.opcode == "dynamic-update-slice"]
    in_place = {i.operands[0] for i in updated}
    for parameter, operand in zip(parameters, arrays, strict=False):
        used = users[parameter.name]
        if parameter.name in in_place:
            continue
        if used and all(u.opcode in ("dynamic-slice", "gather") for u in used):
            fast = any(a.fast for a in operand)
            total += 0 if fast else sum(u.bytes for u in used)
        else:
            total += sum(map(_slow, operand))
    if in_place and updated:
        updates = (fused[i.operands[1]] for i in updated)
        return total + sum(u.bytes for u in updates)
    return total + sum(map(_slow, instruction.arrays))


def _slow(array: Array) -> float:
    return 0.0 if array.fast else array.bytes
