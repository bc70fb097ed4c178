"""Two ONNX files as one model: what both have of parameters is in it once."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Of the tensors that are outside a file: systems map whole pages.
ALIGNMENT = 1 << 16
# Bytes of a tensor, at least, that is looked for in the other file.
SHARED = 1 << 10


def include(model: Any, file: Path, part: Path, prefix: str) -> Any:
    """The graph in `part`, to be put beside that of `model`, which was read from
    `file`: all names but those of its inputs and outputs have the prefix. Parameters
    outside the file are added to those of `file`; where the model has one already, a
    node gives it the other name."""
    onnx: Any = importlib.import_module("onnx")
    other = onnx.load(str(part), load_external_data=False)
    ends: Any = {"rename_inputs": False, "rename_outputs": False}
    onnx.compose.add_prefix(other, prefix, inplace=True, **ends)
    known = {one.domain for one in model.opset_import}
    model.opset_import.extend(o for o in other.opset_import if o.domain not in known)
    kept, shared = _split(onnx, model.graph.initializer, other.graph.initializer, part)
    _move(onnx, kept, part, file)
    return onnx.helper.make_graph(
        [*shared, *other.graph.node],
        other.graph.name,
        other.graph.input,
        other.graph.output,
        kept,
    )


def _split(
    onnx: Any, first: Iterable[Any], second: Iterable[Any], part: Path
) -> tuple[list[Any], list[Any]]:
    """The tensors of the second that the first has not, and nodes that give the others
    from those of the first."""
    folder = str(part.parent)

    def content(tensor: Any) -> Any:
        array = onnx.numpy_helper.to_array(tensor, folder)
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        return (array.shape, str(array.dtype), digest), array.nbytes

    names = {}
    for tensor in first:
        key, size = content(tensor)
        if size >= SHARED:
            names.setdefault(key, tensor.name)
    kept, nodes = [], []
    for tensor in second:
        name = names.get(content(tensor)[0])
        if name is None:
            kept.append(tensor)
        else:
            nodes.append(onnx.helper.make_node("Identity", [name], [tensor.name]))
    return kept, nodes


def _move(onnx: Any, tensors: Iterable[Any], part: Path, file: Path) -> None:
    """Append what the tensors have outside `part` to what `file` has outside."""
    outside = onnx.TensorProto.EXTERNAL
    target = file.with_name(f"{file.name}.data")
    for tensor in tensors:
        if tensor.data_location != outside:
            continue
        place = {one.key: one.value for one in tensor.external_data}
        with open(part.parent / place["location"], "rb") as source:
            source.seek(int(place.get("offset", 0)))
            data = source.read(int(place["length"]))
        with open(target, "ab") as written:
            written.write(bytes(-written.tell() % ALIGNMENT))
            offset = written.tell()
            written.write(data)
        del tensor.external_data[:]
        values = {"location": target.name, "offset": offset, "length": len(data)}
        for key, value in values.items():
            tensor.external_data.add(key=key, value=str(value))
