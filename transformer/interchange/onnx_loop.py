"""Greedy generation as one ONNX graph: the step that jax2onnx has converted is the body
of a `Loop`, whose first cache is made in the file.

The tokens of the prompts are read one at a time, as those that follow: so all rows have
as many tokens in the cache, and a shorter prompt is continued while longer ones are
read.
"""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from transformer.interchange.programs import GreedyLoop, Program

# Of the step that is the body. No name of a graph may be one of the graph around it.
IDS, PAST, LOGITS = "step_ids", "step_past", "step_logits"

Shape = tuple[str | int, ...]

# In the text form of ONNX. `room`: tokens of a row, prompt and new ones.
BEFORE = """
before (int32[B, prompt] input_ids, int32[B] lengths)
  => (int64 steps, int32[B, room] ids, bool[B] done, int32[B] limit) {{
  length_column = Unsqueeze (lengths, second)
  is_prompt = Less (prompt_index, length_column)
  prompt_ids = Where (is_prompt, input_ids, zero)
  ids = Pad (prompt_ids, padding)
  done = Less (lengths, zero)
  limit = Add (lengths, new)
  most = ReduceMax <keepdims = 0> (limit)
  last = Sub (most, one)
  steps = Cast <to = {int64}> (last)
  rows = Shape <start = 0, end = 1> (input_ids)
}}
"""
READ = """
read (int64 step, int32[B, room] old_ids) => (int32[B, 1] {ids}, int32 {past}) {{
  {past} = Cast <to = {int32}> (step)
  token = Gather <axis = 1> (old_ids, step)
  {ids} = Unsqueeze (token, second)
}}
"""
CHOOSE = """
choose (float[B, 1, size] {logits}, int32 {past})
  => (bool go_on, int32[B, room] new_ids, bool[B] new_done, int32[B] new_length) {{
  best = ArgMax <axis = 2, keepdims = 0> ({logits})
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


def step_names(step: Program) -> tuple[list[str], list[str]]:
    """Names of the inputs and outputs of the step, with which it is to be converted."""
    inputs = [IDS, PAST, *(f"step_{one.name}" for one in step.inputs[2:])]
    return inputs, [LOGITS, *(f"step_{name}" for name in step.outputs[1:])]


def wrap(file: Path, program: Program, loop: GreedyLoop) -> None:
    """Make the step in `file`, with the names of `step_names`, the program that calls
    it until every row has ended. Parameters outside the file stay where they are."""
    onnx: Any = importlib.import_module("onnx")
    model = onnx.load(str(file), load_external_data=False)
    prompt = int(program.inputs[0].shape[1])
    shapes = ("B", prompt + loop.new), ("B",)
    constants = [
        onnx.numpy_helper.from_array(np.asarray(value), name)
        for name, value in _constants(prompt, loop).items()
    ]
    caches, nodes = _empty_caches(onnx, loop.step)
    left = ["left_done", *(f"left_{name}" for name in caches)]
    sequences, new_lengths = program.outputs
    call = onnx.helper.make_node(
        "Loop",
        ["steps", "true", "ids", "done", "lengths", *caches],
        [sequences, left[0], new_lengths, *left[1:]],
        body=_body(onnx, model.graph, *shapes),
    )
    integers = partial(
        onnx.helper.make_tensor_value_info, elem_type=_kinds(onnx)["int32"]
    )
    graph = onnx.helper.make_graph(
        [*_parse(onnx, BEFORE).node, *nodes, call],
        program.name,
        [integers(one.name, shape=one.shape) for one in program.inputs],
        [
            integers(name, shape=shape)
            for name, shape in zip(program.outputs, shapes, strict=True)
        ],
        [*model.graph.initializer, *constants],
    )
    model.graph.CopyFrom(graph)
    onnx.save_model(model, str(file))


def _kinds(onnx: Any) -> dict[str, int]:
    kinds = onnx.TensorProto
    return {"int32": kinds.INT32, "int64": kinds.INT64, "bool": kinds.BOOL}


def _parse(onnx: Any, text: str) -> Any:
    """The graph that is one of the texts above."""
    names = {"ids": IDS, "past": PAST, "logits": LOGITS}
    return onnx.parser.parse_graph(text.format(**names, **_kinds(onnx)))


def _body(onnx: Any, step: Any, ids: Shape, length: Shape) -> Any:
    """The graph of one step of the loop: ids, done, length and cache, old to new."""
    value, kinds = onnx.helper.make_tensor_value_info, _kinds(onnx)
    state = ("ids", "int32", ids), ("done", "bool", length), ("length", "int32", length)
    old, new = (
        [value(f"{age}_{name}", kinds[kind], shape) for name, kind, shape in state]
        for age in ("old", "new")
    )
    head = value("step", kinds["int64"], ()), value("go", kinds["bool"], ())
    return onnx.helper.make_graph(
        [*_parse(onnx, READ).node, *step.node, *_parse(onnx, CHOOSE).node],
        "next_token",
        [*head, *old, *step.input[2:]],
        [value("go_on", kinds["bool"], ()), *new, *step.output[1:]],
        value_info=step.value_info,
    )


def _constants(prompt: int, loop: GreedyLoop) -> dict[str, Any]:
    return {
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


def _empty_caches(onnx: Any, step: Program) -> tuple[list[str], list[Any]]:
    """Names of zeros of the sizes of the step's cache, and the nodes that make them."""
    names, nodes = [], []
    zero = onnx.numpy_helper.from_array(np.zeros(1, np.float32))
    for one in step.inputs[2:]:
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
