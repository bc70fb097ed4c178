"""Greedy generation as one ONNX graph: the step that jax2onnx has converted is the body
of a `Loop`, whose first cache is made in the file. What an encoder-decoder's step has
of its source is computed once, before the loop, by a graph that was converted too.

The tokens of the prompts are read one at a time, as those that follow: so all rows have
as many tokens in the cache, and a shorter prompt is continued while longer ones are
read.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from transformer.interchange import onnx_parts
from transformer.interchange.programs import GreedyLoop, Input, Program

# Of the step that is the body. No name of a graph may be one of the graph around it.
IDS, PAST, LOGITS = "step_ids", "step_past", "step_logits"
# Those that may be chosen.
KEPT = "kept_logits"
# Of what is computed before the loop.
ENCODE = "encode_"

# From a text to its nodes.
Parse = Callable[[str], Any]

# In the text form of ONNX. `room`: tokens of a row, prompt and new ones.
START = """
start_rows (int32[B, S] {source}) => (int32[B, 1] {prompts}, int32[B] lengths) {{
  source_rows = Shape <start = 0, end = 1> ({source})
  prompt_shape = Concat <axis = 0> (source_rows, second)
  {prompts} = Expand (start, prompt_shape)
  lengths = Expand (one, source_rows)
}}
"""
BEFORE = """
before (int32[B, prompt] {prompts}, int32[B] lengths)
  => (int64 steps, int32[B, room] ids, bool[B] done, int32[B] limit) {{
  length_column = Unsqueeze (lengths, second)
  is_prompt = Less (prompt_index, length_column)
  prompt_ids = Where (is_prompt, {prompts}, zero)
  ids = Pad (prompt_ids, padding)
  done = Less (lengths, zero)
  limit = Add (lengths, new)
  most = ReduceMax <keepdims = 0> (limit)
  last = Sub (most, one)
  steps = Cast <to = {int64}> (last)
  rows = Shape <start = 0, end = 1> ({prompts})
}}
"""
READ = """
read (int64 step, int32[B, room] old_ids) => (int32[B, 1] {ids}, int32 {past}) {{
  {past} = Cast <to = {int32}> (step)
  token = Gather <axis = 1> (old_ids, step)
  {ids} = Unsqueeze (token, second)
}}
"""
EXCLUDE = """
exclude (float[B, 1, size] {logits}) => (float[B, 1, size] {kept}) {{
  {kept} = Where (is_excluded, infinity, {logits})
}}
"""
CHOOSE = """
choose (float[B, 1, size] {kept}, int32 {past})
  => (bool go_on, int32[B, room] new_ids, bool[B] new_done, int32[B] new_length) {{
  best = ArgMax <axis = 2, keepdims = 0> ({kept})
  chosen = Cast <to = {int32}> (best)
  next = Add ({past}, one)
  is_at_end = Equal (old_length, next)
  is_going = Not (old_done)
  has_room = Less (next, limit)
  is_new_here = And (is_at_end, is_going)
  is_new = And (is_new_here, has_room)
  is_new_column = Unsqueeze (is_new, second)
  is_next = Equal (index, next)
  is_written = And (is_new_column, is_next)
  new_ids = Where (is_written, chosen, old_ids)
  added = Cast <to = {int32}> (is_new)
  new_length = Add (old_length, added)
  is_stop = Equal (chosen, stops)
  stop_number = Cast <to = {int32}> (is_stop)
  stop_count = ReduceMax <keepdims = 0> (stop_number, second)
  is_stopped = Cast <to = {bool}> (stop_count)
  is_ended = And (is_new, is_stopped)
  new_done = Or (old_done, is_ended)
  is_left = Not (new_done)
  has_left = Less (new_length, limit)
  is_open = And (is_left, has_left)
  open_number = Cast <to = {int32}> (is_open)
  open_any = ReduceMax <keepdims = 0> (open_number)
  go_on = Cast <to = {bool}> (open_any)
}}
"""
# Of a row that has not ended, where it was cut off.
FORCE_END = """
force_end (int32[B, room] left_ids, bool[B] left_done, int32[B] {lengths})
  => (int32[B, room] {sequences}) {{
  is_short = Less ({lengths}, limit)
  is_whole = Or (left_done, is_short)
  is_cut = Not (is_whole)
  is_cut_column = Unsqueeze (is_cut, second)
  last_index = Sub ({lengths}, one)
  last_column = Unsqueeze (last_index, second)
  is_last = Equal (index, last_column)
  is_forced = And (is_cut_column, is_last)
  {sequences} = Where (is_forced, forced_end, left_ids)
}}
"""


def step_names(step: Program) -> tuple[list[str], list[str]]:
    """Names of the inputs and outputs of the step, with which it is to be converted."""
    inputs = [IDS, PAST, *(_outer_name(one.name) for one in step.inputs[2:])]
    return inputs, [LOGITS, *(f"step_{name}" for name in step.outputs[1:])]


def encode_names(encode: Program) -> tuple[list[str], list[str]]:
    """As `step_names`, of what is computed before the loop."""
    outputs = [_outer_name(_past(name)) for name in encode.outputs]
    return [one.name for one in encode.inputs], outputs


def _past(output: str) -> str:
    """The input of a step that is this output of the program before it."""
    return output.replace("present", "past_key_values")


def _outer_name(name: str) -> str:
    """Of an input of the step, in its graph and, where it is the same in all steps, in
    the graph around it: a mask is an input of both."""
    mask = name.removeprefix("encoder_")
    return mask if mask == "attention_mask" else f"step_{name}"


def wrap(
    file: Path, program: Program, loop: GreedyLoop, encode: Path | None = None
) -> None:
    """Make the step in `file`, with the names of `step_names`, the program that calls
    it until every row has ended. encode: the file of `loop.encode`, with the names of
    `encode_names`. Parameters outside the file stay where they are."""
    onnx: Any = importlib.import_module("onnx")
    model = onnx.load(str(file), load_external_data=False)
    parse = partial(_parse, onnx, _names(program, loop))
    room = int(loop.step.inputs[1].below)
    nodes, initializers = [], [*model.graph.initializer]
    if encode is not None:
        part = onnx_parts.include(model, file, encode, ENCODE)
        nodes, initializers = [*part.node], [*initializers, *part.initializer]
    nodes += parse(START) if loop.start is not None else ()
    caches, empty = _empty_caches(onnx, _own_cache(loop.step))
    is_forced = loop.forced_end is not None
    sequences, lengths = program.outputs
    call = onnx.helper.make_node(
        "Loop",
        ["steps", "true", "ids", "done", "lengths", *caches],
        [
            *("left_ids" if is_forced else sequences, "left_done", lengths),
            *(f"left_{name}" for name in caches),
        ],
        body=_body(onnx, model.graph, parse, loop),
    )
    nodes += [*parse(BEFORE), *empty, call, *(parse(FORCE_END) if is_forced else ())]
    initializers += [
        onnx.numpy_helper.from_array(np.asarray(value), name)
        for name, value in _constants(room - loop.new, loop).items()
    ]
    value, kinds = onnx.helper.make_tensor_value_info, _kinds(onnx)
    inputs = [
        value(one.name, kinds["int32" if one.below else "float"], one.shape)
        for one in program.inputs
    ]
    shapes = ("B", room), ("B",)
    outputs = [
        value(name, kinds["int32"], shape)
        for name, shape in zip(program.outputs, shapes, strict=True)
    ]
    graph = onnx.helper.make_graph(nodes, program.name, inputs, outputs, initializers)
    model.graph.CopyFrom(graph)
    onnx.save_model(model, str(file))


def _names(program: Program, loop: GreedyLoop) -> dict[str, str]:
    """Those in the texts above."""
    is_start = loop.start is not None
    sequences, lengths = program.outputs
    return {
        "ids": IDS,
        "past": PAST,
        "logits": LOGITS,
        "kept": KEPT if loop.excluded else LOGITS,
        "source": program.inputs[0].name,
        "prompts": "start_ids" if is_start else program.inputs[-2].name,
        "sequences": sequences,
        "lengths": lengths,
    }


def _own_cache(step: Program) -> list[Input]:
    """The inputs of the step that are outputs of the one before."""
    names = {_past(name) for name in step.outputs[1:]}
    return [one for one in step.inputs if one.name in names]


def _kinds(onnx: Any) -> dict[str, int]:
    kinds = onnx.TensorProto
    numbers = {"int32": kinds.INT32, "int64": kinds.INT64, "float": kinds.FLOAT}
    return {**numbers, "bool": kinds.BOOL}


def _parse(onnx: Any, names: dict[str, str], text: str) -> Any:
    """The nodes that are one of the texts above."""
    return onnx.parser.parse_graph(text.format(**names, **_kinds(onnx))).node


def _body(onnx: Any, step: Any, parse: Parse, loop: GreedyLoop) -> Any:
    """The graph of one step of the loop: ids, done, length and cache, old to new. Other
    inputs of the graph `step` are those of their names in the graph around it."""
    ids, length = ("B", int(loop.step.inputs[1].below)), ("B",)
    carried = {_outer_name(one.name) for one in _own_cache(loop.step)}
    exclude = parse(EXCLUDE) if loop.excluded else ()
    value, kinds = onnx.helper.make_tensor_value_info, _kinds(onnx)
    state = ("ids", "int32", ids), ("done", "bool", length), ("length", "int32", length)
    old, new = (
        [value(f"{age}_{name}", kinds[kind], shape) for name, kind, shape in state]
        for age in ("old", "new")
    )
    head = value("step", kinds["int64"], ()), value("go", kinds["bool"], ())
    return onnx.helper.make_graph(
        [*parse(READ), *step.node, *exclude, *parse(CHOOSE)],
        "next_token",
        [*head, *old, *(one for one in step.input if one.name in carried)],
        [value("go_on", kinds["bool"], ()), *new, *step.output[1:]],
        value_info=step.value_info,
    )


def _constants(prompt: int, loop: GreedyLoop) -> dict[str, Any]:
    vocabulary = np.arange(loop.step.inputs[0].below)
    is_excluded = np.isin(vocabulary, loop.excluded)[None, None]
    excluded = {"infinity": np.float32(-np.inf), "is_excluded": is_excluded}
    tokens = {"start": loop.start, "forced_end": loop.forced_end}
    return {
        **{name: np.int32(one) for name, one in tokens.items() if one is not None},
        **(excluded if loop.excluded else {}),
        "zero": np.int32(0),
        "one": np.int32(1),
        "new": np.int32(loop.new),
        "true": np.array(True),
        "second": np.array([1], np.int64),
        "prompt_index": np.arange(prompt, dtype=np.int32)[None],
        "index": np.arange(prompt + loop.new, dtype=np.int32)[None],
        "padding": np.array([0, 0, 0, loop.new], np.int64),
        # No token is -1.
        "stops": np.array([loop.stop or [-1]], np.int32),
    }


def _empty_caches(onnx: Any, carried: Sequence[Input]) -> tuple[list[str], list[Any]]:
    """Names of zeros of the sizes of a cache, and the nodes that make them."""
    names, nodes = [], []
    zero = onnx.numpy_helper.from_array(np.zeros(1, np.float32))
    for one in carried:
        name, size = f"empty_{one.name}", [int(n) for n in one.shape[1:]]
        nodes += [
            onnx.helper.make_node("Constant", [], [f"{name}_size"], value_ints=size),
            onnx.helper.make_node(
                "Concat", ["rows", f"{name}_size"], [f"{name}_shape"], axis=0
            ),
            onnx.helper.make_node(
                "ConstantOfShape", [f"{name}_shape"], [name], value=zero
            ),
        ]
        names.append(name)
    return names, nodes
