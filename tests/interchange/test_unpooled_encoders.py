"""Encoders that were saved without a pooler: no configuration says it, the names of the
tensors do. Their numbers are those of the encoders with one."""

from __future__ import annotations

import json
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
from experiments import pretrained_classifier
from transformer.interchange import folder, pretrained_run, tensor_files

# Of one machine (`parity.check`).
RATIOS = {"bert": 9.2e-7, "roberta": 9.2e-7, "xlm-roberta": 9.2e-7, "vit": 1.2e-6}
CLASSES = {
    "bert": "BertModel",
    "roberta": "RobertaModel",
    "xlm-roberta": "XLMRobertaModel",
    "vit": "ViTModel",
}


def fixture_of(name: str) -> Path:
    return FIXTURES / name.removeprefix("xlm-")


def write_unpooled(path: Path, name: str) -> Path:
    """The fixture without its pooler, as `save_pretrained` of a model with
    add_pooling_layer=False writes it."""
    shutil.copytree(fixture_of(name), path)
    file = path / tensor_files.SINGLE
    tensors = safetensors.numpy.load_file(file)
    left = {k: v for k, v in tensors.items() if not k.startswith("pooler.")}
    assert len(left) == len(tensors) - 2
    safetensors.numpy.save_file(left, file, {"format": "pt"})
    values = json.loads((path / folder.CONFIG).read_text())
    values |= {"model_type": name, "architectures": [CLASSES[name]]}
    (path / folder.CONFIG).write_text(json.dumps(values))
    return path


@pytest.mark.parametrize("name", RATIOS)
def test_features_are_those_of_transformers(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder says in one line what AutoModel does; it is written back to the bit,
    and read again from its configuration alone."""
    path = write_unpooled(tmp_path / "model", name)
    opened = folder.open_folder(path)
    (line,) = capsys.readouterr().out.splitlines()
    assert f"no pooler, as in the file: {CLASSES[name]} of transformers adds" in line
    reference = np.load(fixture_of(name) / "reference.npz")
    inputs = image_inputs(reference, 1) if name == "vit" else text_inputs(reference)
    params, net = opened.read_params(), opened.net
    ours = np.asarray(jax.jit(lambda p: net.apply({"params": p}, *inputs))(params))
    expected = reference["last_hidden_state"]
    if name != "vit":
        real = reference["attention_mask"] > 0
        ours, expected = ours[real], expected[real]
    parity.check(f"{name} without pooler", "features", ours, expected, RATIOS[name])

    out = tmp_path / "out"
    folder.write_folder(out, opened.architecture, opened.sizes, params)
    theirs, written = (tensor_files.open_tensors(one) for one in (path, out))
    assert theirs.keys() == written.keys()
    for key, tensor in theirs.items():
        np.testing.assert_array_equal(tensor.read(), written[key].read())
    (out / tensor_files.SINGLE).unlink()
    assert folder.read_config(out)[1] == opened.sizes


def test_half_a_pooler_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model"
    shutil.copytree(FIXTURES / "bert", path)
    file = path / tensor_files.SINGLE
    tensors = safetensors.numpy.load_file(file)
    del tensors["pooler.dense.bias"]
    safetensors.numpy.save_file(tensors, file)
    with pytest.raises(ValueError, match="missing: pooler.dense.bias"):
        folder.open_folder(path)


def test_texts_are_embedded_as_with_a_pooler(tmp_path: Path) -> None:
    """By the files of sentence-transformers, and by both poolings."""
    vectors = {}
    for name in ("with", "without"):
        path = tmp_path / name
        if name == "with":
            shutil.copytree(FIXTURES / "bert", path)
        else:
            write_unpooled(path, "bert")
        write_tokenizer(path)
        modules = [{"type": f"sentence_transformers.models.{one}"} for one in MODULES]
        (path / "modules.json").write_text(json.dumps(modules))
        (path / "1_Pooling").mkdir()
        (path / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
        model = transformer.load(path)
        texts = ["the cat", "the hen sat"]
        found = model.embed(texts), model.embed(texts, pooling="mean")
        vectors[name] = np.stack(found)
    np.testing.assert_array_equal(vectors["with"], vectors["without"])


MODULES = "Transformer", "Pooling", "Normalize"


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_a_run_knows_it_without_the_tensors(name: str, tmp_path: Path) -> None:
    """Its folder has the configuration, and checkpoints of its own."""
    path = write_unpooled(tmp_path / "model", name)
    begun = pretrained_run.read(None, path)
    run = tmp_path / "run"
    run.mkdir()
    (run / folder.CONFIG).write_bytes(begun.config)
    again = pretrained_run.read(run, path)
    assert again.resumes and again.model.sizes == begun.model.sizes
    assert again.config == begun.config


def test_a_classifier_on_it_has_a_new_pooler(tmp_path: Path) -> None:
    path = write_unpooled(tmp_path / "model", "bert")
    write_tokenizer(path)
    table = tmp_path / "reviews.csv"
    rows = "".join(f"the cat {i},{'ab'[i % 2]}\n" for i in range(40))
    table.write_text(f"text,label\n{rows}")
    flags: Any = {"init_from": path, "source": str(table), "batch_size": 4}
    made = pretrained_classifier.experiment(**flags)
    abstract = jax.eval_shape(made.init, jax.random.key(0))
    with pytest.raises(ValueError, match="got BertModel without .*encoder/pool/w_DO"):
        made.warm_start.check(abstract)
