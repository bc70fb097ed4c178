"""Tables: which tensor of a file holds which of our parameters, read both ways.

A row, `Rule("model.layers.{N}.self_attn.q_proj.weight", A + "w_q_DHK", "(H K) D")`,
names their tensor, our parameters, and their layout. Our names end in their dimensions,
so nothing else need be said. A table only permutes; a number that must change (1 + w,
a scale) is a value in a slot of the net instead.

`{N}` is the layer, `{E}` an expert. One table serves an `UnrolledStack`, whose layers
are parameters of their own, and a `ScannedStack`, where they are an axis of each, or of
each block of a period. A rule is of those layers that have its parameter.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from transformer import axes
from transformer.interchange.layout import ArrayLayout, placements, shape_of
from transformer.training.checksum import leaf_paths

LAYER, EXPERT = "{N}", "{E}"
T = TypeVar("T")
# Names of a message; the others are counted.
SHOWN = 3
_UNROLLED, _SCANNED = "layers_{N}/", "layers/block/"


class Rule(NamedTuple):
    """theirs: the name of a tensor. ours: the path of a parameter, or of several that
    it holds. layout: of their tensor (`layout.py`). axes: of ours, where a dimension is
    joined of several (`(y x C) D`) or has another letter; by default the letters of its
    name."""

    theirs: str
    ours: str | tuple[str, ...]
    layout: str
    axes: str = ""


class Table(NamedTuple):
    """rules: each tensor once. sizes: of letters that no parameter's shape gives.
    ignored: regular expressions of tensors that mean nothing here, each with the
    reason; left_out: of tensors that mean something, which `count_left_out` counts.
    tied: tensors that a file may hold again under another name; equal ones are
    accepted. copies: tensors that a file has again under another name; they are read
    where they equal the other, and written. aliases: names of other dialects, regular
    expressions and what replaces them; files are written without them. computed:
    tensors that a file may hold though the net computes them, each with the function of
    no arguments that does; equal ones are accepted."""

    rules: tuple[Rule, ...]
    sizes: Mapping[str, int] = {}
    ignored: Mapping[str, str] = {}
    left_out: Mapping[str, str] = {}
    tied: Mapping[str, str] = {}
    copies: Mapping[str, str] = {}
    aliases: Mapping[str, str] = {}
    computed: Mapping[str, Callable[[], np.ndarray]] = {}


class Part(NamedTuple):
    """A parameter, or one index of its leading axes (layer, expert)."""

    path: str
    index: tuple[int, ...]


class Binding(NamedTuple):
    """A tensor of the file and the parameters that it holds."""

    name: str
    layout: str
    parts: tuple[Part, ...]
    arrays: tuple[ArrayLayout, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the file's tensor."""
        return shape_of(self.layout, self.arrays)


def bind(table: Table, params: Any) -> list[Binding]:
    """Every tensor of a file for parameters of these shapes, concrete or abstract.

    ValueError where a rule names parameters that are not there, and where a parameter
    is in no rule or in two: a fault of the architecture, never of a file.
    """
    leaves = leaf_paths(params)
    bindings = [one for rule in table.rules for one in _expand(rule, table, leaves)]
    found = Counter(part for binding in bindings for part in binding.parts)
    expected = set(_parts(leaves, found))
    for part in sorted(expected - found.keys()):
        raise ValueError(f"table: expected a rule for {part.path} {part.index}")
    for part, count in found.items():
        if count > 1:
            raise ValueError(f"table: expected one rule for {part.path}, got {count}")
    first = {binding.name: binding for binding in bindings}
    bindings += [first[one]._replace(name=copy) for copy, one in table.copies.items()]
    names = Counter(binding.name for binding in bindings)
    for name, count in names.items():
        if count > 1:
            raise ValueError(f"table: expected {name} once, got it {count} times")
    return bindings


def _parts(leaves: Mapping[str, Any], counts: Mapping[Part, int]) -> Iterator[Part]:
    """The parts of every leaf, cut along as many leading axes as the rules cut it."""
    cuts = {part.path: len(part.index) for part in counts}
    for path, leaf in leaves.items():
        lead = leaf.shape[: cuts.get(path, 0)]
        yield from (Part(path, index) for index in _indices(lead))


def _indices(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    if not shape:
        yield ()
        return
    for first in range(shape[0]):
        yield from ((first, *rest) for rest in _indices(shape[1:]))


def _expand(rule: Rule, table: Table, leaves: Mapping[str, Any]) -> Iterator[Binding]:
    paths = (rule.ours,) if isinstance(rule.ours, str) else rule.ours
    layers = [_layers(path, leaves) for path in paths]
    for path, found in zip(paths, layers, strict=True):
        if found.keys() != layers[0].keys() or not found:
            raise ValueError(f"table: expected a parameter {path}, got none")
    for number in sorted(layers[0]):
        name = rule.theirs.replace(LAYER, str(number))
        parts = [found[number] for found in layers]
        experts = [0]
        if EXPERT in rule.theirs:
            lead = len(parts[0].index)
            experts = range(leaves[parts[0].path].shape[lead])
        for expert in experts:
            cut = (expert,) if EXPERT in rule.theirs else ()
            inner = [Part(part.path, part.index + cut) for part in parts]
            arrays = [_array(part, rule, table, leaves) for part in inner]
            placements(rule.layout, arrays)
            yield Binding(
                name.replace(EXPERT, str(expert)),
                rule.layout,
                tuple(inner),
                tuple(arrays),
            )


def _layers(path: str, leaves: Mapping[str, Any]) -> dict[int, Part]:
    """Where each layer that has the parameter `path` has it; 0 where it is in none."""
    if LAYER not in path:
        return {0: Part(path, ())} if path in leaves else {}
    scanned = path.replace(_UNROLLED, _SCANNED)
    if scanned in leaves:
        return {i: Part(scanned, (i,)) for i in range(leaves[scanned].shape[0])}
    prefix, rest = path.split(_UNROLLED)
    found, start = {}, 0
    for number, (period, count) in enumerate(_sections(prefix, leaves)):
        for block in range(period):
            one = f"{prefix}sections_{number}/block_{block}/{rest}"
            if one in leaves:
                first = start + block
                found |= {first + period * i: Part(one, (i,)) for i in range(count)}
        start += period * count
    pattern = re.escape(path).replace(re.escape(LAYER), r"(\d+)")
    matches = (re.fullmatch(pattern, leaf) for leaf in leaves)
    return found or {int(m[1]): Part(m[0], ()) for m in matches if m}


def _sections(prefix: str, leaves: Mapping[str, Any]) -> list[tuple[int, int]]:
    """The blocks of a period and their repetitions, of each section of a scanned stack
    whose blocks differ."""
    pattern = re.compile(re.escape(prefix) + r"sections_(\d+)/block_(\d+)/")
    found: dict[int, tuple[int, int]] = {}
    for path, leaf in leaves.items():
        if match := pattern.match(path):
            number, block = int(match[1]), int(match[2])
            period = max(found.get(number, (0, 0))[0], block + 1)
            found[number] = period, leaf.shape[0]
    return [found[number] for number in sorted(found)]


def _array(
    part: Part, rule: Rule, table: Table, leaves: Mapping[str, Any]
) -> ArrayLayout:
    letters = axes.dimensions(part.path.rsplit("/", 1)[-1])
    if EXPERT in rule.theirs:
        letters = letters.removeprefix("E")
    shape = tuple(leaves[part.path].shape[len(part.index) :])
    return ArrayLayout(shape, rule.axes or " ".join(letters), table.sizes)


def rename(table: Table, tensors: Mapping[str, T]) -> dict[str, T]:
    """Tensors by the names of the table, where a file has those of another dialect.
    ValueError where two would have one name."""
    renamed: dict[str, T] = {}
    for name, tensor in tensors.items():
        ours = name
        for pattern, replacement in table.aliases.items():
            ours = re.sub(pattern, replacement, ours)
        if ours in renamed:
            raise ValueError(f"tensors: expected {ours} once, got {name} beside it")
        renamed[ours] = tensor
    return renamed


def check_names(
    table: Table, bindings: list[Binding], tensors: Collection[str]
) -> None:
    """ValueError unless `tensors` are the names of the bindings, but for those that the
    table ignores or ties."""
    names = {binding.name for binding in bindings}
    _refuse("missing", sorted(names.difference(tensors)), "every tensor")
    ignored = [re.compile(p) for p in (*table.ignored, *table.left_out)]
    known = {*table.tied, *table.computed}
    left_over = [
        name
        for name in sorted(set(tensors) - names)
        if name not in known and not any(p.fullmatch(name) for p in ignored)
    ]
    _refuse("left over", left_over, "tensors of the architecture only")


def count_left_out(table: Table, tensors: Collection[str]) -> dict[str, int]:
    """How many tensors of a file are left out, by the reason; those of none are not
    there."""
    counts = {
        reason: sum(re.fullmatch(pattern, name) is not None for name in tensors)
        for pattern, reason in table.left_out.items()
    }
    return {reason: count for reason, count in counts.items() if count}


def _refuse(what: str, names: list[str], expected: str) -> None:
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise ValueError(
            f"tensors: expected {expected}, got {what}: "
            f"{', '.join(names[:SHOWN])}{more}"
        )


def check_shape(binding: Binding, shape: Sequence[int]) -> None:
    """ValueError where a tensor has another shape than its binding."""
    if tuple(shape) != binding.shape:
        raise ValueError(
            f"{binding.name}: expected shape {binding.shape} ({binding.layout}), got "
            f"{tuple(shape)}"
        )
