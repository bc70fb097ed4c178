"""Prepared shards depend on the corpus, the tokenizer and the seed, and on nothing
else."""

import gzip
import json
import shutil
import tracemalloc

import fake_store
import numpy as np
import pytest
from commands import contents
from data_texts import write_corpus

from transformer import checks, preparation
from transformer.data.preparation import corpus, runs, shards
from transformer.data.readers import text_tables
from transformer.data.sources import text as text_source
from transformer.data.text import documents, shard_index, tokenizers

FLAGS = {"tokenizer": "bytes", "shards": 4, "held_out": 0.1, "workers": 1}


@pytest.fixture(autouse=True, scope="module")
def cache_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(corpus, "UNIT_BYTES", 1000)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("data") / "corpus")


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory):
    """The corpus, prepared."""
    target = tmp_path_factory.mktemp("prepared") / "folder"
    preparation.prepare(str(source), folder=str(target), **FLAGS)
    return target


def prepare(source, target, **flags):
    return preparation.prepare(str(source), folder=str(target), **{**FLAGS, **flags})


def refusal(source, target, **flags) -> str:
    with pytest.raises(ValueError) as refused:
        prepare(source, target, **flags)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def token_documents(folder, split):
    """The tokens of each document, in the order of the shards."""
    index = shard_index.read(folder)
    found = []
    for shard in index.shards[split]:
        tokens = np.fromfile(shard.file(folder, "tokens"), index.dtype)
        offsets = np.fromfile(shard.file(folder, "offsets"), "<i8").tolist()
        assert offsets[-1] == len(tokens) == shard.tokens
        assert len(offsets) == shard.documents + 1
        found += [
            tokens[start:stop].tolist()
            for start, stop in zip(offsets[:-1], offsets[1:], strict=True)
        ]
    return found


def texts_of(source):
    """Every text of the corpus that `write_corpus` wrote, but the empty ones."""
    found = [
        json.loads(line)["text"]
        for file in sorted((source / "deep").iterdir())
        for line in file.read_text().splitlines()
    ]
    found += [t for t in text_tables.texts(source / "table.parquet", "text") if t]
    found.append((source / "plain.txt").read_text())
    found.append(gzip.open(source / "more.txt.gz", "rt").read())
    return found


def test_each_document_is_once_in_the_shards_with_its_own_tokens(source, folder):
    tokenizer = tokenizers.bytes_()
    expected = [
        [*tokenizer.encode(t).tolist(), tokenizer.end] for t in texts_of(source)
    ]
    found = [d for split in documents.SPLITS for d in token_documents(folder, split)]
    assert sorted(found) == sorted(expected)
    index = shard_index.read(folder)
    assert index.empty == 1 and index.documents("validation") > 5
    assert len(index.shards["train"]) == 4 and not (folder / "work").exists()
    names = [name for name, _, _ in index.sources]
    assert names == sorted(s.relative_to(source).as_posix() for s in paths_of(source))


def paths_of(source):
    return [path for path in source.rglob("*") if path.is_file()]


def test_documents_are_held_out_by_the_hash_of_their_text(tmp_path):
    """So is a table that is not prepared: the same documents are in validation."""
    lines = [json.dumps({"text": f"document {n % 50}"}) for n in range(60)]
    table = tmp_path / "table.jsonl"
    table.write_text("\n".join(lines))
    prepare(table, tmp_path / "out")
    plain = text_source.load(table, held_out=0.1)
    for split in documents.SPLITS:
        found = sorted(
            bytes(ids[:-1]).decode() for ids in token_documents(tmp_path / "out", split)
        )
        assert found == sorted(documents.full_documents(plain, split))


def test_order_is_that_of_the_hashes_of_places(source, folder):
    """In a shard and over the shards, whatever units the files were read in."""
    places = {}
    tokenizer = tokenizers.bytes_()
    for found in corpus.find_sources(str(source)):
        with corpus.local_copy(found) as file:
            pieces = corpus.pieces(found, file, "text")
            for document, piece in pieces:
                place = runs.place(document, 0)
                places.setdefault(place, []).append(piece.text)
    ordered = ["".join(places[place]) for place in sorted(places)]
    expected = [[*tokenizer.encode(t).tolist(), tokenizer.end] for t in ordered if t]
    held_out = token_documents(folder, "validation")
    rest = [d for d in expected if d not in held_out]
    assert token_documents(folder, "train") == rest
    assert held_out == [d for d in expected if d in held_out]


@pytest.mark.parametrize("change", ["place", "units", "workers", "time"])
def test_bytes_depend_on_nothing_but_corpus_tokenizer_and_seed(
    source, folder, tmp_path, monkeypatch, change
):
    copy = tmp_path / "elsewhere"
    shutil.copytree(source, copy, copy_function=shutil.copy)
    if change == "units":
        monkeypatch.setattr(corpus, "UNIT_BYTES", 1)
        monkeypatch.setattr(runs, "ENCODED_CHARACTERS", 100)
        monkeypatch.setattr(runs, "COPIED_BYTES", 7)
    used = source if change == "workers" else copy
    prepare(used, tmp_path / "out", workers=2 if change == "workers" else 1)
    assert contents(tmp_path / "out") == contents(folder)


def test_another_seed_gives_another_order_of_the_same_documents(
    source, folder, tmp_path
):
    prepare(source, tmp_path / "out", seed=1)
    for split in documents.SPLITS:
        one, other = (token_documents(f, split) for f in (folder, tmp_path / "out"))
        assert one != other and sorted(one) == sorted(other)


def test_shards_are_shuffled_and_about_equal(tmp_path):
    lines = [json.dumps({"text": f"{n:05d}"}) for n in range(4000)]
    (tmp_path / "table.jsonl").write_text("\n".join(lines))
    index = prepare(tmp_path / "table.jsonl", tmp_path / "out", shards=8)
    counts = np.array([shard.documents for shard in index.shards["train"]])
    assert abs(counts - 450).max() < 5 * 450**0.5
    found = token_documents(tmp_path / "out", "train")
    numbers = [int(bytes(ids[:-1]).decode()) for ids in found]
    assert abs(np.corrcoef(numbers, np.arange(len(numbers)))[0, 1]) < 0.05


def test_a_divided_corpus_is_used_as_given(tmp_path):
    for split in documents.SPLITS:
        (tmp_path / "corpus" / split).mkdir(parents=True)
        for number in range(3):
            file = tmp_path / "corpus" / split / f"{number}.txt"
            file.write_text(f"{split} {number}")
    prepare(tmp_path / "corpus", tmp_path / "out")
    for split in documents.SPLITS:
        found = token_documents(tmp_path / "out", split)
        texts = sorted(bytes(ids[:-1]).decode() for ids in found)
        assert texts == [f"{split} {number}" for number in range(3)]


def test_one_of_few_documents_is_held_out(tmp_path):
    (tmp_path / "corpus").mkdir()
    for number in range(4):
        (tmp_path / "corpus" / f"{number}.txt").write_text(f"text {number}")
    index = prepare(tmp_path / "corpus", tmp_path / "out", held_out=0.001)
    assert [index.documents(s) for s in documents.SPLITS] == [3, 1]


def test_validation_shards_divide_those_of_train():
    for count in (1, 2, 6, 7, 64, 1000):
        for share in (1e-6, 0.01, 0.3, 0.5):
            made = shards.count_validation_shards(count, share)
            assert count % made == 0 and 1 <= made <= max(1, round(count * share))


def test_a_bpe_is_trained_on_documents_of_train(tmp_path):
    lines = [json.dumps({"text": f"document of words {n}"}) for n in range(99)]
    table = tmp_path / "table.jsonl"
    table.write_text("\n".join(lines))
    prepare(table, tmp_path / "out", tokenizer="bpe", vocab_size=300)
    made = tokenizers.from_bytes((tmp_path / "out" / "tokenizer.json").read_bytes())
    plain = tokenizers.bpe(text_source.load(table, held_out=0.1), vocab_size=300)
    assert made.hash == plain.hash
    prepare(table, tmp_path / "again", tokenizer=str(tmp_path / "out"))
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


def test_an_object_store_gives_the_same_bytes(source, folder, tmp_path):
    """Corpus and shards in a store without rename and append."""
    fake_store.install(tmp_path)
    bucket = tmp_path / fake_store.BUCKET
    shutil.copytree(source, bucket / "corpus")
    prepare("gs://bucket/corpus", "gs://bucket/out")
    assert contents(bucket / "out") == contents(folder)
    prepare("gs://bucket/corpus/deep/*.jsonl", "gs://bucket/json")
    prepare(source / "deep", tmp_path / "json")
    assert contents(bucket / "json") == contents(tmp_path / "json")
    assert checks.is_remote(checks.parse_path("gs://bucket/out"))


def test_faults_in_an_object_store_name_the_object(tmp_path):
    fake_store.install(tmp_path)
    bucket = tmp_path / fake_store.BUCKET
    (bucket / "corpus").mkdir()
    (bucket / "corpus" / "a.jsonl").write_text('{"text": "a"}\n{"text": \n')
    got = refusal("gs://bucket/corpus", tmp_path / "out")
    assert got.startswith("gs://bucket/corpus/a.jsonl, row 2: expected JSON, got ")


def test_memory_does_not_grow_with_the_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "UNIT_BYTES", 1 << 18)
    monkeypatch.setattr(runs, "ENCODED_CHARACTERS", 1 << 16)
    peaks = []
    for files in (2, 8):
        folder = tmp_path / str(files)
        folder.mkdir()
        line = json.dumps({"text": "the quick brown fox " * 20}) + "\n"
        for number in range(files):
            (folder / f"{number}.jsonl").write_text(line * 400)
            (folder / f"{number}.txt").write_text(line * 400)
        tracemalloc.start()
        prepare(folder, tmp_path / f"out{files}", shards=files)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0] and peaks[1] < 6_000_000
