"""What a folder says of generation: generation_config.json before config.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformer.interchange import tensor_files

FILE, OLD_FILE = "generation_config.json", "config.json"
# Searches and penalties that are not here, and the values at which they do nothing.
NOT_FOLLOWED: dict[str, Any] = {
    "num_beams": 1,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "min_length": 0,
    "min_new_tokens": 0,
}


def read(folder: Path) -> dict[str, Any]:
    """The keys of both files, which `generate` of transformers reads. Says in one line
    which of them are not followed here."""
    values: dict[str, Any] = tensor_files.read_json_file(folder / OLD_FILE)
    if (folder / FILE).is_file():
        values |= tensor_files.read_json_file(folder / FILE)
    asked = [
        f"{key} = {str(values[key])[:60]}"
        for key, nothing in NOT_FOLLOWED.items()
        if values.get(key) not in (None, nothing)
    ]
    if asked:
        print(
            f"{folder}: {', '.join(asked)}: not followed; each token is chosen from "
            "the probabilities of the net alone",
            flush=True,
        )
    return values
