"""Encoders of transformers: equal outputs, equal files back.

Fixtures and ratios as in test_decoders.py; tokens of padding are not compared.
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import safetensors.numpy

from experiments import pretrained
from transformer import axes
from transformer.data.images import patches
from transformer.interchange import folder, tensor_files
from transformer.interchange import pretrained as pretrained_
from transformer.models import clip, decoder
from transformer.network import embeddings, masks
from transformer.training.checksum import leaf_paths

FIXTURES = Path(__file__).parent / "fixtures"
# Measured; a test allows three times as much, and three times 1e-6, a few roundings, in
# any case: an epsilon of 1e-5 for 1e-12 is 5e-5. Outputs are named as there.
RATIOS = {
    "bert": {"last_hidden_state": 1.2e-6, "pooler_output": 6.0e-7},
    "bert_classifier": {"logits": 4.0e-7},
    "bert_mlm": {"logits": 1.3e-6},
    "clip": {"image_embeds": 6.9e-7, "text_embeds": 5.4e-7, "logits_per_image": 4.7e-6},
    "dinov2": {"last_hidden_state": 9.3e-7},
    "dinov2_classifier": {"logits": 7.1e-7},
    "dinov2_registers": {"logits": 3.9e-7},
    "distilbert": {"logits": 1.3e-6},
    "distilbert_classifier": {"logits": 6.9e-7},
    "modernbert": {"last_hidden_state": 9.1e-7},
    "modernbert_mlm": {"logits": 1.4e-6},
    "roberta": {"last_hidden_state": 9.2e-7, "pooler_output": 7.2e-7},
    "roberta_classifier": {"logits": 4.4e-7},
    "roberta_mlm": {"logits": 1.1e-6},
    "siglip": {
        **{"image_embeds": 7.4e-7, "text_embeds": 9.9e-7},
        "logits_per_image": 1.2e-6,
    },
    "vit": {"last_hidden_state": 9.3e-7, "pooler_output": 9.1e-7},
    "vit_classifier": {"logits": 2.1e-7},
}
MESH: Any = {"data": 2, "fsdp": 2, "tensor": 2}
PATCH = (4, 4)


def text_inputs(reference: Any) -> tuple[Any, masks.TokenPositions]:
    """Ids, with their kinds where there are some, and positions."""
    ids_BL = jnp.asarray(reference["input_ids"], jnp.int32)
    segment_BL = jnp.asarray(reference["attention_mask"], jnp.int32)
    tokens = masks.single_document(ids_BL.shape[1])._replace(segment_BL=segment_BL)
    if "token_type_ids" not in reference:
        return ids_BL, tokens
    kind_BL = jnp.asarray(reference["token_type_ids"], jnp.int32)
    return embeddings.TypedTokens(ids_BL, kind_BL), tokens


def image_inputs(reference: Any, extra: int) -> tuple[Any, masks.TokenPositions]:
    """Raw patches, masked where there is a mask, and positions of `extra` more."""
    pixels = reference["pixel_values"].transpose(0, 2, 3, 1)
    raw_BLP = jnp.asarray(patches.patchify(pixels, PATCH))
    tokens = masks.single_document(raw_BLP.shape[1] + extra)
    if "bool_masked_pos" not in reference:
        return raw_BLP, tokens
    masked_BL = jnp.asarray(reference["bool_masked_pos"])
    return embeddings.MaskedInputs(raw_BLP, masked_BL), tokens


def outputs(name: str, opened: folder.PretrainedFolder, reference: Any) -> Any:
    """What our net gives, by transformers' names."""
    params, net = opened.read_params(), opened.net

    def apply(*inputs: Any, method: Any = None) -> Any:
        return jax.jit(lambda p: net.apply({"params": p}, *inputs, method=method))(
            params
        )

    if name in ("clip", "siglip"):
        images = image_inputs(reference, 1 if name == "clip" else 0)
        both = apply(*images, *text_inputs(reference))
        scores = apply(*both, method="scores")
        names = "image_embeds", "text_embeds", "logits_per_image"
        return dict(zip(names, (*both, scores), strict=True))
    is_image = "pixel_values" in reference
    extra = getattr(opened.sizes, "extra_tokens", 0)
    inputs = image_inputs(reference, extra) if is_image else text_inputs(reference)
    first = apply(*inputs)
    if "logits" in RATIOS[name]:
        return {"logits": decoder.logits(first) if type(first) is tuple else first}
    if "pooler_output" not in RATIOS[name]:
        return {"last_hidden_state": first}
    hidden = apply(*inputs, method="features")
    return {"pooler_output": first, "last_hidden_state": hidden}


@pytest.mark.parametrize("name", RATIOS)
def test_outputs_are_those_of_transformers(name: str) -> None:
    opened = folder.open_folder(FIXTURES / name)
    reference = np.load(FIXTURES / name / "reference.npz")
    ours = outputs(name, opened, reference)
    for key, ratio in RATIOS[name].items():
        expected, values = reference[key], np.asarray(ours[key])
        if expected.ndim == 3 and "attention_mask" in reference:
            real = reference["attention_mask"] > 0
            expected, values = expected[real], values[real]
        parity.check(name, key, values, expected, ratio)


# None of ModernBERT's few layers is there twice (test_periods.py).
STACKS = [(name, False) for name in RATIOS]
STACKS += [(name, True) for name in RATIOS if not name.startswith("modernbert")]


@pytest.mark.parametrize(("name", "scanned"), STACKS)
def test_a_folder_is_written_back_to_the_bit(name, scanned, tmp_path) -> None:
    """Sharded over eight devices, of either stack."""
    opened = folder.open_folder(FIXTURES / name, scanned=scanned)
    params = opened.read_params(axes.make_mesh(**MESH))
    out = tmp_path / "out"
    folder.write_folder(out, opened.architecture, opened.sizes, params)
    theirs = tensor_files.open_tensors(FIXTURES / name)
    ours = tensor_files.open_tensors(out)
    assert theirs.keys() == ours.keys()
    for key, tensor in theirs.items():
        assert (tensor.dtype, tensor.shape) == (ours[key].dtype, ours[key].shape)
        np.testing.assert_array_equal(tensor.read(), ours[key].read())
    assert folder.open_folder(out).sizes == opened.sizes._replace(scanned=False)
    named = json.loads((out / folder.CONFIG).read_text())["architectures"]
    theirs = json.loads((FIXTURES / name / folder.CONFIG).read_text())
    assert named == theirs["architectures"]


@pytest.mark.parametrize("name", ["bert", "dinov2", "dinov2_registers", "clip"])
def test_scanned_layers_equal_unrolled_ones(name: str) -> None:
    reference = np.load(FIXTURES / name / "reference.npz")
    one, other = (
        outputs(name, folder.open_folder(FIXTURES / name, scanned=scanned), reference)
        for scanned in (False, True)
    )
    for key, values in one.items():
        np.testing.assert_allclose(values, other[key], atol=1e-5)


def renamed(name: str, path: Path, rename: Any) -> Path:
    """The fixture with other names of tensors."""
    shutil.copytree(FIXTURES / name, path)
    file = path / tensor_files.SINGLE
    tensors = safetensors.numpy.load_file(file)
    safetensors.numpy.save_file({rename(k): v for k, v in tensors.items()}, file)
    return path


def old_name(name: str) -> str:
    """As files of the first BERT name it."""
    name = name if name.startswith(("bert.", "cls.")) else f"bert.{name}"
    name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
    return name.replace("LayerNorm.bias", "LayerNorm.beta")


@pytest.mark.parametrize("name", ["bert", "bert_mlm"])
def test_older_names_are_read(name: str, tmp_path: Path) -> None:
    old = folder.open_folder(renamed(name, tmp_path / "old", old_name))
    new = leaf_paths(folder.open_folder(FIXTURES / name).read_params())
    for path, leaf in leaf_paths(old.read_params()).items():
        np.testing.assert_array_equal(leaf, new[path])


def test_two_dialects_in_one_file_are_refused(tmp_path: Path) -> None:
    path = renamed("bert", tmp_path / "both", str)
    file = path / tensor_files.SINGLE
    tensors = safetensors.numpy.load_file(file)
    tensors |= {f"bert.{name}": values for name, values in tensors.items()}
    safetensors.numpy.save_file(tensors, file)
    with pytest.raises(ValueError, match="expected .* once, got"):
        folder.open_folder(path)


REFUSED = {
    "another head": ("bert", {"architectures": ["BertForQuestionAnswering"]}),
    "no class": ("vit", {"architectures": "ViTModel"}),
    "a decoder": ("bert", {"is_decoder": True}),
    "untied": ("bert_mlm", {"tie_word_embeddings": False}),
    "relative positions": ("bert", {"position_embedding_type": "relative_key"}),
    "heads that do not fill": ("roberta", {"num_attention_heads": 5}),
    "no patch in an image": ("vit", {"patch_size": 13}),
    "labels with a gap": ("vit_classifier", {"id2label": {"0": "a", "2": "b"}}),
    "labels are true": ("vit_classifier", {"id2label": True}),
    "a class is an object": ("bert", {"architectures": [{}]}),
    "gated MLPs": ("dinov2", {"use_swiglu_ffn": True}),
    "layers of no kind": ("modernbert", {"layer_types": ["x", "y", "z"]}),
    "sines": ("distilbert", {"sinusoidal_pos_embds": True}),
    "an inner list": ("clip", {"text_config": [1]}),
    "an inner key": ("siglip", {"text_config": {"experts": 4}}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_expressed_is_refused_by_name(name: str, tmp_path: Path) -> None:
    fixture, changes = REFUSED[name]
    path = tmp_path / "model"
    shutil.copytree(FIXTURES / fixture, path)
    values = json.loads((path / folder.CONFIG).read_text()) | changes
    (path / folder.CONFIG).write_text(json.dumps(values))
    key = "experts" if name == "an inner key" else next(iter(changes))
    key = "image_size" if key == "patch_size" else key
    with pytest.raises(ValueError, match=rf"{key}.*(expected|got)|expected.*{key}"):
        folder.open_folder(path)


def test_images_of_another_size_are_refused() -> None:
    opened = folder.open_folder(FIXTURES / "vit")
    params = opened.read_params()
    tokens = masks.single_document(5)
    with pytest.raises(ValueError, match="expected rows of 10 tokens, got 5"):
        opened.net.apply({"params": params}, jnp.zeros((1, 4, 48)), tokens)


@pytest.mark.parametrize("name", ["bert_mlm", "vit"])
def test_an_encoder_is_not_trained_as_a_language_model(name, tmp_path) -> None:
    """A masked language model would see the next token."""
    flags: Any = {"workdir": tmp_path, "init_from": FIXTURES / name}
    made = pretrained.experiment(**flags)
    with pytest.raises(ValueError, match="which (Bert|ViT).* offers; got train"):
        made.require_verb("train")


def test_a_folder_of_clip_encodes_as_our_own_models_do() -> None:
    """The functions of `models/clip.py` for one encoder at a time."""
    opened = folder.open_folder(FIXTURES / "clip")
    params = opened.read_params()
    reference = np.load(FIXTURES / "clip" / "reference.npz")
    ids_BL, tokens = text_inputs(reference)
    encode = jax.jit(partial(clip.encode_texts, opened.net))
    text_BZ = np.asarray(encode(params, ids_BL, tokens.segment_BL))
    np.testing.assert_allclose(text_BZ, reference["text_embeds"], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(text_BZ, axis=-1), 1.0, rtol=1e-6)


def test_an_encoder_is_loaded_without_its_tokenizer(tmp_path: Path) -> None:
    """Tokenizers of encoders mark no end of a text; nothing is generated."""
    path = tmp_path / "model"
    shutil.copytree(FIXTURES / "bert_mlm", path)
    (path / "tokenizer.json").write_text("{}")
    model = pretrained_.load(path)
    assert model.tokenizer is None and model.sizes.scanned
    with pytest.raises(ValueError, match="expected a decoder, got TiedMaskedLM"):
        model.generate("a")
