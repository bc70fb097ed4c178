"""A run as a folder of Hugging Face (weights, configuration, tokenizer, model card), or
as a GGUF file with a model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import transformer
from transformer import checks, uploads
from transformer.interchange import folder as folder_
from transformer.interchange import (
    gguf_writer,
    model_programs,
    onnx,
    savedmodel,
    stablehlo,
)
from transformer.interchange.architecture import Architecture
from transformer.training import metrics

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
# Each has require(), which refuses where its packages are missing, write(folder,
# program), and left_out(program), why it cannot write one.
FORMATS = {"stablehlo": stablehlo, "onnx": onnx, "savedmodel": savedmodel}


class Exportable(NamedTuple):
    """What a run's parameters are of: the architecture and its sizes. companions:
    files that are copied beside them, by name. token_ids: of its configuration."""

    architecture: Architecture
    sizes: Any
    companions: Mapping[str, bytes]
    token_ids: Mapping[str, Any]


def export(
    model: Exportable,
    params: Any,
    workdir: Path,
    *,
    folder: checks.Folder | None = None,
    format: Literal[
        "huggingface", "gguf", "stablehlo", "onnx", "savedmodel"
    ] = "huggingface",
    export_dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    prompt_tokens: checks.Count = 64,
    new_tokens: checks.Count = 64,
    license: str = "",
) -> Path:
    """Write the parameters as a folder that `AutoModel` of transformers loads, or one
    with a GGUF file; print and return its path.

    Args:
        folder: the new folder; default WORKDIR/huggingface, or WORKDIR/gguf.
        format: of the weights, huggingface (safetensors) or gguf; or what the net
            computes beside safetensors, as programs that need nothing of this library
            (docs/exports.md).
        export_dtype: of all tensors, or of gguf's matrices.
        prompt_tokens: of a decoder's program of generation, at most.
        new_tokens: that it generates, at most.
        license: of the weights, for the model card, such as apache-2.0.
    """
    if folder is None:
        folder = workdir / ("gguf" if format == "gguf" else "huggingface")
    if folder.exists():
        raise ValueError(f"{folder}: expected a folder that does not exist yet")
    place = uploads.OutputFolder(folder)
    if format in FORMATS:
        FORMATS[format].require()
        if export_dtype != "float32":
            raise ValueError(
                f"--export_dtype: expected float32 for {format}, got {export_dtype}"
            )
    card = model_card(
        workdir,
        model.architecture.name(model.sizes),
        library="gguf" if format == "gguf" else "transformers",
        license=license,
    )
    files = {**model.companions, folder_.CARD: card.encode()}
    write = gguf_writer.write_folder if format == "gguf" else folder_.write_folder
    counts = write(
        place.local,
        model.architecture,
        model.sizes,
        params,
        dtypes=DTYPES[export_dtype],
        companions=files,
        token_ids=model.token_ids,
    )
    print(f"{folder}: {counts.describe(export_dtype)}")
    if format in FORMATS:
        opened = folder_.open_folder(place.local)
        write_programs(opened, format, prompt=prompt_tokens, new=new_tokens)
    place.upload()
    return folder


def write_programs(
    opened: folder_.PretrainedFolder, format: str, *, prompt: int, new: int
) -> None:
    """Write the programs of a folder of float32 into it, and print how far each is from
    the net. prompt, new: tokens of generation, at most."""
    module = FORMATS[format]
    for program in model_programs.programs(opened, prompt=prompt, new=new):
        reason = module.left_out(program)
        if reason is not None:
            print(f"{program.name}: left out, for {reason}")
            continue
        written = module.write(opened, program)
        print(
            f"{written.file}: called, differs from the net by "
            f"{written.difference:.1e} of the spread; {written.sizes}"
        )


def model_card(
    workdir: Path, name: str, *, license: str, library: str = "transformers"
) -> str:
    """README.md of a folder: where the weights come from, their data and numbers."""
    begun = (workdir / "run.json").is_file()
    values = metrics.read_flags(workdir) if begun else {}
    numbers = metrics.last_values(workdir) if begun else {}
    head = f"license: {license}" if license else "license: unknown"
    lines = ["---", head, f"library_name: {library}", "---", "", f"# {name}", ""]
    if not license:
        lines += ["The license is that of the weights that training began with.", ""]
    lines += [f"Written by transformer {transformer.__version__} (JAX, Flax).", ""]
    lines += [f"- {key}: `{value}`" for key, value in sorted(values.items())]
    if numbers:
        lines += ["", "| metric | last value |", "|---|---|"]
        lines += [f"| {key} | {value:.4g} |" for key, value in sorted(numbers.items())]
    return "\n".join(lines) + "\n"
