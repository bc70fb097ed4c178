"""What a folder has in the place of what is read, and what to do, for one line of an
error."""

from __future__ import annotations

import re
from pathlib import Path

# Formats of other libraries, by the end of a file's name.
TRUSTED = "AutoModel.from_pretrained(folder{}).save_pretrained(other_folder)"
RUNS_CODE = (
    "a format that may run code when it is read; convert it where you trust it: "
    + TRUSTED.format("")
)
FORMATS = {
    ".gguf": "a GGUF file; give its path instead of the folder",
    ".msgpack": "weights of Flax; convert them with transformers 4: "
    + TRUSTED.format(", from_flax=True"),
    ".h5": "weights of TensorFlow; convert them with transformers 4: "
    + TRUSTED.format(", from_tf=True"),
    ".onnx": "a program without names of weights; fetch the safetensors of this model",
    **dict.fromkeys((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"), RUNS_CODE),
}
CONSOLIDATED = (
    "weights with the names of their authors' own code; fetch model*.safetensors, the "
    "files of transformers, of the same model"
)
PIPELINE = "model_index.json"


def weights(folder: Path, stem: str) -> str | None:
    """What a folder without `stem`.safetensors has for weights; None where there is
    nothing that is known."""
    names = sorted(one.name for one in folder.iterdir() if not one.is_dir())
    single = f"{stem}.safetensors"
    for name in (single, f"{single}.index.json"):
        if (folder / name).is_symlink():
            return f"{name}, a link to nothing: a download that did not end"
    variant = rf"{re.escape(stem)}\.(\w+)(-\d+-of-\d+)?\.safetensors"
    for name in names:
        if found := re.fullmatch(variant, name):
            return (
                f"{name}, the variant {found[1]!r}; load it where transformers or "
                f'diffusers is, variant="{found[1]}", and save_pretrained(other_folder)'
                + ("" if found[2] else f", or rename it to {single}")
            )
    for name in names:
        if re.fullmatch(rf"{re.escape(stem)}-\d+-of-\d+\.safetensors", name):
            return f"{name} without {single}.index.json; fetch that too"
    for name in names:
        if name.startswith("consolidated."):
            return f"{name}, {CONSOLIDATED}"
    for suffix, what in FORMATS.items():
        for name in names:
            if name.endswith(suffix) and not name.startswith("training_args"):
                return f"{name}, {what}"
    others = [name for name in names if name.endswith(".safetensors")]
    return f"{others[0]}, which is of another library or part" if others else None


def configuration(folder: Path) -> str | None:
    """What a folder without config.json is; None where that is not known."""
    if (folder / "config.json").is_symlink():
        return "a link to nothing: a download that did not end"
    if not (folder / PIPELINE).is_file():
        return None
    parts = sorted(one.parent.name for one in folder.glob("*/config.json"))
    return f"a pipeline of diffusers; give one of its folders: {', '.join(parts[:8])}"
