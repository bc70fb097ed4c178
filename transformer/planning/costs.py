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
    "conditional", "after-all", "partition-id", "replica-id", "iota",
    "optimization-barrier", "async-update",
}  # fmt: skip
_FREE_CALL = re.compile(r'custom_call_target="(AllocateBuffer|ConcatBitcast)"')
# libtpu divides a collective into instructions of one name of its kind: a start, whose
# flag is -1, and what goes on with it.
_DIVISION = re.compile(r'"async_collective_fusion_config":\{"flag_start":"(-?\d+)"')
_MESH_GROUP = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_IOTA_GROUP = re.compile(
    r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
)
_LISTED_GROUP = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")
# What hosts send for their chips to those of other slices: first the slices, as 1,2 or
# 0:3, then the chips of each.
_BETWEEN_SLICES = re.compile(
    r'_xla_megascale_target="\{([\d,:]+)\}.*_xla_megascale_transfer_type="(\w+)"'
)
_KERNEL = re.compile(r'custom_call_target="(tpu_custom_call|[^"]*triton[^"]*)"')


class Collective(NamedTuple):
    """A collective of one chip with `group` chips, itself included.

    bytes: of the whole array, that is the result of an all-gather, else the operand.
    executions: a step. overlaps: with computation. span: chips of the mesh from the
    first of the group to its last; 0 where the group has all between them.
    """

    kind: str
    bytes: float
    group: int
    executions: int
    overlaps: bool
    span: int = 0

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
    """Each collective once, though its start, steps and end all name it. An all-reduce
    of which each chip keeps a slice is a reduce-scatter."""
    starts = {
        called
        for computation in program.computations.values()
        for instruction in computation.values()
        if instruction.opcode.endswith("-start")
        for called in instruction.callees
    }
    found = []
    for name, instruction, count in program.instructions():
        kind = instruction.opcode.removesuffix("-start")
        division = _DIVISION.search(instruction.attributes)
        if kind == "send":
            found += _between_slices(instruction, program, name, count)
        if kind not in COLLECTIVES or (division and division.group(1) != "-1"):
            continue
        overlaps = instruction.opcode.endswith("-start") or name in starts
        operands = [
            array
            for operand in instruction.operands
            for array in program.computations[name][operand].arrays
        ]
        if kind == "all-reduce" and "all-reduce-scatter" in name:
            kind = "reduce-scatter"
        size = sum(array.bytes for array in operands)
        group, span = _group(instruction.attributes, program.chips)
        size *= group if kind == "all-gather" else 1
        overlaps = overlaps or division is not None
        found.append(Collective(kind, size, group, count, overlaps, span))
    return [one for one in found if one.group > 1]


def _between_slices(
    send: Instruction, program: Program, name: str, count: int
) -> list[Collective]:
    """The collective of which a host sends the part of its chip; it overlaps."""
    match = _BETWEEN_SLICES.search(send.attributes)
    if match is None:
        return []
    listed, kind = match.groups()
    slices = 0
    for part in listed.split(","):
        first, _, last = part.partition(":")
        slices += int(last or first) - int(first) + 1
    kind = kind.lower().replace("_", "-")
    size = sum(
        array.bytes for array in program.computations[name][send.operands[0]].arrays
    )
    return [Collective(kind, size, slices, count, overlaps=True, span=program.chips)]


def _group(attributes: str, chips: int) -> tuple[int, int]:
    """The number of chips of the first group, `chips` where the groups are empty, and
    its span as of `Collective`: of a permutation the farthest that a chip sends."""
    if match := _MESH_GROUP.search(attributes):
        return _mesh_group(*match.groups())
    if match := _IOTA_GROUP.search(attributes):
        groups, size, *order = match.groups()
        lengths, places = (_numbers(text or "") for text in order)
        ids = np.arange(math.prod(lengths)).reshape(lengths)
        ids = ids.transpose(places or None).reshape(int(groups), int(size))
        return int(size), _span(ids[0])
    if match := _LISTED_GROUP.search(attributes):
        ids = np.array(_numbers(match.group(1)))
        return len(ids), _span(ids)
    if match := _PAIRS.search(attributes):
        pairs = np.array(_numbers(re.sub("[{}]", "", match.group(1)))).reshape(-1, 2)
        return 2, 1 + int(np.abs(pairs[:, 0] - pairs[:, 1]).max(initial=1))
    return (2 if "source_target_pairs" in attributes else chips), 0


def _mesh_group(mesh: str, over: str) -> tuple[int, int]:
    """As `_group`, of a group over axes of a mesh such as 'a'=4,'b'=2. A part of an
    axis is 'axis':(parts before it)parts."""
    named = [part.strip().split("=") for part in mesh.split(",")]
    sizes = {name: int(size) for name, size in named}
    names, strides, stride = list(sizes), {}, 1
    for name in reversed(names):
        strides[name] = stride
        stride *= sizes[name]
    size, distance = 1, 0
    for axis in over.split(","):
        name, _, part = axis.strip().partition(":")
        before, count = 1, sizes[name]
        if part:
            before, count = map(int, re.findall(r"\d+", part))
        size *= count
        distance += (count - 1) * strides[name] * sizes[name] // (before * count)
    return size, distance + 1 if distance + 1 > size else 0


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _span(ids: np.ndarray) -> int:
    """Chips from the first of a group to its last; 0 where the group has all."""
    span = 1 + int(ids.max() - ids.min())
    return span if span > len(ids) else 0


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
        opcode = instruction.opcode
        if name in inner or opcode in _FREE or opcode.endswith("-done"):
            continue
        total += count * _instruction_traffic(instruction, program, name)
    return total


def _instruction_traffic(
    instruction: Instruction, program: Program, name: str
) -> float:
    computation = program.computations[name]
    arrays = [computation[o].arrays for o in instruction.operands if o in computation]
    results, opcode = instruction.arrays, instruction.opcode.removesuffix("-start")
    if opcode == "custom-call" and _FREE_CALL.search(instruction.attributes):
        return 0.0
    if opcode == "copy" and opcode != instruction.opcode:
        results = results[:1]
    elif opcode != instruction.opcode:
        # A start gives its operands again, before the results.
        results = results[sum(map(len, arrays)) :] or results
    if opcode in ("dynamic-slice", "gather", "slice"):
        return _slow(results[0]) + results[0].bytes * (not arrays[0][0].fast)
    if opcode == "dynamic-update-slice":
        return _slow(arrays[1][0]) + arrays[1][0].bytes * (not arrays[0][0].fast)
    if opcode == "scatter":
        # As many targets as updates, and between them the indices.
        updates = [a for operand in arrays[len(arrays) // 2 + 1 :] for a in operand]
        written = 2 * (not arrays[0][0].fast)
        return sum(_slow(a) + written * a.bytes for a in updates)
    fused = next(iter(instruction.callees), "")
    if opcode == "fusion" and fused in program.computations:
        return _fusion_traffic(instruction, arrays, program.computations[fused])
    return sum(map(_slow, results)) + sum(_slow(a) for one in arrays for a in one)


def _fusion_traffic(
    instruction: Instruction,
    arrays: list[tuple[Array, ...]],
    fused: dict[str, Instruction],
) -> float:
    """Of its operands what it reads, and of its results what it writes."""
    users: dict[str, list[tuple[int, Instruction]]] = {name: [] for name in fused}
    for one in fused.values():
        for place, operand in enumerate(one.operands):
            if one.opcode != "bitcast" and operand in fused:
                users[_cast_of(fused, operand)].append((place, one))
    total = 0.0
    for parameter in fused.values():
        if parameter.opcode != "parameter" or int(parameter.literal) >= len(arrays):
            continue
        slow = sum(map(_slow, arrays[int(parameter.literal)]))
        used = [u for u in users[parameter.name] if not _is_target(*u)]
        in_place = len(used) < len(users[parameter.name])
        if all(_is_source(*u) for u in used) and (used or in_place):
            total += sum(u.bytes for _, u in used) if slow else 0.0
        else:
            total += slow
    root = next(one for one in fused.values() if one.root)
    names = root.operands if root.opcode == "tuple" else (root.name,)
    for array, name in zip(instruction.arrays, names, strict=False):
        made = fused[_cast_of(fused, name)]
        if made.opcode == "dynamic-update-slice" and (
            fused[_cast_of(fused, made.operands[0])].opcode == "parameter"
        ):
            total += 0.0 if array.fast else fused[made.operands[1]].bytes
        else:
            total += _slow(array)
    return total


def _cast_of(fused: dict[str, Instruction], name: str) -> str:
    """The name of the instruction of which `name` is a bitcast, else its own."""
    while fused[name].opcode == "bitcast":
        name = fused[name].operands[0]
    return name


def _is_target(place: int, user: Instruction) -> bool:
    """Whether an operand at `place` of `user` is updated in place."""
    return user.opcode == "dynamic-update-slice" and place == 0


def _is_source(place: int, user: Instruction) -> bool:
    """Whether `user` reads but a slice of its operand at `place`."""
    return user.opcode in ("dynamic-slice", "gather", "slice") and place == 0


def _slow(array: Array) -> float:
    return 0.0 if array.fast else array.bytes
