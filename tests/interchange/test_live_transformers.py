"""transformers, where it is installed, loads every export as its own folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import marian_folder
import numpy as np
import pretrained_folder
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

from hard_texts import HARD, MARKED

import transformer
from experiments import pretrained_clip, pretrained_mlm
from transformer.data.images import patches
from transformer.data.sources import recordings
from transformer.interchange import (
    folder,
    gguf_writer,
    speech_rows,
    tasks,
    tensor_files,
    text_to_text,
    tokenizer_conversion,
)
from transformer.interchange import tokenizer as tokenizer_
from transformer.models import decoder
from transformer.network import masks

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
model_whisper = pytest.importorskip("transformers.models.whisper.modeling_whisper")
FIXTURES = Path(__file__).parent / "fixtures"
CLASSES = {
    path.parent.name: classes[0]
    for path in sorted(FIXTURES.glob("*/config.json"))
    if (classes := tensor_files.read_json_file(path).get("architectures"))
}
# Written by each version for itself.
OF_THE_WRITER = {"transformers_version", "_name_or_path", "dtype", "torch_dtype"}
# What no tensor and no number depends on: CLIP's outer `projection_dim` counts, and
# these layers of Qwen MoE are all sparse.
UNUSED = {
    "clip": {"text_config/projection_dim", "vision_config/projection_dim"},
    "marian": {"init_std", "normalize_before"},
    "qwen2_moe": {"intermediate_size"},
    "qwen3_moe": {"intermediate_size"},
}


def load(path: Path, name: str) -> Any:
    """The model, after a look at what its tensors were taken for."""
    kind = getattr(transformers, CLASSES[name])
    model, found = kind.from_pretrained(
        path, dtype=torch.float32, output_loading_info=True
    )
    assert {key: list(names) for key, names in found.items() if names} == {}
    return model.eval()


def flat(values: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with paths as keys."""
    found = {}
    for key, value in values.items():
        inner = isinstance(value, dict)
        found |= flat(value, f"{prefix}{key}/") if inner else {f"{prefix}{key}": value}
    return found


@pytest.mark.parametrize("name", CLASSES)
def test_transformers_loads_the_export_as_the_original(name: str, tmp_path) -> None:
    """Nothing missing or left over, each parameter equal to the bit, and the same
    configuration."""
    opened = folder.open_folder(FIXTURES / name)
    written = tmp_path / "out"
    folder.write_folder(
        written,
        opened.architecture,
        opened.sizes,
        opened.read_params(),
        token_ids=folder.read_token_ids(FIXTURES / name),
    )
    theirs, ours = load(FIXTURES / name, name), load(written, name)
    expected, state = theirs.state_dict(), ours.state_dict()
    assert expected.keys() == state.keys()
    for key, tensor in expected.items():
        np.testing.assert_array_equal(tensor.numpy(), state[key].numpy(), key)
    one, other = (flat(model.config.to_dict()) for model in (theirs, ours))
    unused = OF_THE_WRITER | UNUSED.get(name, set())
    # A value that was left to its default may be written.
    stated = {key for key, value in one.items() if value is not None} - unused
    assert {k: one[k] for k in stated} == {k: other.get(k) for k in stated}


def test_diffusers_loads_the_export_as_the_original(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    opened = folder.open_folder(FIXTURES / "dit")
    made = opened.architecture, opened.sizes, opened.read_params()
    folder.write_folder(tmp_path / "out", *made)

    def load_dit(path: Path) -> Any:
        model, found = diffusers.DiTTransformer2DModel.from_pretrained(
            path, output_loading_info=True
        )
        assert {key: names for key, names in found.items() if names} == {}
        return model

    theirs, ours = load_dit(FIXTURES / "dit"), load_dit(tmp_path / "out")
    expected, state = theirs.state_dict(), ours.state_dict()
    assert expected.keys() == state.keys()
    for key, tensor in expected.items():
        np.testing.assert_array_equal(tensor.numpy(), state[key].numpy(), key)
    names = set(theirs.config) - {"_name_or_path", "_use_default_values"}
    assert {k: theirs.config[k] for k in names} == {k: ours.config[k] for k in names}


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_marian_translates_as_transformers(tmp_path: Path) -> None:
    """From the folder alone: tokenizer, greedy tokens, their end, and the text."""
    path = marian_folder.write(tmp_path / "marian")
    tokenizer = transformers.MarianTokenizer.from_pretrained(path)
    model, found = transformers.MarianMTModel.from_pretrained(
        path, output_loading_info=True
    )
    assert {key: list(names) for key, names in found.items() if names} == {}
    texts = [*HARD[:4], *MARKED[:3]]
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    greedy: Any = {"max_new_tokens": 12, "do_sample": False, "num_beams": 1}
    ids = model.generate(**inputs, **greedy)
    expected = tokenizer.batch_decode(ids, skip_special_tokens=True)
    ours = transformer.load(path)
    made = text_to_text.read(path, ours.sizes)
    got = text_to_text.generate_texts(ours.net, ours.params, made, texts, new_tokens=12)
    assert got == expected and len(set(expected)) > 2


def test_whisper_has_the_loss_of_transformers(tmp_path: Path) -> None:
    """Of two recordings in a batch: the decoder inputs that it makes of all labels, and
    its mean over the tokens that are not the prompt's."""
    path = pretrained_folder.write_whisper(tmp_path / "whisper")
    texts = [f"the hen {'and ' * (n % 3)}{n}" for n in range(8)]
    table = pretrained_folder.write_recordings(tmp_path / "clips", texts)
    opened = folder.open_folder(path)
    kind = transformers.WhisperForConditionalGeneration
    model, found = kind.from_pretrained(
        path, dtype=torch.float32, output_loading_info=True
    )
    assert {key: list(names) for key, names in found.items() if names} == {}
    parts = opened.folder, opened.architecture, opened.sizes, opened.net
    codec = speech_rows.read(tasks.Model(*parts), "pt", "transcribe", 48)
    data = speech_rows.drop_long(recordings.load(table), codec)
    how: Any = {"length": 24, "batch_size": 2, "seed": 0}
    train, _ = speech_rows.splits(data, codec, **how)
    batch = train.batch(0, range(2))
    ids_BL, targets_BL = (
        torch.from_numpy(batch[name]).long() for name in ("ids_BL", "targets_BL")
    )
    is_token_BL = torch.from_numpy(batch["segment_BL"]) > 0
    # Of all labels, the prompt among them, transformers makes these inputs.
    labels_BL = targets_BL.masked_fill(~is_token_BL, -100)
    shifted_BL = model_whisper.shift_tokens_right(
        labels_BL, model.config.pad_token_id or 0, model.config.decoder_start_token_id
    )
    assert torch.equal(shifted_BL[is_token_BL], ids_BL[is_token_BL])
    raw_BPL = torch.from_numpy(batch["raw_BLP"]).transpose(1, 2)
    weight_BL = torch.from_numpy(batch["weight_BL"])
    labels_BL = targets_BL.masked_fill(weight_BL == 0, -100)
    with torch.inference_mode():
        made = model.eval()(raw_BPL, decoder_input_ids=ids_BL, labels=labels_BL)
    loss = speech_rows.loss(opened.net, "float32")
    ours = jax.jit(loss)(opened.read_params(), batch, jax.random.key(0))
    assert float(ours.weight) == float(weight_BL.sum()) > 20
    np.testing.assert_allclose(ours.total / ours.weight, float(made.loss), rtol=1e-5)


def export_louder(make: Any, tmp_path: Path, **flags: Any) -> tuple[Any, Any, Path]:
    """An experiment, other parameters than those that it starts from, and their
    export."""
    made = make(dtype="float32", **flags)
    abstract = jax.eval_shape(made.init, jax.random.key(0))
    params = jax.tree.map(lambda a: 1.25 * a, made.warm_start.load(abstract))
    out = tmp_path / "out"
    made.verbs["export"](params, tmp_path / "run", folder=out)
    return made, params, out


MASKED = ("bert_mlm", "distilbert", "modernbert_mlm", "roberta_mlm")


@pytest.mark.parametrize("name", MASKED)
def test_transformers_loads_what_pretrained_mlm_exports(
    name: str, tmp_path: Path
) -> None:
    """As a masked language model with nothing missing, and with our logits."""
    source = pretrained_folder.write_masked_lm(tmp_path / "source", name)
    (tmp_path / "a.txt").write_text("the cat sat the hen\n" * 200)
    flags: Any = {"init_from": source, "text": str(tmp_path / "a.txt")}
    flags |= {"batch_size": 2, "sequence_length": 16}
    made, params, out = export_louder(pretrained_mlm.experiment, tmp_path, **flags)
    model, found = transformers.AutoModelForMaskedLM.from_pretrained(
        out, dtype=torch.float32, output_loading_info=True
    )
    assert {key: list(names) for key, names in found.items() if names} == {}
    ids_BL = np.array([[3, 5, 4, 8, 6, 2]])
    with torch.inference_mode():
        expected = model.eval()(torch.from_numpy(ids_BL)).logits.numpy()
    tokens = masks.single_document(ids_BL.shape[1])
    logits = decoder.logits(made.net.apply({"params": params}, ids_BL, tokens))
    np.testing.assert_allclose(logits, expected, atol=2e-5 * expected.std())


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_transformers_has_the_loss_of_what_pretrained_clip_exports(
    name: str, tmp_path: Path
) -> None:
    """On the images and texts of a training batch, and scores of the same pairs."""
    source = pretrained_folder.write_dual_encoder(tmp_path / "source", name)
    place = pretrained_folder.write_captions(tmp_path)
    flags: Any = {"init_from": source, "source": str(place), "batch_size": 4}
    made, params, out = export_louder(pretrained_clip.experiment, tmp_path, **flags)
    batch = made.batch(0, range(4))
    pixels = patches.unpatchify(batch["raw_BLP"], (12, 12), (4, 4))
    inputs = {
        "pixel_values": pixels.transpose(0, 3, 1, 2).copy(),
        "input_ids": batch["ids_BL"].astype(np.int64),
        "attention_mask": batch["segment_BL"].astype(np.int64),
    }
    with torch.inference_mode():
        tensors = {key: torch.from_numpy(value) for key, value in inputs.items()}
        theirs = load(out, name)(**tensors, return_loss=True)
    loss = made.loss(params, batch, jax.random.key(0))
    expected = theirs.loss.item()
    np.testing.assert_allclose(loss.total / loss.weight, expected, rtol=2e-5)
    best = theirs.logits_per_image.argmax(1).numpy() == np.arange(4)
    assert loss.sums["correct"] == best.sum()


CAUSAL = [name for name, kind in CLASSES.items() if "CausalLM" in kind]


@pytest.mark.parametrize("name", CAUSAL)
def test_frozen_numbers_are_those_of_the_transformers_installed(name: str) -> None:
    reference = np.load(FIXTURES / name / "reference.npz")
    with torch.inference_mode():
        ids = torch.from_numpy(reference["ids_BL"]).long()
        logits = load(FIXTURES / name, name)(ids).logits.numpy()
    expected = reference["logits_BLV"]
    assert np.abs(logits - expected).max() < 1e-5 * expected.std()


# Keys of a configuration that transformers does not read in a GGUF file.
NOT_READ = {"qwen3": {"head_dim": 8}, "gpt2": {"n_positions": 64, "vocab_size": 67}}


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gpt2"])
def test_transformers_reads_a_gguf_file_of_ours(name: str, tmp_path: Path) -> None:
    """The logits and the greedy tokens of the fixture."""
    pytest.importorskip("accelerate")
    opened = folder.open_folder(FIXTURES / name)
    made = opened.architecture, opened.sizes, opened.read_params()
    gguf_writer.write_folder(tmp_path / "out", *made)
    model, found = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out",
        gguf_file=gguf_writer.FILE,
        dtype=torch.float32,
        output_loading_info=True,
        **NOT_READ.get(name, {}),
    )
    assert {key: list(names) for key, names in found.items() if names} == {}
    reference = np.load(FIXTURES / name / "reference.npz")
    ids = torch.from_numpy(reference["ids_BL"]).long()
    with torch.inference_mode():
        logits = model.eval()(ids).logits.numpy()
    expected = reference["logits_BLV"]
    assert np.abs(logits - expected).max() < 1e-4 * expected.std()
    assert np.array_equal(logits.argmax(-1), expected.argmax(-1))


def test_transformers_reads_the_tokenizer_of_a_gguf_file_of_ours(
    tmp_path: Path,
) -> None:
    """GPT-2's: transformers looks at no other cut of text."""
    pytest.importorskip("accelerate")
    text = tokenizer_conversion.read(FIXTURES / "tokenizers" / "gpt2_files")
    assert text is not None
    opened = folder.open_folder(FIXTURES / "gpt2")
    rows = 500
    sizes = opened.sizes._replace(vocab_size=rows)
    params = opened.read_params()
    params["embedding_VD"] = np.zeros((rows, sizes.width), np.float32)
    companions = {"tokenizer.json": text.encode()}
    tokens = {"eos_token_id": 5}
    made = opened.architecture, sizes, params
    options: Any = {"companions": companions, "token_ids": tokens}
    gguf_writer.write_folder(tmp_path / "out", *made, **options)
    theirs = transformers.AutoTokenizer.from_pretrained(
        tmp_path / "out", gguf_file=gguf_writer.FILE
    )
    ours = tokenizer_.read_tokenizer(tmp_path / "out")
    for hard in HARD:
        assert theirs.encode(hard) == ours.encode(hard).tolist(), hard


def test_a_pipeline_of_the_export_writes_our_text(tmp_path: Path) -> None:
    """Greedy, from the folder alone: weights, configuration, tokenizer and ends."""
    source = pretrained_folder.write(tmp_path / "llama")
    model = transformer.load(source)
    written = tmp_path / "out"
    folder.write_folder(
        written,
        *(folder.read_config(source)[0], model.sizes, model.params),
        companions=folder.companions_of(source),
        token_ids=folder.read_token_ids(source),
    )
    pipeline = transformers.pipeline("text-generation", model=str(written))
    greedy = {"max_new_tokens": 12, "do_sample": False}
    (found,) = pipeline("the hen", **greedy)
    assert found["generated_text"] == model.generate("the hen", new_tokens=12)
    assert len(found["generated_text"]) > len("the hen")
