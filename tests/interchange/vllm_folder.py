"""What vLLM reads of a folder before it runs: names, dtype, ties, files. Its registry
is frozen (make_vllm_fixture.py); vLLM itself is not run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers

from transformer.interchange import tensor_files

REGISTRY = Path(__file__).parent / "fixtures" / "vllm.json"
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
READOUTS = ("lm_head.weight", "embed_out.weight")
LENGTHS = ("max_position_embeddings", "n_positions")
INDEX = "model.safetensors.index.json"


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def check(folder: Path) -> None:
    """Assert that the folder has all that a decoder needs there."""
    registry, config = read(REGISTRY), read(folder / "config.json")
    (architecture,) = config["architectures"]
    assert architecture in registry["own"] + registry["transformers"]
    assert config["model_type"]
    assert sum(key in config for key in LENGTHS) == 1
    tensors = tensor_files.open_tensors(folder)
    assert {tensor.dtype for tensor in tensors.values()} == {
        DTYPES[config["torch_dtype"]]
    }
    # Where the embedding is tied, a readout in the file would be taken for another one.
    assert config["tie_word_embeddings"] is not any(one in tensors for one in READOUTS)
    check_files(folder, set(tensors))
    check_tokenizer(folder, config)


def check_files(folder: Path, names: set[str]) -> None:
    """All that ends in .safetensors is read: each tensor once, in the index's files."""
    files = {file.name for file in folder.glob("*.safetensors")}
    assert not [*folder.glob("*.bin"), *folder.glob("*.pt")]
    if (folder / INDEX).is_file():
        placed = read(folder / INDEX)["weight_map"]
        assert placed.keys() == names and set(placed.values()) == files
    else:
        assert files == {"model.safetensors"}


def check_tokenizer(folder: Path, config: dict[str, Any]) -> None:
    """Its ends come from generation_config.json or config.json, and the main one from
    tokenizer_config.json."""
    made = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert made.get_vocab_size() <= config["vocab_size"]
    settings = read(folder / "tokenizer_config.json")
    assert settings["tokenizer_class"]
    file = folder / "generation_config.json"
    found = (read(file) if file.is_file() else config)["eos_token_id"]
    ends = found if isinstance(found, list) else [found]
    assert all(0 <= end < config["vocab_size"] for end in ends)
    assert made.token_to_id(settings["eos_token"]) in ends
