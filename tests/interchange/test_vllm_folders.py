"""Exports of decoders have what vLLM reads before it runs (`vllm_folder`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf_models
import pytest
import vllm_folder

from transformer.interchange import export, folder, gguf_tokenizer
from transformer.interchange.config import Reader

FIXTURES = Path(__file__).parent / "fixtures"
KINDS = {
    path.parent.name: kinds[0]
    for path in sorted(FIXTURES.glob("*/config.json"))
    if (kinds := vllm_folder.read(path).get("architectures"))
}
DECODERS = [
    name for name, kind in KINDS.items() if kind.endswith(("CausalLM", "LMHeadModel"))
]


def companions() -> dict[str, bytes]:
    """A tokenizer of the fixtures' 67 tokens."""
    values = gguf_models.byte_level()
    metadata = {f"tokenizer.ggml.{key}": value for key, value in values.items()}
    del metadata["tokenizer.ggml.chat_template"]
    files = gguf_tokenizer.files_of(Reader(metadata), 67)
    return {name: text.encode() for name, text in files.items()}


def exportable(name: str) -> tuple[export.Exportable, Any]:
    opened = folder.open_folder(FIXTURES / name)
    tokens = {"eos_token_id": [65, 66]}
    made = opened.architecture, opened.sizes, companions(), tokens
    return export.Exportable(*made), opened.read_params()


@pytest.mark.parametrize("name", DECODERS)
def test_an_export_has_what_vllm_reads(name: str, tmp_path: Path) -> None:
    model, params = exportable(name)
    out = export.export(model, params, tmp_path, export_dtype="bfloat16")
    vllm_folder.check(out)
    before = vllm_folder.read(FIXTURES / name / "config.json")
    after = vllm_folder.read(out / "config.json")
    for key in ("architectures", "model_type"):
        assert after[key] == before[key]


def test_shards_are_those_of_the_index(tmp_path: Path) -> None:
    model, params = exportable("llama")
    options: Any = {"companions": model.companions, "token_ids": model.token_ids}
    made = model.architecture, model.sizes, params
    folder.write_folder(tmp_path / "out", *made, max_shard_bytes=30_000, **options)
    assert (tmp_path / "out" / vllm_folder.INDEX).is_file()
    vllm_folder.check(tmp_path / "out")


@pytest.mark.parametrize(
    "key, value",
    [
        ("architectures", ["LlamaForCausalLMs"]),
        ("tie_word_embeddings", False),
        ("torch_dtype", "float16"),
        ("eos_token_id", 66),
    ],
)
def test_the_check_sees_another_configuration(
    key: str, value: Any, tmp_path: Path
) -> None:
    model, params = exportable("llama")
    out = export.export(model, params, tmp_path)
    vllm_folder.check(out)
    config = vllm_folder.read(out / "config.json")
    (out / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(AssertionError):
        vllm_folder.check(out)
