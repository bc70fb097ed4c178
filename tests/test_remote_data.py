"""Data in an object store are the same data as on disk."""

import gzip
import sys

import fake_store
import jax
import numpy as np
import pretrained_folder
import pytest

from experiments import pretrained
from transformer import checks, command, flags, remote_data, storage
from transformer.data.readers import text_files
from transformer.data.sources import EvaluationOnly, exists, pairs, text
from transformer.generation import image_files
from transformer.interchange import folder as interchange_folder

LINES = "".join(f"line {number} of the text\n" for number in range(200))
TABLE = "".join(f'{{"text": "row {number}"}}\n' for number in range(40))
FILES = {
    "corpus/a.txt": LINES.encode(),
    "corpus/b/c.txt.gz": gzip.compress(LINES.upper().encode(), mtime=0),
    "corpus/d.jsonl": TABLE.encode(),
    "corpus/.hidden": b"no text",
    "pairs.tsv": "".join(f"a{n}\tb{n}\n" for n in range(40)).encode(),
    "x.en.txt": LINES.encode(),
    "x.pt.txt": LINES.upper().encode(),
}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The same files on disk and in a store, with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fake_store.install(tmp_path / "store", monkeypatch)
    storage.commit_files(tmp_path / "disk", FILES)
    storage.commit_files(checks.parse_path("gs://bucket/data"), FILES)
    return str(tmp_path / "disk"), "gs://bucket/data"


def content(data):
    return [[*data.pieces(split)] for split in ("train", "validation")]


@pytest.mark.parametrize("name", ["corpus", "corpus/a.txt", "corpus/b/c.txt.gz"])
@pytest.mark.parametrize("hashed", [0, 64 << 20])
def test_text_is_the_same(name, hashed, folders, monkeypatch):
    """Of files that are too large to be hashed, the identity is the same on each host,
    though not that on disk, which has their times."""
    monkeypatch.setattr(text_files, "HASHED_BYTES", hashed)
    local, remote = (text.load(f"{folder}/{name}") for folder in folders)
    assert content(local) == content(remote)
    assert bool(hashed) == (local.fingerprint == remote.fingerprint)
    monkeypatch.setenv("XDG_CACHE_HOME", folders[0] + "/other")
    again = text.load(f"{folders[1]}/{name}")
    assert again.fingerprint == remote.fingerprint


def test_mixtures_evaluations_and_pairs_are_the_same(folders):
    local, remote = (
        text.load(f"{f}/corpus/a.txt:0.7,{f}/corpus/d.jsonl:0.3") for f in folders
    )
    assert content(local) == content(remote)
    local, remote = (text.load(EvaluationOnly(f"{f}/corpus")) for f in folders)
    assert content(local) == content(remote) and remote.evaluation_only
    for name in ("{0}/pairs.tsv", "{0}/x.en.txt,{0}/x.pt.txt"):
        local, remote = (pairs.load(name.format(folder)) for folder in folders)
        assert local.labels == remote.labels
        assert local.fingerprint == remote.fingerprint


def test_the_content_is_copied_once_and_again_when_it_changed(folders, capsys):
    place = checks.parse_path(f"{folders[1]}/corpus/a.txt")
    first = remote_data.local_copy(place)
    assert "1 files, 0.0 MB, copied once" in capsys.readouterr().out
    assert remote_data.local_copy(str(place)) == first and not capsys.readouterr().out
    storage.commit(place, b"changed")
    second = remote_data.local_copy(place)
    assert second != first and second.read_bytes() == b"changed"
    other = place.parent / "other.txt"
    storage.commit(other, b"changed")
    assert remote_data.local_copy(other).read_bytes() == b"changed"


def test_a_file_that_changes_while_it_is_copied_is_refused(folders, monkeypatch):
    get = fake_store.FakeStore.get_file

    def change(store, rpath, lpath, *args, **options):
        store.pipe_file(rpath, b"changed")
        get(store, rpath, lpath)

    monkeypatch.setattr(fake_store.FakeStore, "get_file", change)
    with pytest.raises(ValueError, match="a.txt: it changed while it was copied"):
        remote_data.local_copy(f"{folders[1]}/corpus/a.txt")


@pytest.mark.parametrize("place", ["gs://bucket/absent", "gs://bucket/data/corpus/.h"])
def test_what_is_not_there_is_refused(place, folders):
    assert not exists(place) and exists(folders[1])
    with pytest.raises(ValueError, match=f"data: expected a file or .* at {place}$"):
        text.load(place)
    with pytest.raises(ValueError, match="data: expected a bucket that exists, got"):
        text.load("gs://absent/a.txt")


def test_a_model_of_another_library_is_read_from_a_store(folders, tmp_path):
    """Without the files of a run beside it."""
    model = pretrained_folder.write(tmp_path / "model")
    place = checks.parse_path("gs://bucket/model")
    for file in storage.files(model):
        storage.commit(place / file.name, file.read_bytes())
    storage.commit_files(place, {"run.json": b"", "checkpoints/1/a.json": b""})
    copy = remote_data.model_copy(place)
    assert [file.name for file in storage.files(copy)] == [
        file.name for file in storage.files(model)
    ]
    local, remote = (interchange_folder.open_folder(str(f)) for f in (model, place))
    jax.tree.map(
        np.testing.assert_array_equal, local.read_params(), remote.read_params()
    )
    arguments = {"init_from": place, "text": str(folders[0]) + "/corpus/a.txt"}
    made = command.make_experiment(pretrained.experiment, arguments, tmp_path / "run")
    assert made.warm_start is not None


def test_only_folders_of_runs_and_models_may_be_in_a_store(folders):
    """Files that a verb writes or reads by itself are of a file system."""
    values = {"output": "gs://bucket/a.png"}
    with pytest.raises(ValueError, match="--output: expected a path of a file system"):
        flags.from_json(image_files.generate, values)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ValueError, match="s3://b/a.txt: expected the library s3fs"):
        text.load("s3://b/a.txt")
