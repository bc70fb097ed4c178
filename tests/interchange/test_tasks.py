"""What one does with an encoder's folder: vectors, classes, zero-shot labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import commands
import jax
import jax.numpy as jnp
import numpy as np
import pretrained_folder
import pytest

import transformer
from experiments import pretrained
from transformer.generation import text_model
from transformer.interchange import (
    classification,
    folder,
    image_rows,
    tasks,
    text_embedding,
    text_rows,
)
from transformer.interchange.architectures.encoders import ImageSizes
from transformer.network import masks

FIXTURES = Path(__file__).parent / "fixtures"
TEXTS = ["the cat", "the hens sat the cats", "é", "cat " * 40, "", "dog the"]
IDS = {
    "the hens sat": [1, 4, 6, 7, 8, 2],
    "dog": [1, 3, 2],
    "": [1, 2],
}


@pytest.fixture
def make_folder(tmp_path: Path) -> Any:
    """A copy of a fixture with a tokenizer, and with other files."""

    def make(name: str, **files: Any) -> Path:
        path = tmp_path / name
        shutil.copytree(FIXTURES / name, path)
        pretrained_folder.write_tokenizer(path)
        (path / "1_Pooling").mkdir()
        for file, content in files.items():
            (path / file.replace("__", "/")).with_suffix(".json").write_text(
                json.dumps(content)
            )
        return path

    return make


def sentence_files(mode: str, *kinds: str) -> dict[str, Any]:
    modules = [{"type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    return {"modules": modules, "1_Pooling__config": {f"pooling_mode_{mode}": True}}


def test_a_text_alone_has_the_vector_that_it_has_in_a_batch(
    make_folder: Any, capsys: Any
) -> None:
    """And that of its ids in a row of its own length: special tokens count, padding
    does not; a text that is cut is counted."""
    path = make_folder("bert")
    rows = text_rows.read_text_rows(path, length=9, vocab_size=67, padding=0)
    for text, ids in IDS.items():
        assert rows.encode_pieces([text])[0].tolist() == ids
    model = transformer.load(path)
    together = model.embed(TEXTS, pooling="mean")
    assert "1 of 6 texts are longer than 32 tokens" in capsys.readouterr().out
    params, pooled = model.params, []
    encode = tasks.rows_of(model._model("embed")).encode_pieces

    @jax.jit
    def features(params: Any, ids_BL: jax.Array) -> jax.Array:
        inputs = ids_BL, masks.single_document(ids_BL.shape[1])
        return model.net.apply({"params": params}, *inputs, method="features")

    for text in TEXTS:
        x_BLD = features(params, jnp.asarray(encode([text])))
        pooled.append(x_BLD.mean(1)[0])
    np.testing.assert_allclose(together, np.stack(pooled), atol=2e-6)
    alone = model.embed(TEXTS[1:2], pooling="mean")
    np.testing.assert_allclose(alone, together[1:2], atol=2e-6)


def test_the_folder_says_the_pooling(make_folder: Any, capsys: Any) -> None:
    path = make_folder("bert", **sentence_files("cls_token", "Transformer", "Pooling"))
    model = transformer.load(path)
    first = model.embed(["the cat"])
    np.testing.assert_array_equal(first, model.embed(["the cat"], pooling="cls"))
    assert np.abs(first - model.embed(["the cat"], pooling="mean")).max() > 0.1
    unit = model.embed(["the cat"], normalize=True)
    np.testing.assert_allclose(unit, first / np.linalg.norm(first), rtol=1e-5)
    assert "no modules.json" not in capsys.readouterr().out
    (path / "modules.json").unlink()
    np.testing.assert_array_equal(
        model.embed(["the cat"]), model.embed(["the cat"], pooling="mean")
    )
    assert "the mean of the tokens; --pooling=cls" in capsys.readouterr().out


def test_a_folder_of_version_5_names_its_pooling_and_has_a_prompt(
    make_folder: Any, capsys: Any
) -> None:
    """A prompt is put before each text and said; lower case where the folder says."""
    files = sentence_files("max_tokens", "Transformer", "Pooling")
    files["1_Pooling__config"] = {"pooling_mode": "cls", "include_prompt": True}
    prompts = {"prompts": {"query": "the cat "}, "default_prompt_name": "query"}
    files["config_sentence_transformers"] = prompts
    path = make_folder("bert", **files)
    model = transformer.load(path)
    prompted = model.embed(["sat"])
    assert "'the cat ' is put before each text" in capsys.readouterr().out
    (path / "config_sentence_transformers.json").unlink()
    np.testing.assert_array_equal(prompted, model.embed(["the cat sat"]))
    upper = model.embed(["THE CAT SAT"])
    settings = path / "sentence_bert_config.json"
    settings.write_text('{"do_lower_case": true}')
    np.testing.assert_array_equal(prompted, model.embed(["THE CAT SAT"]))
    assert np.abs(prompted - upper).max() > 0.01


NORMALIZED = "Transformer", "Pooling", "Normalize"
BAD_POOLINGS = {
    "max": (sentence_files("max_tokens", *NORMALIZED), "got pooling_mode_max_tokens"),
    "a dense layer": (
        sentence_files("mean_tokens", "Transformer", "Pooling", "Dense"),
        "got Transformer, Pooling, Dense",
    ),
    "a prompt that is not pooled": (
        {
            **sentence_files("mean_tokens", "Transformer", "Pooling"),
            "1_Pooling__config": {"pooling_mode": "mean", "include_prompt": False},
            "config_sentence_transformers": {
                "prompts": {"a": "b"},
                "default_prompt_name": "a",
            },
        },
        "include_prompt: expected true, got False",
    ),
    "a prompt that is not there": (
        {
            **sentence_files("mean_tokens", "Transformer", "Pooling"),
            "config_sentence_transformers": {"default_prompt_name": "a"},
        },
        "default_prompt_name: expected the name of a prompt, got 'a'",
    ),
    "a mode that is not known": (
        {
            **sentence_files("mean_tokens", "Transformer", "Pooling"),
            "1_Pooling__config": {"pooling_mode": "lasttoken"},
        },
        "expected one of",
    ),
    "no list": ({"modules": 3}, "expected Transformer, Pooling and perhaps Normalize"),
}


@pytest.mark.parametrize("case", BAD_POOLINGS)
def test_other_modules_are_refused(case: str, make_folder: Any) -> None:
    files, expected = BAD_POOLINGS[case]
    with pytest.raises(ValueError, match=expected):
        text_embedding.read_pooling(make_folder("bert", **files))


def test_ids_beyond_the_embedding_are_refused(make_folder: Any) -> None:
    with pytest.raises(ValueError, match="expected ids below 9, the vocabulary"):
        text_rows.read_text_rows(make_folder("bert"), length=9, vocab_size=9, padding=0)


def test_the_verbs_of_an_encoder(
    make_folder: Any, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    """Print a table, write vectors; what a model does not offer is refused by name."""
    path, out = make_folder("bert"), tmp_path / "vectors.npz"
    run = type("Run", (), {"experiment": staticmethod(pretrained.experiment)})
    run.verbs = {**tasks.all_verbs(), "generate": text_model.generate}  # pyright: ignore
    common = [f"--workdir={tmp_path / 'run'}", f"--init_from={path}"]
    argv = ["embed", *common, "--text=the cat|the hen", f"--output={out}"]
    assert commands.exit_status(argv, monkeypatch, run=run) == 0
    assert "2 texts, vectors of 24, pooling mean\n1.000  0." in capsys.readouterr().out
    model = transformer.load(path)
    expected = model.embed(["the cat", "the hen"])
    np.testing.assert_allclose(np.load(out)["vectors"], expected, atol=2e-6)
    for verb in ("train", "evaluate", "generate", "classify", "benchmark"):
        line = commands.refusal([verb, *common], capsys, monkeypatch, run=run)
        assert "expected one of embed, export, which BertModel offers" in line
        assert f"got {verb}" in line
    line = commands.refusal(argv[:3], capsys, monkeypatch, run=run)
    assert "--text: expected a file, or texts divided by |, got none" in line


def test_a_classifier_of_texts_names_its_classes(make_folder: Any) -> None:
    model = transformer.load(make_folder("distilbert_classifier"))
    (found,) = model.classify(["the cat"])
    ids_BL = jnp.array([[1, 4, 5, 2]])
    apply = jax.jit(lambda p: model.net.apply(p, ids_BL, masks.single_document(4)))
    logits_BV = apply({"params": model.params})
    np.testing.assert_allclose(list(found.values()), jax.nn.softmax(logits_BV)[0], 1e-4)
    assert list(found) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    with pytest.raises(ValueError, match="Classification does not embed"):
        model.embed(["the cat"])
    with pytest.raises(ValueError, match="expected no labels, it has classes of its"):
        model.classify(["the cat"], labels=["a"])


@pytest.mark.parametrize("name", ["vit", "siglip", "clip", "dinov2"])
def test_images_are_prepared_as_by_transformers(name: str, tmp_path: Path) -> None:
    """Equal to a thousandth of a gray level; the size must be the model's."""
    says = json.loads((FIXTURES / "preprocessing.json").read_text())[name]
    (tmp_path / image_rows.FILE).write_text(json.dumps(says))
    arrays = np.load(FIXTURES / "preprocessing.npz")
    image = ImageSizes(12, 4, 3)
    how = image_rows.read_preprocessing(tmp_path, image)
    ours = image_rows.prepare(arrays["image"], how)
    theirs = arrays[name]
    theirs = theirs.transpose(1, 2, 0) if theirs.shape[0] == 3 else theirs
    level = 1 / 255 / min(how.std)
    np.testing.assert_allclose(ours, theirs, atol=1e-3 * level)
    with pytest.raises(ValueError, match="expected images of 16 x 16, which the model"):
        image_rows.read_preprocessing(tmp_path, image._replace(side=16))


BAD_PREPROCESSING = {
    "unknown key": ({"do_flip": True}, "got do_flip = True"),
    "no size": ({"size": {"longest_edge": 12}}, "size: expected height and width"),
    "one mean": ({"image_mean": [0.5]}, "image_mean: expected 3 numbers"),
    "no filter": ({"resample": 9}, "resample: expected 0 to 5"),
    "zero": ({"image_std": [0, 1, 1]}, "image_std: expected numbers other than 0"),
    "padding": ({"do_pad": True}, "do_pad: expected False"),
}


@pytest.mark.parametrize("case", BAD_PREPROCESSING)
def test_other_preprocessing_is_refused(case: str, tmp_path: Path) -> None:
    values, expected = BAD_PREPROCESSING[case]
    says: dict[str, Any] = {"size": {"height": 12, "width": 12}, **values}
    (tmp_path / image_rows.FILE).write_text(json.dumps(says))
    with pytest.raises(ValueError, match=expected):
        image_rows.read_preprocessing(tmp_path, ImageSizes(12, 4, 3))


def test_pixels_that_fill_no_patch_are_not_read() -> None:
    """As a convolution without padding leaves them out (SigLIP: 384 of 14)."""
    how = image_rows.Preprocessing(None, 2, None, 1.0, (0.0,) * 3, (1.0,) * 3)
    pixels = np.random.default_rng(0).integers(0, 256, (14, 14, 3)).astype(np.uint8)
    sizes = ImageSizes(14, 4, 3)
    assert (sizes.patched_side, sizes.patches) == (12, 9)
    found = image_rows.to_patches(pixels, sizes, how, "image")
    whole = image_rows.to_patches(pixels[:12, :12], ImageSizes(12, 4, 3), how, "image")
    np.testing.assert_array_equal(found, whole)


def test_an_image_file_is_classified(tmp_path: Path) -> None:
    """In the folder's preprocessing; files are named where they are no images."""
    from PIL import Image

    path = tmp_path / "model"
    shutil.copytree(FIXTURES / "vit_classifier", path)
    says = json.loads((FIXTURES / "preprocessing.json").read_text())["vit"]
    (path / image_rows.FILE).write_text(json.dumps(says))
    pixels = np.load(FIXTURES / "preprocessing.npz")["image"]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    model = transformer.load(path)
    (found,) = model.classify([tmp_path / "a.png"])
    assert len(found) == 5 and sum(found.values()) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match=r"b\.png: expected an image"):
        model.classify([tmp_path / "a.png", tmp_path / "b.png"])


def test_conversions_of_images_are_counted_in_one_line(
    tmp_path: Path, capsys: Any
) -> None:
    """Transparency becomes white, not what lies under it."""
    from PIL import Image

    path, rng = tmp_path / "model", np.random.default_rng(0)
    shutil.copytree(FIXTURES / "vit_classifier", path)
    says = json.loads((FIXTURES / "preprocessing.json").read_text())["vit"]
    (path / image_rows.FILE).write_text(json.dumps(says))
    color = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
    clear, white = color.copy(), color.copy()
    opaque = np.repeat(np.array([[0, 255]], np.uint8), 12, 0).repeat(6, 1)
    clear.putalpha(Image.fromarray(opaque))
    white.paste("white", (0, 0, 6, 12))
    turned = Image.Exif()
    turned[0x0112] = 3
    deep = Image.fromarray(rng.integers(0, 65536, (12, 12), np.uint16))
    made = {"white.png": white, "clear.png": clear, "gray.png": color.convert("L")}
    made |= {"palette.png": color.quantize(8), "deep.png": deep}
    for name, image in made.items():
        image.save(tmp_path / name)
    color.save(tmp_path / "turned.png", exif=turned)
    model = transformer.load(path)
    capsys.readouterr()
    files = [tmp_path / name for name in (*made, "turned.png")]
    found = model.classify(files)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and printed.startswith("images: 5 of 6 images: ")
    for words in (
        *("1 alpha composited on white", "2 gray to RGB", "1 palette to RGB"),
        *("1 16 bits rounded to 8", "1 rotated by EXIF"),
    ):
        assert words in printed
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert found[0] != pytest.approx(found[5], abs=1e-6)
    model.classify(files[:1])
    assert not capsys.readouterr().out


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_labels_of_images_have_the_scores_of_transformers(name: str) -> None:
    """From its pixels and ids: a softmax over labels (CLIP), a sigmoid of each."""
    opened = folder.open_folder(FIXTURES / name)
    reference = np.load(FIXTURES / name / "reference.npz")
    ids = {
        str(i): row[mask > 0].astype(np.int32)
        for i, (row, mask) in enumerate(
            zip(reference["input_ids"], reference["attention_mask"], strict=True)
        )
    }
    rows = text_rows.TextRows(lambda texts: [ids[text] for text in texts], 20, 0)
    pixels = reference["pixel_values"].transpose(0, 2, 3, 1)
    raw_NLP = image_rows.patches.patchify(pixels, (4, 4))
    found = classification.match_images(
        opened.net,
        opened.read_params(),
        raw_NLP,
        rows,
        ["0", "1"],
        is_clip=name == "clip",
    )
    scores = reference["logits_per_image"]
    to_probability = jax.nn.softmax if name == "clip" else jax.nn.sigmoid
    np.testing.assert_allclose(found, to_probability(scores), atol=1e-4)
