"""Folders as the Hub's cache has them, and folders that have other files than those
that are read: one line says what was found and what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pretrained_folder
import pytest
import safetensors.numpy
from test_export_command import status

import transformer
from transformer import hub_cache
from transformer.interchange import folder, tensor_files

FIXTURES = Path(__file__).parent / "fixtures"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SINGLE, INDEX = tensor_files.SINGLE, tensor_files.INDEX


def write_cache(root: Path, source: Path, name: str = "models--org--name") -> Path:
    """The folder of a model in a cache: files as blobs, a snapshot of links to them."""
    path = root / name
    snapshot = path / "snapshots" / COMMIT
    for one in (path / "blobs", path / "refs", snapshot):
        one.mkdir(parents=True)
    for number, file in enumerate(sorted(source.iterdir())):
        shutil.copy(file, path / "blobs" / f"{number:040x}")
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", f"{number:040x}"))
    (path / "refs" / "main").write_text(COMMIT)
    return path


def in_shards(path: Path) -> Path:
    """The fixture in three files with an index."""
    opened = folder.open_folder(FIXTURES / "llama")
    made = opened.architecture, opened.sizes, opened.read_params()
    folder.write_folder(path, *made, max_shard_bytes=40_000)
    assert (path / INDEX).is_file()
    return path


@pytest.mark.parametrize("sharded", [False, True])
def test_a_cache_is_read_as_its_files(
    sharded: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the folder of the model, which one line says, and by that of the snapshot."""
    source = in_shards(tmp_path / "source") if sharded else FIXTURES / "llama"
    path = write_cache(tmp_path / "hub", source)
    hub_cache._print_once.cache_clear()
    opened = folder.open_folder(path)
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"{path}: the snapshot {COMMIT[:12]}, as refs/main says"
    again = folder.open_folder(path / "snapshots" / COMMIT)
    expected = folder.open_folder(source)
    assert opened.sizes == again.sizes == expected.sizes
    for name, tensor in expected.tensors.items():
        np.testing.assert_array_equal(tensor.read(), opened.tensors[name].read())
        np.testing.assert_array_equal(tensor.read(), again.tensors[name].read())


def test_a_run_and_a_notebook_begin_with_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the tokenizer of the snapshot."""
    source = pretrained_folder.write(tmp_path / "llama")
    path = write_cache(tmp_path / "hub", source)
    model, same = transformer.load(path), transformer.load(source)
    text = same.generate("the hen", new_tokens=4)
    assert model.generate("the hen", new_tokens=4) == text
    out = tmp_path / "out"
    argv = ["export", f"--init_from={path}", f"--folder={out}"]
    assert status([*argv, f"--workdir={tmp_path / 'run'}"], monkeypatch) == 0
    assert folder.read_config(out)[1] == folder.read_config(source)[1]


def empty(path: Path) -> None:
    shutil.rmtree(path / "snapshots" / COMMIT)


def reference(text: str) -> Callable[[Path], Any]:
    return lambda path: (path / "refs" / "main").write_text(text)


def unlink_blob(name: str) -> Callable[[Path], Any]:
    """The download of a file that did not end."""
    return lambda path: (path / "snapshots" / COMMIT / name).resolve().unlink()


BAD_CACHES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no refs/main": (
        lambda path: (path / "refs" / "main").unlink(),
        f"got no refs/main; give the snapshot itself: .*snapshots/{COMMIT}",
    ),
    "another snapshot": (
        reference("f" * 40),
        f"got 'f+', which is not there; give the snapshot itself: .*{COMMIT}",
    ),
    "a path as a reference": (reference("../.."), "no refs/main; give the snapshot"),
    "a long reference": (reference("f" * 10**6), "which is not there; give the snaps"),
    "no snapshot": (empty, "no snapshot was downloaded"),
    "no configuration yet": (
        unlink_blob("config.json"),
        "config.json, got a link to nothing: a download that did not end",
    ),
    "no weights yet": (
        unlink_blob(SINGLE),
        "got model.safetensors, a link to nothing: a download that did not end",
    ),
}


@pytest.mark.parametrize("name", BAD_CACHES)
def test_a_cache_that_is_not_whole_is_refused(name: str, tmp_path: Path) -> None:
    change, message = BAD_CACHES[name]
    path = write_cache(tmp_path, FIXTURES / "llama")
    change(path)
    with pytest.raises(ValueError, match=message) as error:
        transformer.load(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_whole_cache_is_refused_with_the_names_in_it(tmp_path: Path) -> None:
    write_cache(tmp_path, FIXTURES / "llama", "models--a--b")
    write_cache(tmp_path, FIXTURES / "llama", "models--c--d")
    with pytest.raises(ValueError, match="with models--a--b, models--c--d; give one"):
        transformer.load(tmp_path)


def renamed(*names: str) -> Callable[[Path], Any]:
    """Other files in the place of the weights."""

    def change(path: Path) -> None:
        for name in names:
            shutil.copy(path / SINGLE, path / name)
        (path / SINGLE).unlink()

    return change


OTHERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a variant": (
        renamed("model.fp16.safetensors"),
        "got model.fp16.safetensors, the variant 'fp16'; .* or rename it to model.safe",
    ),
    "a variant in shards": (
        renamed("model.fp16-00001-of-00002.safetensors"),
        "the variant 'fp16'; .*variant=\"fp16\", and save_pretrained.other_folder.$",
    ),
    "shards without an index": (
        renamed("model-00001-of-00002.safetensors"),
        "model-00001-of-00002.safetensors without model.safetensors.index.json",
    ),
    "of Mistral": (
        renamed("consolidated.safetensors"),
        "got consolidated.safetensors, weights with the names of their authors",
    ),
    "of Meta": (renamed("consolidated.00.pth"), "names of their authors"),
    "a pickle": (
        renamed("pytorch_model.bin", "training_args.bin"),
        "got pytorch_mod.* may run",
    ),
    "a pickle in shards": (renamed("pytorch_model-00001-of-00002.bin"), "may run code"),
    "of Flax": (renamed("flax_model.msgpack"), "weights of Flax; .*from_flax=True"),
    "of TensorFlow": (renamed("tf_model.h5"), "of TensorFlow; .*from_tf=True"),
    "a program": (renamed("model.onnx"), "got model.onnx, a program"),
    "a GGUF file": (renamed("a.gguf"), "got a.gguf, a GGUF file; give its path"),
    "of another part": (
        renamed("vision.safetensors"),
        "vision.safetensors, which is of",
    ),
    "nothing": (renamed("training_args.bin"), "got neither"),
    "a pipeline": (
        lambda path: (
            (path / "unet").mkdir(),
            (path / "config.json").rename(path / "unet" / "config.json"),
            (path / "model_index.json").write_text("{}"),
        ),
        "got a pipeline of diffusers; give one of its folders: unet",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_with_other_files_says_what_to_do(name: str, tmp_path: Path) -> None:
    change, message = OTHERS[name]
    path = tmp_path / "model"
    shutil.copytree(FIXTURES / "llama", path)
    change(path)
    with pytest.raises(ValueError, match=message) as error:
        transformer.load(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_variant_is_read_once_it_is_renamed(tmp_path: Path) -> None:
    path = tmp_path / "model"
    shutil.copytree(FIXTURES / "llama", path)
    tensors = safetensors.numpy.load_file(path / SINGLE)
    halves = {key: value.astype(np.float16) for key, value in tensors.items()}
    safetensors.numpy.save_file(halves, path / "model.fp16.safetensors")
    (path / SINGLE).unlink()
    (path / "model.fp16.safetensors").rename(path / SINGLE)
    assert {one.dtype for one in folder.open_folder(path).tensors.values()} == {"F16"}
