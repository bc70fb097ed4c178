"""An encoder of another library is trained further as a classifier, and exported."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pretrained_folder
import pytest
from PIL import Image

from experiments import language_model, pretrained_classifier
from transformer import main
from transformer.interchange import encoder_classifier, folder
from transformer.interchange.start import PretrainedStart
from transformer.training import loop
from transformer.training.checksum import leaf_paths

FIXTURES = Path(__file__).parent / "fixtures"
LABELS = ("a", "b", "c")
HEAD = {"unembedding_VD", "b_V"}
POOLER = {"encoder/pool/w_DO", "encoder/pool/b_O"}
# The parameters that are new, whatever the folder has beside its encoder.
NEW = {
    "bert": HEAD,
    "bert_classifier": HEAD,
    "bert_mlm": HEAD | POOLER,
    "distilbert": HEAD | POOLER,
    "dinov2": HEAD,
    "vit": HEAD,
    "vit_classifier": HEAD,
    "videomae": HEAD,
    "videomae_classifier": HEAD,
    "videomae_first_token": HEAD,
}


def start(name: str, labels: tuple[str, ...], partial: bool) -> tuple[Any, Any, Any]:
    """The start from a fixture, the classifier's parameters, and the opened folder."""
    opened = folder.open_folder(FIXTURES / name)
    made = opened.architecture
    sizes = encoder_classifier.with_labels(opened.sizes, labels, name)
    params = jax.jit(made.init, static_argnums=0)(made.net(sizes), jax.random.key(0))
    source = PretrainedStart(FIXTURES / name)
    of_folder = encoder_classifier.ClassifierStart(source, labels, partial)
    return of_folder, params, opened


@pytest.mark.parametrize("name", NEW)
def test_all_but_the_head_is_taken(name: str, capsys: Any) -> None:
    """From an encoder with any head; the rest is said, and asked for by a flag."""
    of_folder, params, opened = start(name, LABELS, True)
    of_folder.check(params)
    lines = capsys.readouterr().out.splitlines()
    found = {line.split(": ")[1] for line in lines if line.startswith("  new: ")}
    assert found == NEW[name]
    after, theirs = of_folder.apply(params), leaf_paths(opened.read_params())
    for path, leaf in leaf_paths(after).items():
        if path in NEW[name]:
            np.testing.assert_array_equal(leaf, leaf_paths(params)[path])
        else:
            inner = path.replace("encoder/encoder/", "encoder/")
            taken = theirs.get(path, theirs.get(inner, theirs.get(inner[8:])))
            np.testing.assert_array_equal(leaf, taken)
    with pytest.raises(ValueError, match="expected a classifier of a, b, c, got"):
        of_folder._replace(partial=False).check(params)


def test_the_head_of_the_same_classes_is_taken() -> None:
    labels = ("LABEL_0", "LABEL_1", "LABEL_2")
    of_folder, params, opened = start("bert_classifier", labels, False)
    of_folder.check(params)
    jax.tree.map(
        np.testing.assert_array_equal, of_folder.load(params), opened.read_params()
    )


def test_other_models_are_refused() -> None:
    _, sizes = folder.read_config(FIXTURES / "llama")
    with pytest.raises(ValueError, match=r"expected BERT, .* got LlamaForCausalLM"):
        encoder_classifier.with_labels(sizes, LABELS, "LlamaForCausalLM")


def test_a_run_goes_from_an_encoder_to_a_classifier_of_another_library(
    tmp_path: Path,
) -> None:
    """Trained, exported, and taken again with its head; our own experiments say where
    a folder of another library belongs."""
    source, table = tmp_path / "bert", tmp_path / "table.csv"
    shutil.copytree(FIXTURES / "bert", source)
    pretrained_folder.write_tokenizer(source)
    rows = [f"the {'cat' if i % 2 else 'hen'} sat {i},{'ab'[i % 2]}" for i in range(80)]
    table.write_text("\n".join(["text,label", *rows]))
    flags: Any = {"source": str(table), "steps": 2, "batch_size": 8, "dtype": "float32"}
    make, run = pretrained_classifier.experiment, tmp_path / "run"
    with pytest.raises(ValueError, match="--init_partial begins them anew"):
        main.run(make, run, init_from=source, **flags)
    state = main.run(make, run, init_from=source, init_partial=True, **flags)
    made = make(workdir=tmp_path / "run", **flags)
    params = loop.params_of(state)
    found = made.verbs["classify"](params, tmp_path, text="the cat|the hen")
    assert found.shape == (2, 2)
    out = made.verbs["export"](params, tmp_path / "run")
    again = folder.open_folder(out, scanned=True)
    assert again.architecture.name(again.sizes) == "BertForSequenceClassification"
    assert again.sizes.labels == ("a", "b")
    jax.tree.map(np.testing.assert_array_equal, again.read_params(), params)
    exported = make(init_from=out, **flags)
    exported.warm_start.check(params)
    with pytest.raises(ValueError, match="pretrained takes language models"):
        main.run(language_model.experiment, tmp_path / "other", init_from=source)


def test_photographs_of_unequal_sizes_are_resized_where_it_is_asked_for(
    tmp_path: Path,
) -> None:
    for number in range(24):
        folder_ = tmp_path / "photos" / "ab"[number % 2]
        folder_.mkdir(parents=True, exist_ok=True)
        size = 20 + number, 30
        Image.new("RGB", size, "red").save(folder_ / f"{number}.png")
    source = pretrained_folder.write_vit(tmp_path / "vit")
    options: Any = {"init_from": source, "init_partial": True}
    options |= {"source": str(tmp_path / "photos"), "batch_size": 4}
    with pytest.raises(ValueError, match="--image_size=N resizes"):
        pretrained_classifier.experiment(**options)
    made = pretrained_classifier.experiment(**options, image_size=24)
    assert made.data.train["image"].shape[1:] == (24, 24, 3)
