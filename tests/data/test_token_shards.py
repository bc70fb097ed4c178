"""Training from prepared shards equals training from the same documents as text."""

import json
import shutil

import fake_store
import numpy as np
import pytest
from data_texts import all_batches, assert_equal, text_of

from transformer import object_store, preparation
from transformer.data.sources import text as text_source
from transformer.data.text import (
    documents,
    first_fit,
    joint_array,
    packing,
    shard_index,
    tokenizers,
    windows,
)

BYTES = tokenizers.bytes_()
SPLITS = documents.SPLITS


@pytest.fixture(autouse=True, scope="module")
def cache_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def write_table(path, count=120):
    sizes = np.random.default_rng(0).integers(2, 80, count)
    texts = [f"{n} " + "é words " * (size // 8) for n, size in enumerate(sizes)]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return path


def prepare(tmp_path, name="out", **flags):
    table = tmp_path / "table.jsonl"
    if not table.exists():
        write_table(table)
    flags = {"tokenizer": "bytes", "held_out": 0.2, "workers": 1, "shards": 8, **flags}
    preparation.prepare(str(table), folder=str(tmp_path / name), **flags)
    return tmp_path / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def prepared(folder):
    return text_source.load(folder)


@pytest.fixture(scope="module")
def plain(prepared):
    """The documents of the shards, in their order, as text."""
    found = [list(documents.full_documents(prepared, s)) for s in SPLITS]
    return text_of(*found)


def test_prepared_documents_are_those_of_the_text(folder, prepared, plain):
    table = text_source.load(folder.parent / "table.jsonl", held_out=0.2)
    for split in SPLITS:
        expected = sorted(documents.full_documents(table, split))
        assert sorted(documents.full_documents(prepared, split)) == expected
        one, other = (
            packing.tokenize_split(text, BYTES, split=split)
            for text in (prepared, plain)
        )
        np.testing.assert_array_equal(one.tokens[:], other.tokens)
        np.testing.assert_array_equal(one.offsets, other.offsets)


def test_validation_rows_equal_those_of_the_text(prepared, plain):
    for module in (packing, first_fit):
        one, other = (
            module.validation(text, BYTES, length=96, batch_size=3)
            for text in (prepared, plain)
        )
        for batch, expected in zip(all_batches(one), all_batches(other), strict=True):
            assert_equal(batch, expected)


def rows_of(split, steps):
    found = []
    for step in range(steps):
        batch = split.batch(step, range(split.batch_size))
        found += [row.tobytes() for row in np.stack([*batch.values()], 1)]
    return found


def test_training_batches_of_one_shard_equal_those_of_the_text(tmp_path):
    prepared = text_source.load(prepare(tmp_path, shards=1))
    plain = text_of(*(list(documents.full_documents(prepared, s)) for s in SPLITS))
    one, other = (
        packing.training(text, BYTES, length=16, batch_size=8, seed=3)
        for text in (prepared, plain)
    )
    for step in (0, 1, 7, 500):
        assert_equal(one.batch(step, range(8)), other.batch(step, range(8)))


def test_an_epoch_has_the_rows_that_it_has_of_the_text(prepared, plain):
    """Also of shards: in another order, since hosts read parts of their own."""
    one, other = (
        packing.training(text, BYTES, length=16, batch_size=1, seed=3)
        for text in (prepared, plain)
    )
    count = one.rows_per_epoch
    assert count == other.rows_per_epoch > 100
    assert rows_of(one, count) == rows_of(other, count)
    split = packing.training(prepared, BYTES, length=16, batch_size=8, seed=3)
    steps = count // 8
    found, every = rows_of(split, steps), rows_of(other, count)
    # Parts of all rows differ by one row at most.
    assert len(set(found) - set(every)) == 0 and len(set(found)) > len(set(every)) - 16


def test_a_batch_is_a_function_of_step_and_rows(prepared):
    split = packing.training(prepared, BYTES, length=16, batch_size=8, seed=3)
    whole = split.batch(41, range(8))
    for rows in ([3], [6, 1], range(4, 8)):
        part = split.batch(41, rows)
        assert_equal(part, {k: v[list(rows)] for k, v in whole.items()})


@pytest.mark.parametrize("hosts", [1, 2, 4, 8])
def test_hosts_read_disjoint_parts_that_are_everything(prepared, hosts):
    split = packing.training(prepared, BYTES, length=16, batch_size=8, seed=3)
    epoch = -(-split.rows_per_epoch // 8) + 1
    each = 8 // hosts
    parts = [
        {
            split.order[step * 8 + row] // 16
            for step in range(epoch)
            for row in range(host * each, (host + 1) * each)
        }
        for host in range(hosts)
    ]
    everything = set().union(*parts)
    assert len(everything) == sum(map(len, parts)) >= split.rows_per_epoch
    bounds = [(min(part), max(part)) for part in parts]
    assert all(a[1] < b[0] for a, b in zip(bounds, bounds[1:], strict=False))


def test_a_host_opens_the_shards_of_its_part_only(folder, monkeypatch):
    opened = []
    kept = np.memmap

    def record(file, *arguments):
        opened.append(file.name)
        return kept(file, *arguments)

    monkeypatch.setattr(np, "memmap", record)
    split = packing.training(
        text_source.load(folder), BYTES, length=16, batch_size=8, seed=3
    )
    for step in range(200):
        split.batch(step, [0, 1])
    index = shard_index.read(folder)
    names = [f"{shard.name}.tokens" for shard in index.shards["train"]]
    # A quarter of the tokens, and the end of a row in the next shard.
    assert sorted(opened) == names[: len(opened)] and len(opened) <= 3


def test_windows_of_documents_equal_those_of_the_text(prepared, plain):
    made = []
    for text in (prepared, plain):
        split = windows.split_text(text, BYTES, tail_fraction=0.1)
        train, held_out = windows.window_splits(split, length=12, batch_size=4)
        made.append((train.batch(7, range(4)), held_out.batch(1, range(64))))
    for one, other in zip(*made, strict=True):
        assert_equal(one, other)


def test_mixture_with_prepared_text_has_its_tokenizer(folder, tmp_path):
    other = write_table(tmp_path / "other.jsonl", 60)
    text = text_source.load(f"{folder}:0.75,{other}:0.25")
    tokenizer = tokenizers.for_text("bpe", text, vocab_size=300)
    assert tokenizer.hash == BYTES.hash
    packing.training(text, tokenizer, length=16, batch_size=4).batch(0, range(4))
    joint = packing.tokenize_split(text, tokenizer, split="validation")
    parts = [
        packing.tokenize_split(p, BYTES, split="validation") for p, _ in text.parts
    ]
    expected = np.concatenate([np.asarray(part.tokens[:]) for part in parts])
    np.testing.assert_array_equal(joint.tokens[:], expected)
    ends = joint.offsets[1:] - 1
    assert (joint.tokens[ends] == BYTES.end).all() and joint.offsets[-1] == len(
        expected
    )


def test_joint_array_reads_as_one():
    parts = [np.arange(n * 10, n * 10 + size) for n, size in enumerate([3, 0, 5, 1])]
    joint = joint_array.JointArray([3, 0, 5, 1], parts.__getitem__, parts[0].dtype)
    whole = np.concatenate(parts)
    assert len(joint) == 9
    places = np.array([[8, 0, 2], [3, 3, 7]])
    np.testing.assert_array_equal(joint[places], whole[places])
    np.testing.assert_array_equal(joint[1:8], whole[1:8])
    np.testing.assert_array_equal(joint[:], whole)


# Bad input


def load_refusal(folder) -> str:
    with pytest.raises(ValueError) as refused:
        text = text_source.load(folder)
        split = packing.tokenize_split(text, BYTES, split="train")
        np.asarray(split.tokens[:]), split.offsets
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("kind", shard_index.KINDS)
@pytest.mark.parametrize("fault", ["missing", "torn", "flipped"])
def test_damaged_shard_is_refused(tmp_path, kind, fault):
    folder = prepare(tmp_path)
    file = folder / f"train-00003-of-00008.{kind}"
    content = file.read_bytes()
    if fault == "missing":
        file.unlink()
        expected = f"{file}: expected {len(content)} bytes, got No such file"
    elif fault == "torn":
        file.write_bytes(content[:-1])
        got = len(content) - 1
        expected = f"{file}: expected {len(content)} bytes, got {got}; prepare it again"
    else:
        file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        expected = f"{file}: expected sha256 "
    assert load_refusal(folder).startswith(expected)
    prepare(tmp_path)  # The same command makes it again.
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            '"version": 1',
            '"version": 2',
            "expected transformer token shards, version 1",
        ),
        (
            '"format": "t',
            '"format": "T',
            "expected transformer token shards, version 1",
        ),
        ('"uint16"', '"int8"', "expected dtype uint16 or uint32, got 'int8'"),
        ('"splits"', '"split"', "splits: expected an object, got 'nothing'"),
        ("train-00001", "train-00009", "expected another name, got 'train-00009-of"),
        ("{", "", "expected JSON, got Extra data"),
    ],
)
def test_index_that_is_none_is_refused(tmp_path, old, new, expected):
    folder = prepare(tmp_path)
    file = folder / shard_index.FILE
    file.write_text(file.read_text().replace(old, new, 1))
    got = load_refusal(folder)
    assert str(file) in got and expected in got


def test_interrupted_preparation_is_refused(tmp_path):
    folder = prepare(tmp_path)
    (folder / shard_index.FILE).unlink()
    assert "the same command goes on" in load_refusal(folder)


def test_changed_tokenizer_is_refused(tmp_path):
    folder = prepare(tmp_path)
    (folder / "tokenizer.json").write_bytes(BYTES.to_bytes() + b" ")
    text = text_source.load(folder)
    with pytest.raises(ValueError, match="tokenizer.json: expected sha256 .*, got "):
        tokenizers.for_text("bpe", text, vocab_size=300)


def test_other_tokenizer_is_refused_with_both_hashes(folder, tmp_path):
    text = text_source.load(folder)
    other = tokenizers.characters(text_of(["abc"]))
    (tmp_path / "tokenizer.json").write_bytes(other.to_bytes())
    attempts = [
        lambda: tokenizers.for_text("bpe", text, vocab_size=300, folder=tmp_path),
        lambda: packing.training(text, other, length=8, batch_size=1),
    ]
    for attempt in attempts:
        with pytest.raises(ValueError) as refused:
            attempt()
        assert BYTES.hash in str(refused.value) and other.hash in str(refused.value)
    with pytest.raises(ValueError, match="--tokenizer: .*, got characters"):
        tokenizers.for_text("characters", text, vocab_size=300)


def test_an_object_store_is_read_as_a_disk(folder, prepared, tmp_path, monkeypatch):
    """A host copies the shards of its part, once; a damaged object is refused."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fake_store.install(tmp_path)
    bucket = tmp_path / fake_store.BUCKET
    shutil.copytree(folder, bucket / "prepared")
    options = {"length": 16, "batch_size": 8, "seed": 3}
    expected = packing.training(prepared, BYTES, **options)
    fetch, names = object_store.ObjectPath.fetch, []

    def record(path, target, below):
        names.append(path.name)
        fetch(path, target, below)

    monkeypatch.setattr(object_store.ObjectPath, "fetch", record)
    for _ in range(2):
        remote = text_source.load("gs://bucket/prepared")
        assert remote.fingerprint == prepared.fingerprint
        split = packing.training(remote, BYTES, **options)
        for step in range(40):
            assert_equal(split.batch(step, [0, 1]), expected.batch(step, [0, 1]))
    assert 0 < len(names) <= 3 and len(set(names)) == len(names)
    tokenizer = tokenizers.for_text("bytes", remote, vocab_size=257)
    assert tokenizer.hash == BYTES.hash
    (bucket / "prepared" / shard_index.FILE).unlink()
    with pytest.raises(ValueError, match="the same command goes on"):
        text_source.load("gs://bucket/prepared")
    damaged = bucket / "prepared" / "train-00007-of-00008.tokens"
    damaged.write_bytes(damaged.read_bytes()[::-1])
    place = "gs://bucket/prepared/train-00007-of-00008.tokens"
    with pytest.raises(ValueError, match=f"{place}: expected sha256 "):
        packing.tokenize_split(remote, BYTES, split="train").tokens[-1:]
