"""A GGUF file as a folder of Hugging Face: the small files beside the weights, made
from its metadata, and its tensors."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from transformer import remote_data, storage
from transformer.interchange import gguf_file, gguf_model, gguf_tokenizer
from transformer.interchange.config import Reader
from transformer.interchange.gguf_file import GgufHeader, GgufTensor

# Of what is made from a header.
VERSION = "2"
CONFIG = "config.json"
TEMPLATE = "chat_template.jinja"
PREFIX = "tokenizer."


def find(path: Path) -> Path | None:
    """The GGUF file that `path` is or, where it has no config.json, that it holds;
    None where there is none. ValueError where it holds several."""
    if path.suffix == gguf_file.SUFFIX and path.is_file():
        return path
    if not path.is_dir() or (path / CONFIG).exists():
        return None
    found = sorted(path.glob(f"*{gguf_file.SUFFIX}"))
    if len(found) > 1:
        names = ", ".join(one.name for one in found[:3])
        raise ValueError(
            f"{path}: expected one {gguf_file.SUFFIX}, got {len(found)} ({names}); "
            "name the file"
        )
    return found[0] if found else None


def resolve(path: Path) -> Path:
    """The folder of a model's small files: `path`, or that made from a GGUF file, in
    the cache; of one in an object store a local copy. ValueError as
    `gguf_model.config_of` and for an unknown tokenizer."""
    path = remote_data.model_copy(path)
    file = find(path)
    if file is None:
        return path
    status = file.stat()
    return _resolve(file.absolute(), status.st_mtime_ns, status.st_size)


@functools.lru_cache(8)
def _resolve(file: Path, changed: int, size: int) -> Path:
    header = gguf_file.read_header(file)
    files = small_files(header, file)
    key = storage.short_hash(VERSION, json.dumps(files, sort_keys=True))

    def write(folder: Path) -> None:
        for name, text in files.items():
            (folder / name).write_bytes(text.encode())

    return storage.cached_folder(f"gguf/{key}", write)


def open_tensors(file: Path) -> dict[str, GgufTensor]:
    """The tensors of a file, by name."""
    return gguf_file.read_header(file).tensors


def small_files(header: GgufHeader, file: Path) -> dict[str, str]:
    """The configuration, the tokenizer and the chat template of a file, by name."""
    config = gguf_model.config_of(header, file)
    files = {CONFIG: json.dumps(config, indent=2, sort_keys=True)}
    values = {k: v for k, v in header.metadata.items() if k.startswith(PREFIX)}
    reader = Reader(values, str(file))
    if reader.get(gguf_tokenizer.MODEL, "no_vocab") in ("no_vocab", "none"):
        return files
    files |= gguf_tokenizer.files_of(reader, config["vocab_size"])
    named = {k for k in values if k.startswith("tokenizer.chat_template")}
    template = reader.get("tokenizer.chat_template", None)
    if isinstance(template, str):
        files[TEMPLATE] = template
    # The others are for other purposes, such as tools; they are not used.
    reader.finish(gguf_tokenizer.HARMLESS | named | {"tokenizer.chat_templates"})
    return files
