"""One encoder of CLIP or SigLIP alone: the features and the pooled vector are those of
transformers, equal files back. Fixtures and ratios as in test_encoders.py."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import parity
import pytest
import safetensors.numpy
from pretrained_folder import write_tokenizer
from test_encoders import FIXTURES, image_inputs, text_inputs

import transformer
from transformer.interchange import folder, model_programs, tensor_files
from transformer.training.checksum import leaf_paths

# Of one machine (`parity.check`): of the features, and of the pooled vector.
RATIOS = {
    "clip_text": ("pooler_output", 1.1e-6, 1.1e-6),
    "clip_text_projection": ("text_embeds", 1.1e-6, 7.8e-7),
    "clip_vision": ("pooler_output", 7.0e-7, 5.6e-7),
    "clip_vision_projection": ("image_embeds", 7.0e-7, 6.0e-7),
    "siglip_text": ("pooler_output", 1.5e-6, 9.1e-7),
    "siglip_vision": ("pooler_output", 8.1e-7, 1.2e-6),
}


def numbered(name: str) -> str:
    """The name of a tensor as transformers 5 writes it."""
    return re.sub("^(text|vision)_model[.]", "", name)


@pytest.mark.parametrize("name", RATIOS)
def test_outputs_are_those_of_transformers(name: str) -> None:
    """Tokens of padding are not compared."""
    opened = folder.open_folder(FIXTURES / name)
    reference = np.load(FIXTURES / name / "reference.npz")
    is_image = "pixel_values" in reference
    extra = getattr(opened.sizes, "extra_tokens", 0)
    inputs = image_inputs(reference, extra) if is_image else text_inputs(reference)
    params, net = opened.read_params(), opened.net

    @jax.jit
    def apply(params: Any) -> tuple[Any, Any]:
        x_BLD = net.apply({"params": params}, *inputs, method="features")
        return x_BLD, net.apply({"params": params}, *inputs)

    x_BLD, vector_BD = map(np.asarray, apply(params))
    key, of_features, of_vector = RATIOS[name]
    expected = reference["last_hidden_state"]
    if not is_image:
        real = reference["attention_mask"] > 0
        x_BLD, expected = x_BLD[real], expected[real]
    parity.check(name, "last_hidden_state", x_BLD, expected, of_features)
    parity.check(name, key, vector_BD, reference[key], of_vector)


@pytest.mark.parametrize("scanned", [False, True])
@pytest.mark.parametrize("name", RATIOS)
def test_a_folder_is_written_back_to_the_bit(
    name: str, scanned: bool, tmp_path: Path
) -> None:
    """With the names of transformers 4, which both versions read."""
    opened = folder.open_folder(FIXTURES / name, scanned=scanned)
    params, out = opened.read_params(), tmp_path / "out"
    folder.write_folder(out, opened.architecture, opened.sizes, params)
    theirs = tensor_files.open_tensors(FIXTURES / name)
    ours = tensor_files.open_tensors(out)
    inner = "vision_model." if "vision" in name else "text_model."
    projections = {"text_projection.weight", "visual_projection.weight"}
    assert all(key in projections or key.startswith(inner) for key in ours)
    theirs = {numbered(key): tensor for key, tensor in theirs.items()}
    ours = {numbered(key): tensor for key, tensor in ours.items()}
    assert theirs.keys() == ours.keys()
    for key, tensor in theirs.items():
        assert (tensor.dtype, tensor.shape) == (ours[key].dtype, ours[key].shape)
        np.testing.assert_array_equal(tensor.read(), ours[key].read())
    again = folder.open_folder(out)
    assert again.sizes == opened.sizes._replace(scanned=False)
    of_file = leaf_paths(folder.open_folder(FIXTURES / name).read_params())
    for path, leaf in leaf_paths(again.read_params()).items():
        np.testing.assert_array_equal(leaf, of_file[path])


@pytest.mark.parametrize("name", ["clip_text", "clip_text_projection", "siglip_text"])
def test_texts_are_embedded_by_the_pooling_of_the_model(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last token of CLIP, the end of a row of SigLIP, whatever else is in the
    batch; the mean of the tokens is refused."""
    path = tmp_path / "model"
    shutil.copytree(FIXTURES / name, path)
    write_tokenizer(path)
    model = transformer.load(path)
    vectors = model.embed(["the cat", "the hen sat the cat"])
    assert vectors.shape == (2, 20 if model.sizes.head else 24)
    assert np.abs(vectors[0] - vectors[1]).max() > 0.01
    np.testing.assert_allclose(model.embed(["the cat"]), vectors[:1], atol=2e-6)
    unit = model.embed(["the cat"], normalize=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)
    assert "the mean of the tokens" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="expected no pooling, .* got mean"):
        model.embed(["the cat"], pooling="mean")


def test_an_image_encoder_of_siglip_may_have_no_pooling(tmp_path: Path) -> None:
    path = tmp_path / "model"
    shutil.copytree(FIXTURES / "siglip_vision", path)
    file = path / tensor_files.SINGLE
    tensors = safetensors.numpy.load_file(file)
    left = {k: v for k, v in tensors.items() if not k.startswith("head.")}
    safetensors.numpy.save_file(left, file)
    values = json.loads((path / folder.CONFIG).read_text())
    values["vision_use_head"] = False
    (path / folder.CONFIG).write_text(json.dumps(values))
    opened = folder.open_folder(path)
    reference = np.load(FIXTURES / "siglip_vision" / "reference.npz")
    inputs = image_inputs(reference, 0)
    apply = jax.jit(opened.net.apply)
    x_BLD = apply({"params": opened.read_params()}, *inputs)
    expected = reference["last_hidden_state"]
    np.testing.assert_allclose(x_BLD, expected, atol=1e-5 * expected.std())


REFUSED = {
    "another class": ("clip_text", {"architectures": ["CLIPModel"]}, "architectures"),
    "a head without tensors": (
        "clip_vision",
        {"architectures": ["CLIPVisionModelWithProjection"]},
        "missing: visual_projection.weight",
    ),
    "an unknown key": ("siglip_text", {"experts": 4}, "understood, got experts"),
    "no patch in an image": ("siglip_vision", {"patch_size": 13}, "image_size"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_expressed_is_refused(name: str, tmp_path: Path) -> None:
    fixture, changes, message = REFUSED[name]
    path = tmp_path / "model"
    shutil.copytree(FIXTURES / fixture, path)
    values = json.loads((path / folder.CONFIG).read_text()) | changes
    (path / folder.CONFIG).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        folder.open_folder(path)


@pytest.mark.parametrize("name", ["clip_text_projection", "siglip_vision"])
def test_programs_of_an_encoder_have_its_outputs(name: str) -> None:
    opened = folder.open_folder(FIXTURES / name)
    (program,) = model_programs.programs(opened, prompt=8, new=8)
    assert program.outputs == ("last_hidden_state", "pooler_output")
