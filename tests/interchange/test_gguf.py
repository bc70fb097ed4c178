"""GGUF files hold the parameters of the folders that they are made of, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import gguf_models
import jax
import numpy as np
import pytest

import transformer
from transformer.interchange import folder, gguf_file, gguf_folder, gguf_model
from transformer.interchange import tokenizer as tokenizer_
from transformer.interchange.config import Reader
from transformer.training.checksum import leaf_paths

FIXTURES = gguf_models.FIXTURES


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gpt2"])
def test_a_file_has_the_net_and_the_parameters_of_the_folder(
    name: str, tmp_path: Path
) -> None:
    file = gguf_models.write(tmp_path / "model.gguf", name)
    expected = folder.open_folder(FIXTURES / name, scanned=True)
    for path in (file, tmp_path):
        opened = folder.open_folder(path, scanned=True)
        assert opened.sizes == expected.sizes
        ours, theirs = opened.read_params(), expected.read_params()
        assert leaf_paths(ours).keys() == leaf_paths(theirs).keys()
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_the_permutation_of_llama_matters(tmp_path: Path) -> None:
    """Other rows than those of Qwen, which rotates halves in the file too."""
    header = gguf_file.read_header(gguf_models.write(tmp_path / "m.gguf", "llama"))
    stored = header.tensors["blk.0.attn_q.weight"].read()
    original = folder.open_folder(FIXTURES / "llama").tensors
    assert not np.array_equal(
        stored, original["model.layers.0.self_attn.q_proj.weight"].read()
    )


@pytest.mark.parametrize("factor, length", gguf_model.LLAMA3_SCALES)
def test_the_factors_of_llama_3_are_its_scaled_rope(factor: float, length: int) -> None:
    rope = {
        "rope_theta": 5e5,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": length,
    }

    class Stored:
        def __init__(self, factors: np.ndarray) -> None:
            self.factors = factors

        def read(self) -> np.ndarray:
            return self.factors

    def find(factors: np.ndarray) -> Any:
        tensors: Any = {gguf_model.FACTORS: Stored(factors)}
        header = gguf_file.GgufHeader({}, tensors)
        return gguf_model.read_rope(Reader({}), "llama", header, Path("f"), 5e5)

    factors = gguf_models.llama3_factors(rope, 128)
    assert find(factors) == rope | {"rope_type": "llama3"}
    factors[-1] *= 1.01
    with pytest.raises(ValueError, match="factors of Llama 3.1 or 3.2, got others"):
        find(factors)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "Q6_K", "F16", "BF16"])
def test_blocks_are_dequantized_a_tensor_at_a_time(kind: str, tmp_path: Path) -> None:
    """Q6_K has no quantizer in the package: its bytes are any."""
    rng, file = np.random.default_rng(0), tmp_path / "t.gguf"
    code = gguf.GGMLQuantizationType[kind]
    values = rng.standard_normal((3, 256)).astype(np.float32)
    try:
        raw = gguf.quants.quantize(values, code)
    except NotImplementedError:
        raw = rng.integers(0, 60, (3, gguf.GGML_QUANT_SIZES[code][1]), np.uint8)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_tensor("a", np.ones(5, np.float32))
    writer.add_tensor("b", raw, raw_dtype=code)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensors = gguf_file.read_header(file).tensors
    assert tensors["a"].read().tolist() == [1.0] * 5
    assert tensors["b"].shape == (3, 256)
    found = tensors["b"].read()
    assert found.dtype.itemsize == {"F16": 2, "BF16": 2}.get(kind, 4)
    expected = gguf.quants.dequantize(raw, code)
    np.testing.assert_array_equal(found.astype(np.float32), expected)


def test_tokenizer_ends_and_template_come_from_the_metadata(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    gguf_models.write(file, "llama", **gguf_models.byte_level())
    made = tokenizer_.read_tokenizer(file)
    assert made.stops == (65, 66) and made.vocab_size == 67
    assert made.encode("the 12<|b|>").tolist() == [64, 3, 0, 4, 5, 66]
    assert made.decode([64, 3, 0, 4, 66]) == "the 1"
    small = gguf_folder.resolve(file)
    assert (small / "chat_template.jinja").read_text() == "{{ messages[0].content }}"
    assert folder.read_token_ids(file)["eos_token_id"] == [65, 66]
    assert sorted(folder.companions_of(file)) == [
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_file_is_loaded_in_a_notebook(tmp_path: Path) -> None:
    file = gguf_models.write(tmp_path / "m.gguf", "llama", **gguf_models.byte_level())
    model = transformer.load(file)
    assert model.sizes.depth == 3 and model.tokenizer.encode("th").tolist() == [64]
