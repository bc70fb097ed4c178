"""Programs: functions that are called without this library. `model_programs` has those
of each net; `stablehlo`, `onnx` and `savedmodel` write them in formats of others.

Inputs and outputs have the names of transformers. The sizes B (rows), L (tokens) and S
(tokens of a source) are open where the format has open sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer.interchange import layout, table

# A difference of two programs, over the spread of the output, that may be rounding: it
# is 5e-5 for SmolLM2, of 30 layers, and 3e-3 where an epsilon is 1e-6 for 1e-5.
TOLERANCE = 1e-3
# The sizes of B and L, with S one more, within the limits, with which a program is
# called before it is said to work.
SIZES = ((2, 7), (3, 1))
# Those of which a loop of generation is made.
PARTS = "encode", "step"
# Inputs that are 0 where there is padding, of tokens and of a source.
MASKS = "attention_mask", "encoder_attention_mask"


class Input(NamedTuple):
    """shape: sizes, or the letter of an open one. below: ids are less; 0 for floats."""

    name: str
    shape: tuple[str | int, ...]
    below: int = 0

    @property
    def dtype(self) -> Any:
        """int32 or float32."""
        return jnp.int32 if self.below else jnp.float32

    def sizes(self, **open_sizes: Any) -> tuple[Any, ...]:
        """The shape, with a size for each letter."""
        return tuple(open_sizes.get(str(size), size) for size in self.shape)


class Program(NamedTuple):
    """apply(params, *inputs) -> a tuple of `outputs`. limits: of open sizes, such as
    "L <= 64". loop: the same program for formats that convert no loop. plain: the same
    function for formats in which no size but the open ones may depend on the inputs;
    None where `apply` is so."""

    name: str
    apply: Callable[..., tuple[jax.Array, ...]]
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    limits: tuple[str, ...] = ()
    loop: GreedyLoop | None = None
    plain: Callable[..., tuple[jax.Array, ...]] | None = None

    def open_sizes(self) -> str:
        """The open sizes in words."""
        words = {"B": "number of rows", "L": "of tokens", "S": "of source tokens"}
        open_ = " and ".join(words[letter] for letter in open_letters(self))
        return f"{open_}{', ' if self.limits else ''}{', '.join(self.limits)}"

    def example(self, rows: int = 2, tokens: int = 7) -> list[np.ndarray]:
        """Inputs of these sizes, or of the limits, the last row padded where there is a
        mask."""
        rng = np.random.default_rng(0)
        most = dict(limit.split(" <= ") for limit in self.limits)
        wanted = {"L": tokens, "S": tokens + 1}
        sizes = {k: min(n, int(most.get(k, n))) for k, n in wanted.items()}
        arrays = []
        for one in self.inputs:
            shape = one.sizes(B=rows, **sizes)
            if one.name in MASKS:
                array = np.ones(shape, np.int32)
                array[-1, (shape[1] + 1) // 2 :] = 0
            elif one.name == "lengths":
                array = np.maximum(1, np.arange(one.below - rows, one.below))
            elif one.below:
                array = rng.integers(0, one.below, shape)
            else:
                array = rng.standard_normal(shape)
            arrays.append(array.astype(one.dtype))
        return arrays


class GreedyLoop(NamedTuple):
    """Greedy generation by a step: ids (B, 1), the number of tokens before and a cache,
    which is zeros at first, to logits and the new cache. new: tokens of a row, at most;
    stop: ids that end it; excluded: ids that are never chosen; forced_end: the last of
    `new` tokens, where a row has not ended before.

    encode: from the first inputs of the program to what the step has beside those, once
    for all steps: its outputs, and inputs of the program itself. start: the prompt of
    each row, where the program has no prompts among its inputs."""

    step: Program
    new: int
    stop: tuple[int, ...]
    excluded: tuple[int, ...] = ()
    forced_end: int | None = None
    encode: Program | None = None
    start: int | None = None


class WrittenProgram(NamedTuple):
    """file: or folder. difference: from the net, over the spread. sizes: those that are
    open, in words."""

    file: Path
    difference: float
    sizes: str


def open_letters(program: Program) -> list[str]:
    """The letters of open sizes, each once, in the order of the inputs."""
    sizes = [size for one in program.inputs for size in one.shape]
    return list(dict.fromkeys(size for size in sizes if isinstance(size, str)))


def params_of(bindings: Sequence[table.Binding], tensors: Mapping[str, Any]) -> Any:
    """The parameters of tensors by name, as operations of JAX; layers and experts that
    are an axis of one parameter are stacked."""
    parts: dict[str, dict[tuple[int, ...], Any]] = {}
    for binding in bindings:
        places = layout.placements(binding.layout, binding.arrays)
        for part, place in zip(binding.parts, places, strict=True):
            value = layout.unpack(tensors[binding.name], place)
            parts.setdefault(part.path, {})[part.index] = value
    params: dict[str, Any] = {}
    for path, values in parts.items():
        *modules, name = path.split("/")
        inner = params
        for module in modules:
            inner = inner.setdefault(module, {})
        lead = tuple(size + 1 for size in max(values))
        stacked = jnp.stack([values[index] for index in sorted(values)])
        inner[name] = stacked.reshape(*lead, *stacked.shape[1:])
    return params


def spread_difference(outputs: Any, expected: Any) -> float:
    """The largest difference of the outputs, over the spread of each; infinite where
    whole numbers differ, and NaN where one is."""
    worst = [0.0]
    for got, want in zip(outputs, expected, strict=True):
        got, want = np.asarray(got), np.asarray(want)
        if np.issubdtype(want.dtype, np.integer):
            worst.append(0.0 if np.array_equal(got, want) else np.inf)
        else:
            worst.append(float(np.abs(got - want).max() / want.std()))
    return float(np.max(worst))


def check(program: Program, call: Callable[..., Any], params: Any, what: str) -> float:
    """`spread_difference` of call(*inputs) from the net, on examples of `SIZES`.
    RuntimeError where that is no rounding."""
    apply, worst = jax.jit(program.apply), 0.0
    for sizes in SIZES:
        inputs = program.example(*sizes)
        expected = apply(params, *map(jnp.asarray, inputs))
        difference = spread_difference(call(*inputs), expected)
        if not difference < TOLERANCE:
            raise RuntimeError(
                f"{what}: expected the {' and '.join(program.outputs)} of the net, got "
                f"a difference of {difference:.1e} of their spread"
            )
        worst = max(worst, difference)
    return worst
