"""Bytes that a compiled program reads from and writes to main memory."""

from __future__ import annotations

import re

from transformer.planning.hlo import Array, Instruction, Program

# Instructions that move no bytes of main memory.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call",
    "conditional", "after-all", "partition-id", "replica-id", "iota",
    "optimization-barrier", "async-update",
}  # fmt: skip
_FREE_CALL = re.compile(r'custom_call_target="(AllocateBuffer|ConcatBitcast)"')
# libtpu divides a collective into instructions of one name of its kind: a start, whose
# flag is -1, and what goes on with it.
_HANDS_ON = re.compile(r'custom_call_target="AsyncCollective(Start|Done)"')
DIVISION = re.compile(r'"async_collective_fusion_config":\{"flag_start":"(-?\d+)"')


def memory_traffic(program: Program) -> float:
    """Bytes that the executed instructions read from and write to main memory; a fusion
    is one instruction, with those within it. Of an array that a fusion only slices, the
    slice counts, and of one that it updates in place, the update. What a divided
    collective reads and writes counts at its start, not again in the fusions that go on
    with it and hand its arrays on."""
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
        return _fusion_traffic(program, instruction, arrays, fused)
    return sum(map(_slow, results)) + sum(_slow(a) for one in arrays for a in one)


def _fusion_traffic(
    program: Program,
    instruction: Instruction,
    arrays: list[tuple[Array, ...]],
    name: str,
) -> float:
    """Of its operands what it reads, and of its results what it writes."""
    fused = program.computations[name]
    total = 0.0
    for parameter in fused.values():
        if parameter.opcode != "parameter" or int(parameter.literal) >= len(arrays):
            continue
        if slow := sum(map(_slow, arrays[int(parameter.literal)])):
            total += min(_bytes_read(program, name, parameter.name), slow)
    root = next(one for one in fused.values() if one.root)
    names = root.operands if root.opcode == "tuple" else (root.name,)
    for array, result in zip(instruction.arrays, names, strict=False):
        if not array.fast:
            total += _bytes_written(program, name, result, array)
    starts = (one for one in fused.values() if _is_start(one))
    return total + sum(_slow(array) for one in starts for array in one.arrays)


def _bytes_read(program: Program, name: str, array: str) -> float:
    """What the instructions of a fused computation read of one of its parameters."""
    fused, total = program.computations[name], 0.0
    same = {one for one in fused if _cast_of(fused, one) == array}
    for user in fused.values():
        for place, operand in enumerate(user.operands):
            if operand not in same or user.opcode in ("bitcast", "tuple"):
                continue
            inner = next(iter(user.callees), "")
            if _is_target(place, user) or _goes_on(user):
                continue
            if _is_source(place, user):
                total += user.bytes
            elif user.opcode == "fusion" and inner in program.computations:
                total += _bytes_read(program, inner, _parameter(program, inner, place))
            else:
                total += fused[array].bytes
    return total


def _bytes_written(program: Program, name: str, result: str, array: Array) -> float:
    """Of a result of a fused computation: nothing where it is handed on."""
    fused = program.computations[name]
    made = fused[_cast_of(fused, result)]
    if made.opcode == "parameter" or DIVISION.search(made.attributes):
        return 0.0
    if made.opcode == "custom-call" and _HANDS_ON.search(made.attributes):
        return 0.0
    if made.opcode == "fusion" and made.callees[0] in program.computations:
        inner = program.computations[made.callees[0]]
        root = next(one for one in inner.values() if one.root)
        if root.opcode != "tuple":
            return _bytes_written(program, made.callees[0], root.name, array)
    if made.opcode == "dynamic-update-slice" and (
        fused[_cast_of(fused, made.operands[0])].opcode == "parameter"
    ):
        return fused[made.operands[1]].bytes
    return array.bytes


def _parameter(program: Program, name: str, place: int) -> str:
    """The name of a computation's parameter."""
    return next(
        one.name
        for one in program.computations[name].values()
        if one.opcode == "parameter" and int(one.literal) == place
    )


def _is_start(one: Instruction) -> bool:
    """Whether it is the first of those into which a collective is divided."""
    match = DIVISION.search(one.attributes)
    return match is not None and match.group(1) == "-1"


def _goes_on(user: Instruction) -> bool:
    """Whether it goes on with a collective, or hands on what that needs."""
    if user.opcode == "custom-call":
        return _HANDS_ON.search(user.attributes) is not None
    return DIVISION.search(user.attributes) is not None and not _is_start(user)


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
