"""Folders in names of tensors that the classes of transformers do not write."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from transformer.interchange import folder, tensor_files
from transformer.training.checksum import leaf_paths

FIXTURES = Path(__file__).parent / "fixtures"


def renamed(name: str, path: Path, rename: Callable[[str], str], **extra: Any) -> Path:
    """The fixture with other names of tensors, and others beside them."""
    shutil.copytree(FIXTURES / name, path)
    file = path / tensor_files.SINGLE
    tensors = safetensors.numpy.load_file(file)
    tensors = {rename(key): value for key, value in tensors.items()}
    safetensors.numpy.save_file({**tensors, **extra}, file)
    return path


def check_equal(path: Path, name: str) -> None:
    """Both folders hold the same parameters."""
    found = leaf_paths(folder.open_folder(path).read_params())
    expected = leaf_paths(folder.open_folder(FIXTURES / name).read_params())
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value)


# The prefix that files of the class without a readout leave out.
PREFIXES = {
    "gpt2": "transformer.",
    "gpt_neox": "gpt_neox.",
    "llama": "model.",
    "qwen3": "model.",
    "gemma3": "model.",
    "mixtral": "model.",
    "gpt_oss": "model.",
}


@pytest.mark.parametrize("name", PREFIXES)
def test_a_decoder_is_read_without_its_prefix(name: str, tmp_path: Path) -> None:
    """As the published GPT-2 and Qwen 3 Embedding are."""
    prefix = PREFIXES[name]
    masks = {"h.0.attn.bias": np.ones((1, 1, 4, 4), np.float32)}
    extra = masks if name == "gpt2" else {}
    path = renamed(name, tmp_path / "a", lambda key: key.removeprefix(prefix), **extra)
    check_equal(path, name)


def test_what_is_left_over_keeps_its_name(tmp_path: Path) -> None:
    one = np.zeros(3, np.float32)
    path = renamed("gpt2", tmp_path / "a", str, extra=one)
    with pytest.raises(ValueError, match="left over: extra$"):
        folder.open_folder(path)


IMAGES = {
    "vision_tower.vision_model.post_layernorm.bias": np.zeros(3, np.float32),
    "multi_modal_projector.mm_soft_emb_norm.weight": np.zeros(3, np.float32),
}


@pytest.mark.parametrize("prefix", ["", "model."])
def test_gemma_3_with_images_is_read_as_its_decoder(
    prefix: str, tmp_path: Path, capsys: Any
) -> None:
    """Of the hub's names and of those in memory; what reads images is counted. An
    export is one of the decoder, with the ends that the part had."""

    def rename(key: str) -> str:
        inner = key.removeprefix("model.")
        return f"model.language_model.{inner}" if prefix else f"language_model.{key}"

    extra = {prefix + key: value for key, value in IMAGES.items()}
    path = renamed("gemma3", tmp_path / "a", rename, **extra)
    inner = json.loads((path / folder.CONFIG).read_text())
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "boi_token_index": 5,
        "mm_tokens_per_image": 4,
        "model_type": "gemma3",
        "text_config": {k: v for k, v in inner.items() if k != "architectures"},
        "vision_config": {"hidden_size": 12},
    }
    (path / folder.CONFIG).write_text(json.dumps(config))
    check_equal(path, "gemma3")
    assert "2 tensors are left out: they read images" in capsys.readouterr().out
    opened = folder.open_folder(path)
    made = opened.architecture, opened.sizes, opened.read_params()
    ids = folder.read_token_ids(path)
    folder.write_folder(tmp_path / "b", *made, token_ids=ids)
    written = json.loads((tmp_path / "b" / folder.CONFIG).read_text())
    assert written["model_type"] == "gemma3_text" and "text_config" not in written
    assert written["eos_token_id"] == inner["eos_token_id"] == 2
    check_equal(tmp_path / "b", "gemma3")


def test_a_model_of_images_in_another_is_refused(tmp_path: Path) -> None:
    path = renamed("gemma3", tmp_path / "a", str)
    config = {"model_type": "gemma3", "text_config": {"model_type": "gemma3"}}
    (path / folder.CONFIG).write_text(json.dumps(config))
    with pytest.raises(ValueError, match="model_type: expected 'gemma3_text'"):
        folder.open_folder(path)
