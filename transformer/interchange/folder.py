"""A folder of Hugging Face, or a GGUF file, as a value, read and written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from transformer import axes, checks, remote_data, storage
from transformer.interchange import (
    architecture,
    gguf_folder,
    gguf_model,
    other_files,
    table,
    tensor_files,
    tokenizer_conversion,
    weights,
)
from transformer.interchange.architecture import Architecture
from transformer.interchange.config import Reader

CONFIG, CARD = "config.json", "README.md"
# Of the library peft.
ADAPTER = "adapter_config.json"
# Of generation, beside the ids of tokens.
GENERATION_KEYS = (
    *("suppress_tokens", "begin_suppress_tokens", "forced_decoder_ids"),
    *("bad_words_ids", "max_length", "num_beams"),
)
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
# Copied byte for byte, where they are there.
COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    # Of Marian.
    *("source.spm", "target.spm", "vocab.json"),
    "preprocessor_config.json",
    # Of sentence-transformers.
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)


class PretrainedFolder(NamedTuple):
    """The net of a folder and the tensors that have its parameters.

    sizes: what the configuration says, by `architecture`. tensors: by name, not read
    yet. bindings: which of them holds which parameter.
    """

    folder: Path
    architecture: Architecture
    sizes: Any
    net: Any
    tensors: Mapping[str, tensor_files.StoredTensor]
    bindings: list[table.Binding]
    abstract_params: Any

    def read_params(self, mesh: Mesh | None = None, dtype: Any = jnp.float32) -> Any:
        """The parameters, sharded over `mesh` (one device if None) by their names."""

        def leaf(shape: Any, sharding: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape.shape, dtype, sharding=sharding)

        mesh = axes.make_mesh(devices=jax.local_devices()[:1]) if mesh is None else mesh
        placed = axes.shardings(mesh, self.abstract_params)
        abstract = jax.tree.map(leaf, self.abstract_params, placed)
        return weights.read(self.bindings, self.tensors, abstract)


def find(workdir: Path | None, init_from: Path | None) -> Path:
    """Where the configuration and the tokenizer of a run are: in its folder, once it
    has begun, before in that which it starts from, or in what a GGUF file is made into.
    ValueError for neither."""
    for place in (workdir, init_from):
        if place is not None:
            _refuse_adapter(place)
        found = place and gguf_folder.resolve(place)
        if found is not None and checks.regular_file(found / CONFIG).exists():
            return found
    found = init_from and other_files.configuration(gguf_folder.resolve(init_from))
    found = f"{init_from}, {found}" if found else init_from
    raise ValueError(f"--init_from: expected a folder with {CONFIG}, got {found}")


def _refuse_adapter(folder: Path) -> None:
    """ValueError for a folder of an adapter, whatever is beside it."""
    if (folder / ADAPTER).exists():
        raise ValueError(
            f"{folder}: expected the weights of a whole model, got an adapter "
            f"({ADAPTER}), which changes those of another; merge them first: "
            "PeftModel.from_pretrained(model, folder).merge_and_unload()"
        )


def read_config(folder: Path) -> tuple[Architecture, Any]:
    """The architecture of a folder, or a GGUF file, and its sizes, for which the names
    of tensors are read where no configuration says it. ValueError, in one line, for a
    configuration that the net does not express."""
    folder = gguf_folder.resolve(folder)
    file = folder / CONFIG
    for name in (CONFIG, *COMPANIONS):
        checks.regular_file(folder / name)
    _refuse_adapter(folder)
    if not file.exists():
        found = other_files.configuration(folder) or "none"
        raise ValueError(f"{folder}: expected a folder with {CONFIG}, got {found}")
    values = tensor_files.read_json_file(file)
    made = architecture.find_of(values, str(file))
    config = Reader(values, str(file))
    sizes = made.read(config)
    config.finish()
    stem = made.format.stem
    if made.fit is not None and tensor_files.has_tensors(folder, stem):
        sizes = made.fit(sizes, tensor_files.open_tensors(folder, stem).keys())
    return made, sizes


def config_bytes(folder: Path, kind: Architecture, sizes: Any) -> bytes:
    """The configuration of a folder of these sizes, from which alone they are read
    again: that of the folder, unless its tensors say more."""
    values = tensor_files.read_json_file(folder / CONFIG)
    if kind.read(Reader(values, str(folder / CONFIG))) == sizes:
        return (folder / CONFIG).read_bytes()
    values = {**_token_ids(values), **kind.write(sizes)}
    return json.dumps(values, indent=2, sort_keys=True).encode()


def _open_tensors(
    folder: Path, architecture_: Architecture
) -> Mapping[str, tensor_files.StoredTensor]:
    if file := gguf_folder.find(folder):
        return gguf_folder.open_tensors(file)
    return tensor_files.open_tensors(folder, architecture_.format.stem)


def _check_counts(
    sizes: Any, tensors: Mapping[str, tensor_files.StoredTensor], folder: Path
) -> None:
    """ValueError for more layers than tensors, and more experts than the largest axis
    of one: a net of as many would take time and memory before it is refused."""
    largest = max((n for one in tensors.values() for n in one.shape), default=0)
    most = {"depth": len(tensors), "decoder_depth": len(tensors), "experts": largest}
    for name, value in sizes._asdict().items():
        if hasattr(value, "_asdict"):
            _check_counts(value, tensors, folder)
        elif name in most and value > most[name]:
            raise ValueError(
                f"{folder / CONFIG}: {name}: expected at most {most[name]}, as the "
                f"tensors say, got {value}"
            )


def open_folder(folder: Path | str, **changes: Any) -> PretrainedFolder:
    """The net and the tensors of a folder with `config.json` and safetensors, or of a
    GGUF file; reads no weights. changes: of the sizes, such as `scanned=True`.

    ValueError, in one line, for a configuration that the net does not express, and
    unless the tensors are exactly those of the architecture.
    """
    folder = remote_data.model_copy(checks.parse_path(folder))
    made, sizes = read_config(folder)
    sizes = sizes._replace(**changes)
    tensors = _open_tensors(folder, made)
    _check_counts(sizes, tensors, folder)
    net, rules = made.net(sizes), made.table(sizes)
    if gguf_folder.find(folder):
        rules = gguf_model.table(made, sizes)
    abstract = jax.eval_shape(lambda: made.init(net, jax.random.key(0)))
    bindings = table.bind(rules, abstract)
    tensors = table.rename(rules, tensors)
    weights.check(bindings, rules, tensors)
    for reason, count in table.count_left_out(rules, tensors).items():
        print(f"{folder}: {count} tensors are left out: {reason}", flush=True)
    for note in made.notes(sizes):
        print(f"{folder}: {note}", flush=True)
    return PretrainedFolder(folder, made, sizes, net, tensors, bindings, abstract)


def write_folder(
    folder: Path,
    kind: Architecture,
    sizes: Any,
    params: Any,
    *,
    dtypes: Mapping[str, str] | str = "F32",
    companions: Mapping[str, bytes] = {},
    token_ids: Mapping[str, Any] = {},
    max_shard_bytes: int = tensor_files.MAX_SHARD_BYTES,
) -> weights.CastCounts:
    """Write parameters of the architecture as a folder of Hugging Face, whole or not at
    all; returns what was cast. dtypes: of each tensor by name, or of all. companions:
    other files, by name. token_ids: as `read_token_ids`. ValueError where `folder`
    exists, and for numbers that are too large for a dtype."""
    bindings = table.bind(kind.table(sizes), params)
    if isinstance(dtypes, str):
        dtypes = dict.fromkeys((b.name for b in bindings), dtypes)
    counts = weights.CastCounts()
    planned = weights.plan(bindings, params, dtypes, counts)
    config = dict(kind.write(sizes))
    if kind.format.common_keys:
        # Null where there is none: classes have defaults beyond the vocabulary.
        tokens = {**dict.fromkeys(TOKEN_IDS), **_flatten(token_ids, config)}
        first = dtypes[bindings[0].name]
        # Those that the net depends on are in its sizes (RoBERTa's padding).
        config = _merge(tokens, {**config, "torch_dtype": _TORCH[first]})
    shards = {"stem": kind.format.stem, "max_shard_bytes": max_shard_bytes}
    with tensor_files.new_folder(folder) as partial:
        tensor_files.write_tensors(partial, planned, **shards)
        storage.commit_files(partial, companions)
        text = json.dumps(config, indent=2, sort_keys=True)
        storage.commit(partial / CONFIG, text.encode())
    return counts


_TORCH = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def read_token_ids(folder: Path) -> dict[str, Any]:
    """The token ids of a folder's configuration (`eos_token_id`, `suppress_tokens`) and
    `GENERATION_KEYS`; those of a part, such as `text_config`, in a dictionary of that
    name."""
    folder = gguf_folder.resolve(folder)
    return _token_ids(tensor_files.read_json_file(folder / CONFIG))


def _token_ids(config: Mapping[str, Any]) -> dict[str, Any]:
    names = [
        key for key in config if key.endswith("_token_id") or key in GENERATION_KEYS
    ]
    found = {key: config[key] for key in names}
    parts = {
        k: _token_ids(part) for k, part in config.items() if isinstance(part, dict)
    }
    return found | {key: part for key, part in parts.items() if part}


def _flatten(ids: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """`ids`, with those of a part that `config` has not, such as the `text_config` of a
    model whose text alone is written, among the others; these go before them."""
    parts = {k: v for k, v in ids.items() if isinstance(v, dict) and k not in config}
    inner = {key: one for part in parts.values() for key, one in part.items()}
    return inner | {k: v for k, v in ids.items() if k not in parts}


def _merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Both dictionaries, and the second's value where both have one."""
    inner = {k for k in first.keys() & second.keys() if isinstance(first[k], dict)}
    return {**first, **second, **{k: _merge(first[k], second[k]) for k in inner}}


def companions_of(folder: Path) -> dict[str, bytes]:
    """The tokenizer and other files beside the weights, byte for byte; a tokenizer.json
    made from older files where there is none."""
    folder = gguf_folder.resolve(folder)
    found = {
        name: tokenizer_conversion.read_bytes(
            folder / name, tokenizer_conversion.MAX_FILE_BYTES
        )
        for name in COMPANIONS
        if (folder / name).is_file()
    }
    if tokenizer_conversion.FILE not in found:
        made = tokenizer_conversion.read(folder)
        found |= {} if made is None else {tokenizer_conversion.FILE: made.encode()}
    return found
