"""A model as a GGUF file: the inverse of `gguf_folder` and `gguf_model`.

The `gguf` package (extra `gguf`) writes the container. Metadata and layouts are those
of llama.cpp (convert_hf_to_gguf.py); norms and other vectors, and learned positions,
are float32 there and here.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from transformer import storage
from transformer.interchange import (
    chat_template,
    gguf_model,
    gguf_tokenizer,
    table,
    tensor_files,
    tokenizer,
    weights,
)
from transformer.interchange import folder as folder_
from transformer.interchange.architecture import Architecture
from transformer.interchange.tensor_files import PlannedTensor

FILE = "model.gguf"
QUANTIZATION_VERSION = 2
# Codes of `general.file_type`: what most matrices are.
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}
POSITIONS = "position_embd.weight"


def require() -> None:
    """ValueError where the package is missing."""
    try:
        importlib.import_module("gguf")
    except ImportError:
        raise ValueError(
            "--format=gguf: expected the package gguf, got none; pip install -e "
            "'.[gguf]'"
        ) from None


def write_folder(
    folder: Path,
    kind: Architecture,
    sizes: Any,
    params: Any,
    *,
    dtypes: str = "F32",
    companions: Mapping[str, bytes] = {},
    token_ids: Mapping[str, Any] = {},
) -> weights.CastCounts:
    """Write parameters of the architecture as a new folder with `FILE` and the model
    card, one tensor in memory at a time; returns what was cast. Arguments are those of
    `folder.write_folder`. ValueError, in one line, for what the format does not
    express, and where `folder` exists."""
    require()
    described = gguf_model.metadata_of(kind, sizes)
    bindings = table.bind(gguf_model.table(kind, sizes), params)
    values = {
        **described.values,
        "general.type": "model",
        "general.name": kind.name(sizes),
        "general.file_type": FILE_TYPES[dtypes],
        "general.quantization_version": QUANTIZATION_VERSION,
        **_tokenizer_metadata(companions, token_ids, sizes.vocab_size),
    }
    vectors = {b.name for b in bindings if len(b.shape) < 2 or b.name == POSITIONS}
    by_name = {b.name: "F32" if b.name in vectors else dtypes for b in bindings}
    counts = weights.CastCounts()
    planned = weights.plan(bindings, params, by_name, counts)
    extra = [_plan_array(name, array) for name, array in described.tensors.items()]
    with tensor_files.new_folder(folder) as partial:
        with storage.name_os_errors(partial / FILE):
            _write_container(partial / FILE, values, [*extra, *planned])
        if folder_.CARD in companions:
            storage.commit(partial / folder_.CARD, companions[folder_.CARD])
    return counts


def _plan_array(name: str, array: np.ndarray) -> PlannedTensor:
    return PlannedTensor(name, array.shape, array.dtype, array.nbytes, lambda: array)


def _tokenizer_metadata(
    companions: Mapping[str, bytes], token_ids: Mapping[str, Any], rows: int
) -> dict[str, Any]:
    """The tokenizer, the special tokens and the chat template."""
    settings, generation = (
        json.loads(companions.get(name, b"{}"))
        for name in (chat_template.SETTINGS, tokenizer.END_FILES[0])
    )
    main, other = tokenizer.END_FILES
    ends = tokenizer.ends_of(generation, where=main)
    ends = ends or tokenizer.ends_of(token_ids, where=other)
    ids: dict[str, int] = dict(zip(gguf_tokenizer.ENDS, ends, strict=False))
    if left_out := ends[len(gguf_tokenizer.ENDS) :]:
        print(f"eos_token_id: {list(left_out)} are left out: a file has three ends")
    for name, key in (("bos_token_id", "bos"), ("pad_token_id", "padding")):
        if type(token_ids.get(name)) is int:
            ids[key] = token_ids[name]
    text = companions.get(tokenizer.FILE)
    if text is None:
        print(f"no {tokenizer.FILE}: the file has no tokenizer")
        return gguf_tokenizer.id_keys(ids, rows) | {gguf_tokenizer.MODEL: "none"}
    made = gguf_tokenizer.metadata_of(text.decode(), settings, ids, rows=rows)
    template = chat_template.find_template(settings, companions.get(chat_template.FILE))
    return made | ({} if template is None else {"tokenizer.chat_template": template})


def _write_container(
    file: Path, values: Mapping[str, Any], tensors: list[PlannedTensor]
) -> None:
    gguf = importlib.import_module("gguf")
    codes = {
        np.dtype(tensor_files.DTYPES[name]): gguf.GGMLQuantizationType[name]
        for name in FILE_TYPES
    }
    writer = gguf.GGUFWriter(file, values["general.architecture"])
    add = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    for key, value in values.items():
        if key != "general.architecture":
            add[type(value)](key, value)
    for one in tensors:
        code = codes[np.dtype(one.dtype)]
        writer.add_tensor_info(one.name, one.shape, one.dtype, one.size, code)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for one in tensors:
            writer.write_tensor_data(np.ascontiguousarray(one.make()))
    finally:
        writer.close()
