"""The text of a compiled program (HLO), parsed: computations, instructions, how often
each is executed.

XLA's own counts (`cost_analysis`) take the body of a loop once, and no collective; the
text has both, with the trip counts of loops that the compiler knows.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

# Bytes of an element, by HLO's name of its type.
ELEMENT_BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4,
    "u32": 4, "s64": 8, "u64": 8, "f16": 2, "bf16": 2, "f32": 4, "f64": 8, "c64": 8,
    "c128": 16, "f8e4m3fn": 1, "f8e4m3": 1, "f8e5m2": 1, "token": 0, "opaque": 0,
}  # fmt: skip

_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"\s*(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r" ([a-z][\w\-]*)\(")
_OPERAND = re.compile(r"%([\w.\-]+)")
# Attributes that name the computations which an instruction executes.
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation)="
    r"%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_METADATA = re.compile(r", metadata=\{[^}]*\}")
_CHIPS = re.compile(r"\b(?:num_partitions|replica_count)=(\d+)")
_TRIPS = re.compile(r"known_trip_count\D*?(\d+)")


class Array(NamedTuple):
    """A shape in the program. fast: whether it lies in the chip's vector memory, not in
    its main memory."""

    dtype: str
    shape: tuple[int, ...]
    fast: bool = False

    @property
    def bytes(self) -> float:
        size = ELEMENT_BYTES[self.dtype]
        for length in self.shape:
            size *= length
        return size


class Instruction(NamedTuple):
    """arrays: of its result, several of a tuple. attributes: the rest of its line.
    literal: of a constant; of a parameter its number."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    root: bool
    literal: str = ""

    @property
    def callees(self) -> list[str]:
        """The computations that it executes."""
        found = _CALLED.findall(self.attributes)
        for names in _BRANCHES.findall(self.attributes):
            found += [name.strip().lstrip("%") for name in names.split(",")]
        return found

    @property
    def bytes(self) -> float:
        return sum(array.bytes for array in self.arrays)


class Program(NamedTuple):
    """computations: name -> instructions in order. entry: the name of the first.
    unknown_loops: loops whose number of executions the text does not say, taken once.
    chips: that execute it.
    """

    computations: dict[str, dict[str, Instruction]]
    entry: str
    executions: dict[str, int]
    unknown_loops: int
    chips: int

    def instructions(self) -> Iterator[tuple[str, Instruction, int]]:
        """(computation, instruction, how often it is executed), of executed ones."""
        for name, count in self.executions.items():
            for instruction in self.computations[name].values():
                yield name, instruction, count


def arrays(text: str) -> tuple[Array, ...]:
    """The arrays in the text of a shape such as (f32[2,3]{1,0}, s32[]).

    A memory space S(1) or above is not the main memory. ValueError for an element type
    of unknown size, whose bytes would be missing in every sum.
    """
    found = []
    for dtype, lengths, layout in _ARRAY.findall(text):
        if dtype not in ELEMENT_BYTES:
            known = ", ".join(ELEMENT_BYTES)
            raise ValueError(f"program: expected elements of {known}; got {dtype}")
        shape = tuple(int(n) for n in lengths.split(",") if n)
        found.append(Array(dtype, shape, "S(" in layout))
    return tuple(found)


def without_metadata(text: str) -> str:
    """`text` without the lines of source code that its instructions come from."""
    return _METADATA.sub("", text)


def _instruction(line: str) -> Instruction | None:
    match = _INSTRUCTION.match(line)
    if not match:
        return None
    root, name, rest = match.groups()
    opcode = _OPCODE.search(" " + rest)
    if opcode is None:
        return None
    # The space put before `rest` shifts the positions by one.
    operands, attributes = _split_call(rest[opcode.end() - 1 :])
    return Instruction(
        name,
        opcode.group(1),
        arrays(rest[: opcode.start()]),
        tuple(_OPERAND.findall(operands)),
        attributes,
        bool(root),
        operands if opcode.group(1) in ("constant", "parameter") else "",
    )


def _split_call(text: str) -> tuple[str, str]:
    """What stands before and after the bracket that closes the operands."""
    depth = 1
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[:at], text[at + 1 :]
    return text, ""


def parse(text: str | None) -> Program:
    """The program in `Compiled.as_text()`. ValueError where no entry is found."""
    text = text or ""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            match = _COMPUTATION.match(line.strip())
            if match and not line.startswith("HloModule"):
                current = computations.setdefault(match.group(2), {})
                entry = match.group(2) if match.group(1) else entry
        elif line.strip() == "}":
            current = None
        else:
            found = _instruction(line)
            if found is not None:
                current[found.name] = found
    if entry not in computations:
        raise ValueError("program: expected HLO text with an ENTRY, got none")
    executions, unknown = _executions(computations, entry)
    chips = math.prod(map(int, _CHIPS.findall(text.partition("\n")[0])))
    return Program(computations, entry, executions, unknown, chips)


def _executions(
    computations: dict[str, dict[str, Instruction]], entry: str
) -> tuple[dict[str, int], int]:
    """How often each computation is executed; of branches all are counted, since which
    is taken is not known. The functions of reductions count once for each call."""
    counts: dict[str, int] = defaultdict(int)
    unknown = 0

    def visit(name: str, times: int) -> None:
        nonlocal unknown
        counts[name] += times
        for instruction in computations[name].values():
            trips: int | None = 1
            if instruction.opcode == "while":
                trips = _trips(computations, computations[name], instruction)
                unknown += trips is None
            if instruction.opcode in ("async-update", "async-done"):
                continue  # They name what their start executes.
            for called in instruction.callees:
                if called in computations:
                    visit(called, times * (1 if trips is None else trips))

    visit(entry, 1)
    return dict(counts), unknown


def _trips(
    computations: dict[str, dict[str, Instruction]],
    computation: dict[str, Instruction],
    loop: Instruction,
) -> int | None:
    """How often a loop's body is executed: as the compiler says, else by its counter,
    which rises by a constant from another to below a third: by one in `lax.scan`, by
    two in a product of which the chips exchange the parts."""
    known = _TRIPS.search(loop.attributes)
    if known:
        return int(known.group(1))
    parts = dict(re.findall(r"(condition|body)=%?([\w.\-]+)", loop.attributes))
    condition, body = (computations.get(parts[n], {}) for n in ("condition", "body"))
    test = _unwrap(computations, next((i for i in condition.values() if i.root), None))
    if test is None or test.opcode != "compare" or "=LT" not in test.attributes:
        return None
    counter, limit = (condition[name] for name in test.operands)
    place = _tuple_place(counter)
    initial = _constant(computation, _element(computation, loop.operands[0], place))
    end = _constant(condition, limit)
    after = _unwrap(computations, _root_element(body, place))
    if initial is None or end is None or after is None or after.opcode != "add":
        return None
    left, right = (_source(body, body[name]) for name in after.operands)
    same = left is not None and _tuple_place(left) == place
    by = _constant(body, right)
    if not same or by is None or by < 1:
        return None
    return max(0, math.ceil((end - initial) / by))


def _unwrap(
    computations: dict[str, dict[str, Instruction]], instruction: Instruction | None
) -> Instruction | None:
    """Of a fusion its root, with the fusion's operands, where it reads no other
    result: compilers for CPUs wrap the counter of a loop in one."""
    if instruction is None or instruction.opcode != "fusion":
        return instruction
    fused = computations[instruction.callees[0]]
    root = next(i for i in fused.values() if i.root)
    if any(fused[name].opcode != "parameter" for name in root.operands):
        return instruction
    places = (int(fused[name].literal) for name in root.operands)
    return root._replace(operands=tuple(instruction.operands[i] for i in places))


def _tuple_place(instruction: Instruction) -> int | None:
    match = re.search(r"index=(\d+)", instruction.attributes)
    taken = instruction.opcode == "get-tuple-element" and match
    return int(match.group(1)) if taken and match else None


def _element(
    computation: dict[str, Instruction], name: str, place: int | None
) -> Instruction | None:
    """The instruction that makes an element of a tuple."""
    made = computation[name]
    if place is None or made.opcode != "tuple":
        return None
    return computation[made.operands[place]]


def _root_element(
    computation: dict[str, Instruction], place: int | None
) -> Instruction | None:
    root = next((i for i in computation.values() if i.root), None)
    if root is None:
        return None
    found = _element(computation, root.name, place)
    return _source(computation, found)


def _source(
    computation: dict[str, Instruction], instruction: Instruction | None
) -> Instruction | None:
    """What a chain of copies begins with."""
    while instruction is not None and instruction.opcode in (
        "copy",
        "bitcast",
        "convert",
    ):
        instruction = computation.get(instruction.operands[0])
    return instruction


def _constant(
    computation: dict[str, Instruction], instruction: Instruction | None
) -> int | None:
    instruction = _source(computation, instruction)
    if instruction is None or instruction.opcode != "constant":
        return None
    whole = re.fullmatch(r"-?\d+", instruction.literal)
    return int(instruction.literal) if whole else None
