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

from transformer.planning.hlo import Instruction, Program
from transformer.planning.traffic import DIVISION, memory_traffic

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
)
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
        division = DIVISION.search(instruction.attributes)
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
