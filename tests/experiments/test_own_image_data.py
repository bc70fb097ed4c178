"""Images of one's own, of any size and color, in every experiment that takes images."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.reports import classify_images, maskgit, text_to_image
from transformer import flags
from transformer.data import records

LABELED = ("classify_images", "dit_flow", "maskgit", "image_gpt", "video")
CAPTIONED = ("caption", "clip", "text_to_image")


def write_images(folder: Path) -> None:
    """Gray ones of different sizes: two classes, and a caption for each."""
    rng = np.random.default_rng(0)
    captions = []
    for number in range(16):
        name = f"{'ab'[number % 2]}/{number}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (30 + number, 50 - number), np.uint8)
        Image.fromarray(pixels).save(folder / name)
        captions.append(f"{name}\timage number {number}, of noise")
    (folder / "captions.tsv").write_text("\n".join(captions))


@pytest.mark.parametrize("name", LABELED + CAPTIONED)
def test_image_size_is_that_of_the_data(name: str, tmp_path: Path) -> None:
    write_images(tmp_path)
    make = importlib.import_module(f"experiments.{name}").experiment
    options: Any = {"source": str(tmp_path), "batch_size": 4}
    if "vocab_size" in flags.parameters(make):
        options["vocab_size"] = 258
    with pytest.raises(ValueError, match="--image_size=N resizes and crops"):
        make(**options)
    made = make(**options, image_size=32)
    data = made.data if name in LABELED else made.data.data
    side = 16 if name == "video" else 32  # videos are of halved digits
    assert data.train["image"].shape[1:3] == (side, side)
    batch = made.batch(0, range(4))
    assert all(np.isfinite(array).all() for array in batch.values())


def write_color_table(folder: Path) -> Path:
    """Images in color of 16 x 16 pixels, in a table of unusual names."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        name = f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / name)
        rows.append({"where": name, "kind": "ab"[number % 2], "note": f"no {number}"})
    table = folder / "mine.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    return table


@pytest.mark.parametrize("name", LABELED + CAPTIONED)
def test_columns_name_those_of_a_table(name: str, tmp_path: Path) -> None:
    make = importlib.import_module(f"experiments.{name}").experiment
    options: Any = {"source": str(write_color_table(tmp_path)), "batch_size": 4}
    if "vocab_size" in flags.parameters(make):
        options["vocab_size"] = 258
    with pytest.raises(ValueError, match="expected one column '.*--columns names"):
        make(**options)
    columns = "where,kind" if name in LABELED else "where,note"
    made = make(**options, columns=columns)
    rows = made.data.train if name in LABELED else made.data.data.train
    assert rows["image"].shape[-1] == 3
    if name in CAPTIONED:
        assert all(text.startswith("no ") for text in rows["text"])


def independent_bits(tokenizer: Any) -> float:
    """Bits per pixel by counts of each channel of each pixel in the class's images."""
    (train, label), (held, held_label) = (
        (tokenizer.palette[rows["ids_BL"]] // 85, rows["label_B"])
        for rows in (tokenizer.train, tokenizer.validation)
    )
    bits = 0.0
    for image, c in zip(held, held_label, strict=True):
        counts = np.eye(4)[train[label == c]].sum(0) + 0.1
        p = counts / counts.sum(-1, keepdims=True)
        bits -= np.log2(np.take_along_axis(p, image[..., None], -1)).sum()
    return bits / held[..., 0].size


@pytest.mark.parametrize("name", ["maskgit", "image_gpt", "video"])
def test_images_in_color_are_trained_on_and_sampled(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And reported, without the classifier of digits, as one line says."""
    monkeypatch.setattr(maskgit, "SAMPLING_STEPS", (1, 2))
    make = importlib.import_module(f"experiments.{name}").experiment
    made = make(
        source=str(write_color_table(tmp_path)),
        columns="where,kind",
        **{"batch_size": 2, "depth": 1, "width": 32, "dtype": "float32"},
    )
    params = jax.jit(made.init)(jax.random.key(0))
    batch = made.batch(0, range(2))
    total, gradient = jax.jit(
        jax.value_and_grad(lambda p: made.loss(p, batch, jax.random.key(1)).total)
    )(params)
    assert np.isfinite(total)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    options: Any = {} if name == "video" else {"digits": "01"}
    if name == "maskgit":
        options["sampling_steps"] = 2
    images = made.generate(params, jax.random.key(0), **options)
    assert images.shape[-1] == 3 and images.dtype == np.uint8
    if name == "video":
        return
    files = made.report(params, jax.random.key(0))
    line = capsys.readouterr().out
    assert "the default classifier, of digits, has other classes" in line
    assert not any("accuracy" in key for key in files["results.json"])
    assert files["results.json"]["nn_distance"] > 0
    if name == "image_gpt":
        bits = files["results.json"]
        assert 0 < bits["bits_per_pixel"] < 8
        expected = independent_bits(made.tokenizer)
        assert bits["bits_per_pixel/independent"] == pytest.approx(expected)


def test_a_classifier_is_used_for_its_own_classes_and_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image, label = np.zeros((4, 28, 28, 1), np.uint8), np.arange(4)
    arrays = {"image": image, "label": label}
    digits = tuple("0123456789")
    data = records.Records("mine", "0", arrays, arrays, digits)
    made = SimpleNamespace(net="net", tokenizer="tokenizer", data=data)
    monkeypatch.setattr(classify_images, "_load", lambda folder: (made, "params"))
    monkeypatch.setattr(classify_images, "from_net", lambda *arguments: arguments)
    for folder in (None, tmp_path):
        for fitting, other in (
            (True, data._replace(name="other")),
            (False, data._replace(labels=digits[:9])),
            (False, data._replace(train={**arrays, "image": image[:, :14]})),
        ):
            got = classify_images.classifier_for(other, folder)
            assert got == (("net", "tokenizer", "params") if fitting else None)
            line = "so the report has no accuracy; --classifier=RUN names"
            assert fitting != (line in capsys.readouterr().out)


def test_own_captions_are_drawn_without_the_scorer_of_emoji(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions: Any = (
        importlib.import_module("experiments.text_to_image")
        .experiment(
            source=str(write_color_table(tmp_path)),
            columns="where,note",
            **{"batch_size": 2, "depth": 1, "text_depth": 1, "width": 32},
            vocab_size=258,
        )
        .data
    )
    held = captions.data.validation["image"]
    files = text_to_image.report(
        lambda *arguments, steps: held, captions, None, 1, {}, jax.random.key(0)
    )
    assert "the default scorer knows emoji of 32 x 32" in capsys.readouterr().out
    assert set(files["results.json"]) == {
        *("names", "chance", "nn_distance/samples", "nn_distance/real")
    }
