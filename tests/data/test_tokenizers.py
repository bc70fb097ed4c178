"""Tokenizers: lossless, pieces equal the whole, files verified by their hash."""

import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from transformer.data.sources import text as text_source
from transformer.data.text import documents, packing, tokenizers
from transformer.objectives import cross_entropy

WORDS = "It is a truth universally acknowledged, that 12 men's \t hats cost £3.\n\n"
STRANGE = "".join(map(chr, [0, 1, 27, 28, 160, 768, 0x2028, 0x1F642, 0xFFFD, 0x10FFFF]))
TEXTS = [
    "",
    " ",
    "a",
    "\n\n  \r\n\t",
    WORDS,
    STRANGE,
    "日本語のテキスト 🙂🙃 é",
    "<|end|><s>[UNK]",
    "".join(chr(value) for value in range(0x500)),
]


@pytest.fixture(autouse=True, scope="module")
def cache_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A text of some thousand words, with a held-out tail of other characters."""
    rng = random.Random(0)
    closings = [
        ".\n",
        " \n ",
        "\t \n\n  ",
    ]  # so that runs of white space are merged too
    lines = [
        " ".join(rng.choices(WORDS.split(), k=9)) + rng.choice(closings)
        for _ in range(2000)
    ]
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("".join(lines))
    return text_source.load(file)


@pytest.fixture(scope="module")
def each(text):
    return {
        "bytes": tokenizers.bytes_(),
        "characters": tokenizers.characters(text),
        "bpe": tokenizers.bpe(text, vocab_size=400),
    }


@pytest.mark.parametrize("kind", ["bytes", "bpe", "characters"])
@pytest.mark.parametrize("sample", TEXTS)
def test_decoding_returns_any_text(each, kind, sample):
    tokenizer = each[kind]
    tokens = tokenizer.encode(sample)
    assert tokens.dtype == np.int32 and tokens.ndim == 1
    assert tokenizer.decode(tokens) == sample
    assert tokenizer.end not in tokens
    assert tokenizer.bytes_V[tokens].sum() == len(sample.encode())


@pytest.mark.parametrize("kind", ["bytes", "bpe", "characters"])
def test_the_end_is_the_last_token_and_has_no_bytes(each, kind):
    tokenizer = each[kind]
    assert tokenizer.kind == kind
    assert tokenizer.end == tokenizer.vocab_size - 1
    assert tokenizer.bytes_V.shape == (tokenizer.vocab_size,)
    assert tokenizer.bytes_V.dtype == np.int32
    assert tokenizer.bytes_V[tokenizer.end] == 0
    assert tokenizer.decode([tokenizer.end]) == ""


def test_characters_are_those_of_the_training_split(each, text):
    """Others are their bytes, so that no text is free and none is lost."""
    tokenizer = each["characters"]
    (train,) = documents.full_documents(text, "train")
    assert len(tokenizer.encode(train)) == len(train)
    assert tokenizer.vocab_size == len(set(train)) + 256 + 1
    unknown = tokenizer.encode("t☃h é")
    assert tokenizer.decode(unknown) == "t☃h é"
    assert tokenizer.bytes_V[unknown].tolist() == [1, 1, 1, 1, 1, 1, 1, 1]
    # The bytes of one whole character that the training split has not.
    assert [tokenizer.table[t] for t in unknown[1:4]] == [b"\xe2", b"\x98", b"\x83"]


@pytest.mark.parametrize("unknown", [0, 500, 1400])
def test_unknown_characters_cost_their_bytes(tmp_path, unknown):
    """Bits per byte of 1,400 held-out characters, of which some were not in training,
    equal those of a float64 reference over the UTF-8 of the text."""
    rng = random.Random(unknown)
    train = "".join(rng.choices("abcdef é\n", k=4000))
    held = rng.choices("abcdef é", k=1400 - unknown)
    held = "".join(rng.sample([*held, *rng.choices("☃日🙂ñ", k=unknown)], k=1400))
    for split, content in (("train", train), ("validation", held)):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.txt").write_text(content)
    text = text_source.load(tmp_path)
    tokenizer = tokenizers.characters(text)
    rows = packing.validation(text, tokenizer, length=64, batch_size=8)
    log_p = np.log(np.random.default_rng(0).dirichlet(np.ones(tokenizer.vocab_size)))

    @jax.jit
    def count_bytes(logits, *targets):
        loss = cross_entropy.cross_entropy(logits, *targets)
        return cross_entropy.add_byte_count(loss, *targets, tokenizer.bytes_V)

    total = None
    for step in range(rows.batches):
        batch = rows.batch(step, range(8))
        logits = np.broadcast_to(log_p, (8, 64, len(log_p))).astype(np.float32)
        loss = count_bytes(logits, batch["targets_BL"], batch["weight_BL"])
        total = loss if total is None else jax.tree.map(np.add, total, loss)
    letters = len(tokenizer.table) - 257
    names = {entry: n for n, entry in enumerate(tokenizer.table[:letters])}

    def entries(letter):
        return (
            [names[letter.encode()]]
            if letter in train
            else [letters + byte for byte in letter.encode()]
        )

    tokens = [token for letter in held for token in entries(letter)]
    nats = -log_p[[*tokens[1:], tokenizer.end]].sum()
    size = len(held.encode()) - len(tokenizer.table[tokens[0]])
    expected = nats / np.log(2) / size
    assert cross_entropy.bits_per_byte(total) == pytest.approx(expected, rel=1e-5)


def test_byte_tokens_are_utf8(each):
    assert each["bytes"].encode("é!").tolist() == [0xC3, 0xA9, 0x21]
    assert each["bytes"].vocab_size == 257


def test_bpe_merges_the_words_of_its_text(each):
    tokenizer = each["bpe"]
    assert tokenizer.vocab_size == 400 or tokenizer.vocab_size > 300
    assert len(tokenizer.encode(" acknowledged truth")) == 2


@pytest.mark.parametrize("seed", range(5))
def test_pieces_encode_to_the_tokens_of_the_whole(each, seed):
    """Cutting before white space changes no token, wherever the cuts fall."""
    rng = random.Random(seed)
    words, spaces = [*WORDS.split(), "é🙂", ""], [" ", "\n", "\t ", " \n ", "  "]
    sample = "".join(rng.choice(words) + rng.choice(spaces) for _ in range(300))
    tokenizer = each["bpe"]
    whole = tokenizer.encode_pieces([sample])[0]
    size = rng.randint(40, 90)
    pieces = [piece.text for piece in documents.pieces_of([sample], size=size)]
    assert len(pieces) > 4
    encoded = np.concatenate(tokenizer.encode_pieces(pieces))
    np.testing.assert_array_equal(encoded, whole)


def test_many_pieces_keep_their_order(each, monkeypatch):
    """By threads; and by one where they would wait for each other's memory."""
    pieces = [f"{number} {WORDS}" for number in range(50)]
    monkeypatch.setattr(tokenizers, "_GROUP_CHARACTERS", 3 * len(pieces[0]))
    monkeypatch.setattr(tokenizers, "_THREADS", 3)
    pools = []

    def pool(workers):
        pools.append(workers)
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(tokenizers, "ThreadPoolExecutor", pool)
    encoded = each["bpe"].encode_pieces(pieces)
    assert [each["bpe"].decode(tokens) for tokens in encoded] == pieces
    monkeypatch.setattr(tokenizers.cpu_tuning, "has_one_arena", lambda: True)
    for tokens, again in zip(encoded, each["bpe"].encode_pieces(pieces), strict=True):
        np.testing.assert_array_equal(tokens, again)
    assert pools == [3]


@pytest.mark.parametrize("sizes", [[3, 3, 3, 3, 1], [9, 1, 7, 2, 6], [7], [0, 0, 6]])
def test_pieces_are_encoded_in_groups_of_a_size(sizes, monkeypatch):
    monkeypatch.setattr(tokenizers, "_GROUP_CHARACTERS", 6)
    pieces = ["x" * size for size in sizes]
    groups = tokenizers._groups(pieces)
    assert [piece for group in groups for piece in group] == pieces
    for group, after in zip(groups, [*groups[1:], None], strict=True):
        assert len(group) == 1 or sum(map(len, group)) <= 6
        # The next piece would not have fitted.
        assert after is None or sum(map(len, group)) + len(after[0]) > 6


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_streaming_holds_back_incomplete_characters(each, kind):
    sample = "aé日🙂\u0301 end"
    push = each[kind].decode_stream()
    shown = [push(token) for token in each[kind].encode(sample)]
    assert "".join(shown) + push(final=True) == sample
    assert not any("\ufffd" in part for part in shown)
    assert kind == "bpe" or "" in shown
    broken = each["bytes"].decode_stream()
    assert broken(0xE6) == "" and broken(final=True) == "\ufffd"


@pytest.mark.parametrize("kind", ["bytes", "bpe", "characters"])
def test_a_saved_tokenizer_is_loaded_again(each, kind, tmp_path):
    made = tokenizers.load_or_train(tmp_path / "run", lambda: each[kind])
    again = tokenizers.load_or_train(
        tmp_path / "run", lambda: pytest.fail("made twice")
    )
    assert made is each[kind] and again.hash == made.hash
    assert again.to_bytes() == made.to_bytes()
    assert again.table == made.table
    assert [p.name for p in (tmp_path / "run").iterdir()] == [tokenizers.FILE]
    np.testing.assert_array_equal(again.bytes_V, made.bytes_V)
    np.testing.assert_array_equal(again.encode(WORDS), made.encode(WORDS))


@pytest.mark.parametrize(
    ("kind", "vocab_size", "message"),
    [
        ("bytes", None, "expected bytes, got bpe of vocab_size 400"),
        ("bpe", 401, "expected bpe of vocab_size 401, got bpe of vocab_size 400"),
    ],
)
def test_a_folder_of_another_tokenizer_is_refused(
    each, tmp_path, kind, vocab_size, message
):
    tokenizers.load_or_train(tmp_path, lambda: each["bpe"], kind="bpe", vocab_size=400)
    again = tokenizers.load_or_train(
        tmp_path, tokenizers.bytes_, kind="bpe", vocab_size=400
    )
    assert again.hash == each["bpe"].hash
    with pytest.raises(ValueError, match=f"{tmp_path}/tokenizer.json: {message}"):
        tokenizers.load_or_train(
            tmp_path, tokenizers.bytes_, kind=kind, vocab_size=vocab_size
        )


def test_an_unwritable_folder_is_named(each, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        ValueError, match="cannot write .*file/run/tokenizer.json: Not a"
    ):
        tokenizers.load_or_train(tmp_path / "file" / "run", lambda: each["bpe"])


def test_the_hash_changes_with_the_encoding(each, text):
    hashes = {tokenizer.hash for tokenizer in each.values()}
    hashes.add(tokenizers.bpe(text, vocab_size=300).hash)
    assert len(hashes) == 4


def changed(content: bytes) -> bytes:
    body = json.loads(content)
    merges = body["model"]["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]
    return json.dumps(body).encode()


def with_hash(content: bytes, **changed) -> bytes:
    """The content with other fields and the hash that belongs to them."""
    body = {**json.loads(content), **changed}
    del body["hash"]
    return json.dumps({**body, "hash": tokenizers._hash(body)}).encode()


def with_hole(content: bytes) -> bytes:
    model = json.loads(content)["model"]
    model["model"]["vocab"]["!"] = 1000
    return with_hash(content, model=model)


def with_unknown_type(content: bytes) -> bytes:
    model = json.loads(content)["model"]
    model["model"]["type"] = "Nope"
    return with_hash(content, model=model)


def with_ids_of_text(content: bytes) -> bytes:
    model = json.loads(content)["model"]
    model["model"]["vocab"] = dict.fromkeys(model["model"]["vocab"], "x")
    return with_hash(content, model=model)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (changed, r"hash \w{16}, got \w{16}"),
        (lambda content: content[:-20], "a tokenizer, got JSONDecodeError"),
        (lambda content: b"", "a tokenizer, got JSONDecodeError"),
        (lambda content: b"[1]", "a tokenizer, got TypeError"),
        (lambda content: b"{}", "a tokenizer, got KeyError"),
        (lambda content: b"\xff\xfa", "a tokenizer, got UnicodeDecodeError"),
        (lambda content: with_hash(content, model=None), "a bpe tokenizer, got inv"),
        (lambda content: with_hash(content, model={}), "a bpe tokenizer, got "),
        (with_unknown_type, "a bpe tokenizer, got data did not match any variant"),
        (with_ids_of_text, "a bpe tokenizer, got .*expected u32"),
        (with_hole, "a bpe tokenizer, got ids that do not count from 0"),
        (
            lambda content: with_hash(content, kind="characters", alphabet=[1]),
            "a characters tokenizer, got ",
        ),
    ],
)
def test_a_damaged_tokenizer_file_is_named(each, tmp_path, damage, message):
    file = tmp_path / tokenizers.FILE
    file.write_bytes(damage(each["bpe"].to_bytes()))
    with pytest.raises(ValueError, match=f"{file}: expected {message}") as caught:
        tokenizers.load_or_train(
            tmp_path, lambda: pytest.fail("retrained over a damaged file")
        )
    assert "\n" not in str(caught.value)


def test_too_small_a_vocabulary_is_an_error(text):
    with pytest.raises(ValueError, match="expected at least 257, got 256"):
        tokenizers.bpe(text, vocab_size=256)
    assert tokenizers.bpe(text, vocab_size=257).vocab_size == 257


TRAIN = """
import sys
from pathlib import Path
from transformer.data.sources import text as text_source
from transformer.data.text import tokenizers
text = text_source.load(Path(sys.argv[1]))
print(tokenizers.bpe(text, vocab_size=350).hash, tokenizers.characters(text).hash)
"""


def test_training_is_the_same_in_every_process(text, each, tmp_path):
    """Another process, hash seed and thread setting train the same tokenizers."""
    bpe = tokenizers.bpe(text, vocab_size=350)
    hashes = {f"{bpe.hash} {each['characters'].hash}"}
    for seed, threads in ((1, "false"), (2, "true")):
        settings = {
            "XDG_CACHE_HOME": str(tmp_path / str(seed)),
            "PYTHONHASHSEED": str(seed),
            "TOKENIZERS_PARALLELISM": threads,
        }
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", TRAIN, text.name],
            env=os.environ | settings,
            capture_output=True,
            text=True,
            check=True,
        )
        hashes.add(done.stdout.strip())
        assert done.stderr == ""
    assert len(hashes) == 1
