"""A run as a folder of Hugging Face: weights, configuration, tokenizer, model card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import transformer
from transformer.interchange import folder as folder_
from transformer.interchange import stablehlo, table
from transformer.interchange.architecture import Architecture
from transformer.training import metrics

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
CARD = "README.md"


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
    folder: Path | None = None,
    format: Literal["huggingface", "stablehlo"] = "huggingface",
    export_dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    license: str = "",
) -> Path:
    """Write the parameters as a folder that `AutoModel` of transformers loads; print
    and return its path.

    Args:
        folder: the new folder; default WORKDIR/huggingface.
        format: stablehlo adds the forward pass as a program (interchange/stablehlo.py).
        export_dtype: of all tensors.
        license: of the weights, for the model card, such as apache-2.0.
    """
    folder = workdir / "huggingface" if folder is None else folder
    if format == "stablehlo" and export_dtype != "float32":
        raise ValueError(
            f"--export_dtype: expected float32 for stablehlo, got {export_dtype}"
        )
    made, sizes, companions, token_ids = model
    bindings = table.bind(made.table(sizes), params)
    card = model_card(workdir, made.name(sizes), license=license)
    folder_.write_folder(
        folder,
        made,
        sizes,
        params,
        dtypes=DTYPES[export_dtype],
        companions={**companions, CARD: card.encode()},
        token_ids=token_ids,
    )
    count = sum(math.prod(binding.shape) for binding in bindings)
    print(f"{folder}: {len(bindings)} tensors, {count:,} numbers of {export_dtype}")
    if format == "stablehlo":
        difference = stablehlo.write(folder_.open_folder(folder))
        print(
            f"{folder / stablehlo.FILE}: called, its logits differ by {difference:.1e} "
            "of their spread"
        )
    return folder


def model_card(workdir: Path, name: str, *, license: str) -> str:
    """README.md of a folder: where the weights come from, their data and numbers."""
    begun = (workdir / "run.json").is_file()
    values = metrics.read_flags(workdir) if begun else {}
    numbers = metrics.last_values(workdir) if begun else {}
    head = f"license: {license}" if license else "license: unknown"
    lines = ["---", head, "library_name: transformers", "---", "", f"# {name}", ""]
    if not license:
        lines += ["The license is that of the weights that training began with.", ""]
    lines += [f"Written by transformer {transformer.__version__} (JAX, Flax).", ""]
    lines += [f"- {key}: `{value}`" for key, value in sorted(values.items())]
    if numbers:
        lines += ["", "| metric | last value |", "|---|---|"]
        lines += [f"| {key} | {value:.4g} |" for key, value in sorted(numbers.items())]
    return "\n".join(lines) + "\n"
