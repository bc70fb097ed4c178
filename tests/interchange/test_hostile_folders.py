"""Folders that lie, or that try to take code, memory or files: one line each."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from transformer.interchange import folder, tensor_files, tokenizer

LLAMA = Path(__file__).parent / "fixtures" / "llama"
WEIGHTS, CONFIG, INDEX = tensor_files.SINGLE, folder.CONFIG, tensor_files.INDEX
# change(folder) makes the folder wrong; the message says so.
Change = Callable[[Path], Any]


def config(**changes: Any) -> Change:
    """The configuration with other values; a key is removed by `...`."""

    def change(path: Path) -> None:
        values = json.loads((path / CONFIG).read_text()) | changes
        kept = {k: v for k, v in values.items() if v is not ...}
        (path / CONFIG).write_text(json.dumps(kept))

    return change


def text_of(name: str, content: str | bytes) -> Change:
    data = content.encode() if isinstance(content, str) else content
    return lambda path: (path / name).write_bytes(data)


def header(
    edit: Callable[[dict[str, Any]], Any], *, length: int | None = None
) -> Change:
    """The header of the weights, changed; `length`: what it claims to be long."""

    def change(path: Path) -> None:
        raw = (path / WEIGHTS).read_bytes()
        size = int.from_bytes(raw[:8], "little")
        values = json.loads(raw[8 : 8 + size])
        edit(values)
        new = json.dumps(values).encode()
        claimed = (len(new) if length is None else length).to_bytes(8, "little")
        (path / WEIGHTS).write_bytes(claimed + new + raw[8 + size :])

    return change


def tensors(edit: Callable[[dict[str, np.ndarray]], Any]) -> Change:
    def change(path: Path) -> None:
        values = safetensors.numpy.load_file(path / WEIGHTS)
        edit(values)
        safetensors.numpy.save_file(values, path / WEIGHTS)

    return change


def shards(weight_map: Any) -> Change:
    """An index in place of the one file, which becomes a shard."""

    def change(path: Path) -> None:
        names = [n for n in safetensors.numpy.load_file(path / WEIGHTS)]
        (path / WEIGHTS).rename(path / "a.safetensors")
        content = weight_map(names) if callable(weight_map) else weight_map
        (path / INDEX).write_text(json.dumps({"weight_map": content}))

    return change


def all_in(shard: Any) -> Change:
    return shards(lambda names: dict.fromkeys(names, shard))


def cut(size: int) -> Change:
    def change(path: Path) -> None:
        raw = (path / WEIGHTS).read_bytes()
        (path / WEIGHTS).write_bytes(raw[:size])

    return change


def pickle_only(name: str) -> Change:
    def change(path: Path) -> None:
        (path / WEIGHTS).unlink()
        (path / name).write_bytes(b"\x80\x04cos\nsystem\n(S'exit 1'\ntR.")

    return change


def set_entry(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda entries: entries["model.norm.weight"].update(values)


NORM = "model.norm.weight"
HOSTILE: dict[str, tuple[Change, str]] = {
    # The configuration.
    "no config": (lambda p: (p / CONFIG).unlink(), "folder with config.json"),
    "config is no JSON": (text_of(CONFIG, "{"), "expected JSON"),
    "config is a list": (text_of(CONFIG, "[]"), "expected a JSON object"),
    "config is not UTF-8": (text_of(CONFIG, b"\xff\xfe{"), "expected JSON"),
    "config is deep": (text_of(CONFIG, "[" * 100_000), "expected JSON"),
    "config is a folder": (
        lambda p: ((p / CONFIG).unlink(), (p / CONFIG).mkdir()),
        "expected a file, got a folder",
    ),
    "config links to itself": (
        lambda p: ((p / CONFIG).unlink(), (p / CONFIG).symlink_to(p / CONFIG)),
        "folder with config.json",
    ),
    "no model type": (config(model_type=...), "model_type: expected one of"),
    "model type of another": (config(model_type="mamba"), "model_type: expected"),
    "model type is a list": (config(model_type=["llama"]), "model_type: expected"),
    "model type is a path": (config(model_type="../llama"), "model_type: expected"),
    "code of its own": (config(auto_map={"AutoModel": "x.Y"}), "no auto_map"),
    "quantized": (config(quantization_config={"bits": 4}), "quantization_config"),
    "unknown key": (config(sparse_gates=3), "understood, got sparse_gates = 3"),
    "unknown keys": (config(a1=1, b2=2), "a1 = 1 and 1 more"),
    "width is missing": (config(hidden_size=...), "expected hidden_size, got none"),
    "width is text": (config(hidden_size="24"), "hidden_size: expected a whole"),
    "width is a fraction": (config(hidden_size=24.0), "hidden_size: expected a whole"),
    "width is true": (config(hidden_size=True), "hidden_size: expected a whole"),
    "no heads": (config(num_attention_heads=0), "num_attention_heads: expected a"),
    "negative depth": (config(num_hidden_layers=-1), "num_hidden_layers: expected"),
    "huge depth": (config(num_hidden_layers=10**12), "num_hidden_layers: expected"),
    "huge width": (config(hidden_size=2**63), "hidden_size: expected a whole"),
    "a million layers": (config(num_hidden_layers=10**6), "at most 10000, got 1000000"),
    "ten thousand layers": (config(num_hidden_layers=10**4), "depth: expected at most"),
    "negative epsilon": (config(rms_norm_eps=-1.0), "rms_norm_eps: expected a number"),
    "theta of 0": (
        config(rope_parameters={"rope_type": "default", "rope_theta": 0}),
        "rope_theta: expected a number of more than 0",
    ),
    "factor of 0": (
        config(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 0}),
        "factor: expected a number of more than 0",
    ),
    "heads in no groups": (config(num_key_value_heads=3), "kv_heads: expected a div"),
    "infinite epsilon": (config(rms_norm_eps=1e999), "rms_norm_eps: expected a number"),
    "epsilon beyond floats": (
        config(rms_norm_eps=10**400),
        "rms_norm_eps: expected a number",
    ),
    "epsilon is text": (config(rms_norm_eps="1e-5"), "rms_norm_eps: expected a number"),
    "another activation": (config(hidden_act="swish9"), "hidden_act: expected one of"),
    "biases": (config(mlp_bias=True), "mlp_bias: expected False"),
    "biases that are not there": (
        config(attention_bias=True),
        "missing: model.layers.0.self_attn.k_proj.bias",
    ),
    "rope of another kind": (
        config(rope_parameters={"rope_type": "ntk", "rope_theta": 1e4}),
        "rope_type: expected default, linear",
    ),
    "rope is a list": (config(rope_parameters=[1]), "rope_parameters: expected an"),
    "ropes disagree": (
        config(rope_theta=1e4),
        r"expected rope_parameters equal to .*, got theta [0-9.]+ and 10000\.0",
    ),
    "rope with a secret": (
        config(rope_parameters={"rope_type": "default", "attention_factor": 2}),
        "understood, got attention_factor",
    ),
    "tied is text": (config(tie_word_embeddings="yes"), "expected true or false"),
    # The header of the weights.
    "no weights": (lambda p: (p / WEIGHTS).unlink(), "got neither"),
    "empty weights": (text_of(WEIGHTS, b""), "expected safetensors"),
    "weights are text": (text_of(WEIGHTS, b"hello, world"), "expected safetensors"),
    "header cut": (cut(100), "expected safetensors"),
    "values cut": (cut(70_000), "expected safetensors"),
    "one byte short": (
        lambda p: cut((p / WEIGHTS).stat().st_size - 1)(p),
        "expected safetensors",
    ),
    "header claims 2^60 bytes": (
        header(lambda h: None, length=2**60),
        "expected safetensors",
    ),
    "header claims 90 MB": (
        header(lambda h: None, length=90_000_000),
        "expected safetensors",
    ),
    "offsets beyond the end": (
        header(set_entry(data_offsets=[0, 10**15])),
        "expected safetensors",
    ),
    "negative offsets": (
        header(set_entry(data_offsets=[-96, 0])),
        "expected safetensors",
    ),
    "offsets that overlap": (
        header(set_entry(data_offsets=[0, 96])),
        "expected safetensors",
    ),
    "huge shape": (header(set_entry(shape=[2**40, 2**40])), "expected safetensors"),
    "shape of other size": (header(set_entry(shape=[23])), "expected safetensors"),
    "unknown dtype": (header(set_entry(dtype="F3")), "expected safetensors"),
    "header is a list": (
        text_of(WEIGHTS, (2).to_bytes(8, "little") + b"[]"),
        "expected safetensors",
    ),
    "header is deep": (
        text_of(WEIGHTS, (90_000).to_bytes(8, "little") + b"[" * 90_000),
        "expected safetensors",
    ),
    # The tensors.
    "a tensor missing": (tensors(lambda t: t.pop(NORM)), "missing: model.norm.weight"),
    "a tensor left over": (
        tensors(lambda t: t.update(extra=t[NORM])),
        "left over: extra",
    ),
    "a tensor turned": (
        tensors(
            lambda t: t.update(
                {
                    "model.embed_tokens.weight": np.ascontiguousarray(
                        t["model.embed_tokens.weight"].T
                    )
                }
            )
        ),
        "expected shape .67, 24. .V D., got .24, 67.",
    ),
    "a tensor of whole numbers": (
        tensors(lambda t: t.update({NORM: np.ones(24, np.int32)})),
        "expected values of F64, .* got I32",
    ),
    "a tied tensor that differs": (
        tensors(
            lambda t: t.update(
                {"lm_head.weight": t["model.embed_tokens.weight"] + np.float32(1)}
            )
        ),
        "expected the values of model.embed_tokens.weight",
    ),
    "a pointer of Git LFS": (
        text_of(WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "a pointer of Git LFS; `git lfs pull`",
    ),
    "an adapter": (text_of(folder.ADAPTER, "{}"), "got an adapter .adapter_config"),
    # The index.
    "file and index": (text_of(INDEX, "{}"), "got both"),
    "index without a map": (shards(...), "weight_map"),
    "index is a list of names": (shards([]), "weight_map: expected an object"),
    "shard above": (all_in("../a.safetensors"), "name of a .safetensors file"),
    "shard from the root": (all_in("/etc/passwd"), "name of a .safetensors file"),
    "shard is a pickle": (all_in("pytorch_model.bin"), "name of a .safetensors file"),
    "shard is no text": (all_in(3), "name of a .safetensors file"),
    "shard is missing": (
        all_in("b.safetensors"),
        "b.safetensors: expected safetensors",
    ),
    "shard with a NUL": (all_in("a\0.safetensors"), "name of a .safetensors file"),
    "index lists less": (
        shards(lambda names: dict.fromkeys(names[1:], "a.safetensors")),
        "expected the tensors that",
    ),
    "index lists more": (
        shards(lambda names: dict.fromkeys([*names, "x"], "a.safetensors")),
        "expected the tensors that",
    ),
    # Pickles.
    "a pickle": (pickle_only("pytorch_model.bin"), "may run code"),
    "a checkpoint": (pickle_only("model.ckpt"), "may run code"),
}
HOSTILE["index without a map"] = (
    lambda p: (
        (p / WEIGHTS).rename(p / "a.safetensors"),
        (p / INDEX).write_text("{}"),
    ),
    "weight_map: expected an object",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_folders_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    """Before memory or code is taken."""
    change, message = HOSTILE[name]
    path = tmp_path / "model"
    shutil.copytree(LLAMA, path)
    change(path)
    tracemalloc.start()
    with pytest.raises(ValueError, match=message) as refusal:
        folder.open_folder(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    line = str(refusal.value).replace(str(path), "")
    assert "\n" not in line and len(line) < 450, line
    assert peak < 100 * 2**20


def test_there_are_sixty_hostile_folders() -> None:
    assert len(HOSTILE) >= 60


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(
    dtype: Any, value: float, tmp_path: Path
) -> None:
    """Of NaN logits the first token is the most likely, in silence."""
    path = tmp_path / "model"
    shutil.copytree(LLAMA, path)
    values = safetensors.numpy.load_file(path / WEIGHTS)
    values[NORM] = values[NORM].astype(dtype)
    values[NORM][3] = value
    safetensors.numpy.save_file(values, path / WEIGHTS)
    message = f"{NORM}: expected finite numbers, got 1 of 24 that are NaN or inf"
    with pytest.raises(ValueError, match=message):
        folder.open_folder(path).read_params()


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("value", ["2", [[2]], [2, "3"], 2.0, True])
def test_ends_that_are_no_ids_are_refused_by_the_name_of_the_file(
    name: str, value: Any, tmp_path: Path
) -> None:
    """Also in the file that the other one overrides."""
    for file in tokenizer.END_FILES:
        (tmp_path / file).write_text(json.dumps({"eos_token_id": [2, 3]}))
    assert tokenizer.configured_ends(tmp_path) == (2, 3)
    (tmp_path / name).write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(ValueError, match=f"{name}: eos_token_id: expected a whole nu"):
        tokenizer.configured_ends(tmp_path)
