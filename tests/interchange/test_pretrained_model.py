"""From a folder of another library to texts, further training, and back."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pretrained_folder
import pytest

import transformer
from experiments import pretrained
from transformer import main
from transformer.interchange import folder, tokenizer
from transformer.models import decoder
from transformer.network import masks, narrow_weights
from transformer.training import loop
from transformer.training.checksum import leaf_paths

FLAGS: Any = {"steps": 2, "batch_size": 8, "sequence_length": 16, "dtype": "float32"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained_folder.write(tmp_path_factory.mktemp("source") / "llama")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the cat and the hen\n" * 200)
    return str(path)


def test_tokens_have_the_bytes_of_their_text(source: Path) -> None:
    made = tokenizer.read_tokenizer(source)
    assert made.stops == (257, 258) and made.end == 257 and made.vocab_size == 259
    for line in ["the hen", "naïve €5 \U0001f600\n\t", "", "<|end|>"]:
        ids = made.encode(line)
        assert made.bytes_V[ids].sum() == len(line.encode()) or "<|" in line
        assert made.decode(ids) == (line if "<|" not in line else "")


def test_a_run_starts_from_the_folder_goes_on_and_is_exported(
    source: Path, text: str, tmp_path: Path
) -> None:
    """The state before the first step, and a second process, have its values; what is
    exported has those of the run."""
    flags = {**FLAGS, "text": text, "init_from": source}
    experiment = pretrained.experiment(workdir=source, **flags)
    before = folder.open_folder(source, scanned=True).read_params()
    started = experiment.warm_start.load(before)
    for path, leaf in leaf_paths(started).items():
        np.testing.assert_array_equal(leaf, leaf_paths(before)[path])
    state = main.run(pretrained.experiment, tmp_path / "run", **flags)
    again = pretrained.experiment(workdir=tmp_path / "run", **flags)
    out = again.verbs["export"](loop.params_of(state), tmp_path / "run")
    after = folder.open_folder(out, scanned=True).read_params()
    changed = 0
    for path, leaf in leaf_paths(after).items():
        np.testing.assert_array_equal(leaf, leaf_paths(state.params)[path])
        changed += not np.array_equal(leaf, leaf_paths(before)[path])
    assert changed == len(leaf_paths(after))
    for name in ("tokenizer.json", "generation_config.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    card = (out / "README.md").read_text()
    assert "LlamaForCausalLM" in card and "bits_per_byte" in card


def test_a_folder_is_loaded_in_a_notebook(source: Path) -> None:
    model = transformer.load(source)
    text = model.generate("the hen", new_tokens=4)
    assert text.startswith("the hen")
    ids_BL = model.tokenizer.encode("the hen")[None]
    tokens = masks.single_document(ids_BL.shape[1])
    readout = jax.jit(model.net.apply)({"params": model.params}, ids_BL, tokens)
    assert decoder.logits(readout).shape == (
        1,
        ids_BL.shape[1],
        pretrained_folder.SIZES.vocab_size,
    )


def test_weights_are_refused_before_the_data_are_read(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """A pickle, whose refusal says how to convert it, and weights that are cut."""

    def fail(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the data are read")

    source = pretrained_folder.write(tmp_path / "llama")
    monkeypatch.setattr(pretrained.language_model, "experiment", fail)
    weights = source / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="model.safetensors: "):
        pretrained.experiment(init_from=source)
    weights.rename(source / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"may run code .* convert it .*save_pretrain"):
        pretrained.experiment(init_from=source)


def louder(model: Any) -> Any:
    """With larger weights, so that each token matters."""
    return model._replace(params=jax.tree.map(lambda a: 5 * a, model.params))


@pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="numba is not installed"
)
def generate(model: Any, **options: Any) -> str:
    return model.generate("the hen", **options)


def converse(model: Any, **options: Any) -> str:
    return model.chat([{"role": "user", "content": "the hen"}], **options)


def chatting(folder: Path) -> Any:
    """A model of a folder with a chat template."""
    source = pretrained_folder.write(folder)
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    (source / "chat_template.jinja").write_text(template)
    return transformer.load(source)


@pytest.mark.slow
@pytest.mark.parametrize("call", [generate, converse])
def test_a_notebook_decodes_with_narrow_weights(
    call: Any, tmp_path: Path, capsys: Any
) -> None:
    """As with the rounded weights."""
    model = louder(chatting(tmp_path / "llama"))
    rounded = narrow_weights.dequantize(narrow_weights.narrow(model.params, "int8"))
    expected = call(model._replace(params=rounded), new_tokens=12)
    capsys.readouterr()
    assert call(model, new_tokens=12, decode_dtype="int8") == expected
    assert "decoding with int8 weights" in capsys.readouterr().out


@pytest.mark.parametrize("call", [generate, converse])
def test_a_notebook_refuses_other_dtypes_of_weights(call: Any, tmp_path: Path) -> None:
    model = chatting(tmp_path / "llama")
    with pytest.raises(ValueError, match="decode_dtype: expected one of float32, "):
        call(model, decode_dtype="int4")


def test_a_prompt_begins_with_the_tokens_of_the_template(tmp_path: Path) -> None:
    """As Llama's and Gemma's tokenizers say it, and transformers does it."""
    source = pretrained_folder.write(tmp_path / "llama")
    content = json.loads((source / "tokenizer.json").read_text())
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|turn|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {
            "<|turn|>": {"id": "<|turn|>", "ids": [258], "tokens": ["<|turn|>"]}
        },
    }
    plain = louder(transformer.load(source)).generate("he", new_tokens=8)
    (source / "tokenizer.json").write_text(json.dumps(content))
    model = louder(transformer.load(source))
    assert model.tokenizer.starts == (258,)
    ids = [258, *model.tokenizer.encode("he").tolist()]
    row = len(ids) + 8

    @jax.jit
    def logits(params: Any, ids_BL: jax.Array) -> jax.Array:
        tokens = masks.single_document(row)
        return decoder.logits(model.net.apply({"params": params}, ids_BL, tokens))

    for _ in range(8):
        # What comes later is not seen.
        ids_BL = np.array([[*ids, *[0] * (row - len(ids))]])
        logits_V = np.asarray(logits(model.params, ids_BL))[0, len(ids) - 1]
        ids.append(int(logits_V[: model.tokenizer.vocab_size].argmax()))
        if ids[-1] in model.tokenizer.stops:
            break
    text = model.generate("he", new_tokens=8)
    assert text == model.tokenizer.decode(ids[1:]) and text != plain
