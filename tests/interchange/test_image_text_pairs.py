"""CLIP and SigLIP are trained further on captions, from a folder to a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import commands
import jax
import numpy as np
import pretrained_folder
import pytest
import safetensors.numpy
from PIL import Image

import transformer
from experiments import clip, pretrained_clip
from transformer import main
from transformer.data.images import patches
from transformer.data.sources import captions
from transformer.interchange import export, folder, image_text_pairs, tasks

FIXTURES = Path(__file__).parent / "fixtures"
# Of transformers 5.24 on the inputs of the fixtures, by `return_loss=True`.
LOSSES = {"clip": 1.110186219215393, "siglip": 1.3940150737762451}
NAMES = tuple(LOSSES)


def read(path: Path) -> tuple[tasks.Model, image_text_pairs.PairCodec]:
    made, sizes = folder.read_config(path)
    model = tasks.Model(path, made, sizes, made.net(sizes))
    return model, image_text_pairs.read(model)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_that_of_transformers(name: str, tmp_path: Path) -> None:
    """With its scale and bias; a row of weight 0 adds nothing, whatever it is."""
    opened = folder.open_folder(FIXTURES / name)
    _, codec = read(pretrained_folder.write_dual_encoder(tmp_path / name, name))
    reference = np.load(FIXTURES / name / "reference.npz")
    pixels = reference["pixel_values"].transpose(0, 2, 3, 1)
    batch = {
        "raw_BLP": patches.patchify(pixels, (4, 4)),
        "ids_BL": reference["input_ids"].astype(np.int32),
        "segment_BL": reference["attention_mask"].astype(np.int32),
        "weight_B": np.ones(2, np.float32),
    }
    loss = jax.jit(image_text_pairs.loss(opened.net, "float32", codec))
    params, key = opened.read_params(), jax.random.key(0)
    found = loss(params, batch, key)
    np.testing.assert_allclose(found.total / found.weight, LOSSES[name], rtol=1e-5)
    more = {k: np.concatenate([v, v[::-1][:1]]) for k, v in batch.items()}
    more["weight_B"] = np.array([1, 1, 0], np.float32)
    np.testing.assert_allclose(loss(params, more, key).total, found.total, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_what_the_labels_of_images_are_read_as(
    name: str, tmp_path: Path
) -> None:
    """Scores of a batch's pairs are those behind the verb `classify`: CLIP's texts have
    the length of the longest, SigLIP's that of the model."""
    source = pretrained_folder.write_dual_encoder(tmp_path / name, name)
    model, codec = read(source)
    place = pretrained_folder.write_captions(tmp_path)
    data = captions.load(str(place))
    splits, tokens = image_text_pairs.splits(data, codec, batch_size=4, seed=0)
    batch = splits[1].batch(0, range(4))
    length = {"clip": 4, "siglip": 32}[name]
    assert batch["ids_BL"].shape == (4, length) and batch["raw_BLP"].shape == (4, 9, 48)
    assert tokens == 9 + (name == "clip") + length
    words = {2: "red", 3: "green", 4: "blue", 5: "dark", 6: "light", 7: "square"}
    texts = [
        " ".join(words[int(one)] for one in row if int(one) in words)
        for row in batch["ids_BL"]
    ]
    assert texts == list(data.validation["text"])[:4]
    assert batch["segment_BL"].all(1).all() and batch["ids_BL"][0, 3] == 8
    files = []
    for number, pixels in enumerate(data.validation["image"][:4]):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(files[-1])
    params = folder.open_folder(source).read_params()
    _, expected = tasks.probabilities(model, params, files, texts)
    objective = {"clip": "softmax_loss", "siglip": "sigmoid_loss"}[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            image_text_pairs.contrastive, objective, lambda score_BC, weight_B: score_BC
        )
        loss = image_text_pairs.loss(model.net, "float32", codec)
    score_BC: Any = jax.jit(loss)(params, batch, jax.random.key(0))
    to_probability = jax.nn.softmax if name == "clip" else jax.nn.sigmoid
    np.testing.assert_allclose(to_probability(score_BC), expected, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_train_export_and_begin_again(
    name: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """From a folder to a run with a lower loss, to another folder with tensors of the
    same names and the run's values, which classifies as the run does."""
    source = pretrained_folder.write_dual_encoder(tmp_path / "source", name)
    place, out = pretrained_folder.write_captions(tmp_path), tmp_path / "out"
    verbs = {"classify": tasks.classify, "export": export.export}
    run = type("Run", (), {"verbs": verbs})
    run.experiment = staticmethod(pretrained_clip.experiment)  # pyright: ignore
    where, start = f"--workdir={tmp_path / 'run'}", f"--init_from={source}"
    data = [f"--source={place}", "--batch_size=8", "--dtype=float32"]
    assert commands.exit_status(["evaluate", start, *data], monkeypatch, run=run) == 0
    assert "validation/loss" in capsys.readouterr().out
    argv = [where, start, *data, "--steps=30", "--learning_rate=0.003"]
    assert commands.exit_status(argv, monkeypatch, run=run) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "train"]
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    argv = ["export", where, f"--folder={out}"]
    assert commands.exit_status(argv, monkeypatch, run=run) == 0
    theirs, ours = (
        safetensors.numpy.load_file(path / "model.safetensors")
        for path in (source, out)
    )
    shapes = [{k: v.shape for k, v in one.items()} for one in (theirs, ours)]
    assert shapes[0] == shapes[1]
    assert not any(np.array_equal(theirs[key], ours[key]) for key in theirs)
    for file, content in folder.companions_of(source).items():
        assert (out / file).read_bytes() == content
    trained, exported = (transformer.load(path) for path in (tmp_path / "run", out))
    jax.tree.map(np.testing.assert_array_equal, trained.params, exported.params)
    labels = ["dark red square", "light blue square"]
    image = place / "0.png"
    argv = ["classify", where, f"--images={image}", f"--labels={','.join(labels)}"]
    capsys.readouterr()
    assert commands.exit_status(argv, monkeypatch, run=run) == 0
    shown = capsys.readouterr().out
    (found,) = exported.classify([image], labels=labels)
    for label, probability in found.items():
        assert f"{label} {100 * probability:.1f} %" in shown


def test_what_is_no_dual_encoder_is_refused_before_the_data_are_read(
    tmp_path: Path, monkeypatch: Any
) -> None:
    def load(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("the data are read")

    monkeypatch.setattr(pretrained_clip.captions, "load", load)
    make = pretrained_clip.experiment
    other = pretrained_folder.write_vit(tmp_path / "vit")
    with pytest.raises(ValueError, match="expected CLIP or SigLIP, got ViTModel$"):
        make(init_from=other)
    source = pretrained_folder.write_dual_encoder(tmp_path / "clip")
    (source / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"expected preprocessor_config\.json, got no"):
        make(init_from=source)
    pretrained_folder.write_dual_encoder(tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"expected tokenizer\.json, got none"):
        make(init_from=tmp_path / "bare")


def test_other_experiments_name_this_one(tmp_path: Path) -> None:
    source = pretrained_folder.write_dual_encoder(tmp_path / "source")
    with pytest.raises(ValueError, match="pretrained_clip CLIP and SigLIP"):
        main.run(clip.experiment, tmp_path / "run", init_from=source)


def test_what_is_converted_or_cut_is_said(tmp_path: Path, capsys: Any) -> None:
    """Images with transparency, gray ones, and texts beyond the model's; without an
    end of its texts a CLIP is refused."""
    source = pretrained_folder.write_dual_encoder(tmp_path / "source")
    place = pretrained_folder.write_captions(tmp_path, 12)
    Image.open(place / "3.png").convert("L").save(place / "3.png")
    clear = Image.open(place / "4.png").convert("RGBA")
    clear.putalpha(90)
    clear.save(place / "4.png")
    table = (place / "captions.tsv").read_text()
    long = table.replace("dark red square", "dark red square " + "red " * 40)
    (place / "captions.tsv").write_text(long)
    flags: Any = {"source": str(place), "batch_size": 4, "init_from": source}
    pretrained_clip.experiment(**flags)
    printed = capsys.readouterr().out
    for words in (
        *("1 alpha composited on white", "1 gray to RGB"),
        "of which the first 32 are used",
    ):
        assert words in printed
    (place / "captions.tsv").write_text(table)
    content = json.loads((source / "tokenizer.json").read_text())
    (source / "tokenizer.json").write_text(
        json.dumps({**content, "post_processor": None})
    )
    table = table.replace("blue square", "square blue")
    (place / "captions.tsv").write_text(table)
    with pytest.raises(ValueError, match="ends each text with one special token"):
        pretrained_clip.experiment(**flags)


@pytest.mark.parametrize("said", ["tokenizer", "configuration", "nothing"])
def test_the_padding_that_siglip_reads_is_what_the_folder_says(
    said: str, tmp_path: Path
) -> None:
    source = pretrained_folder.write_dual_encoder(tmp_path / "source", "siglip")
    if said == "tokenizer":
        says = {"pad_token": {"content": "[END]"}}
        (source / "special_tokens_map.json").write_text(json.dumps(says))
    if said == "nothing":
        config = json.loads((source / "config.json").read_text())
        del config["text_config"]["pad_token_id"]
        (source / "config.json").write_text(json.dumps(config))
    _, codec = read(source)
    expected = {"tokenizer": 8, "configuration": 0, "nothing": 1}[said]
    assert codec.rows.padding == expected
    (rows,) = image_text_pairs.encode(codec, [["dark red"]])
    assert rows["ids_BL"][0].tolist() == [5, 2, 8] + [expected] * 29
    assert rows["segment_BL"].all()
