"""Token rows: literal matrices, every target once, pure in (seed, step, row)."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from data_texts import (
    END,
    all_batches,
    assert_equal,
    counted_targets,
    distinct,
    expected_targets,
    text_of,
)

from transformer.data import shuffling
from transformer.data.text import documents, first_fit, mixing, packing, tokenizers


@pytest.fixture(autouse=True, scope="module")
def cache_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def test_validation_rows_are_these_matrices():
    a, b, c, d, e = b"abcde"
    text = text_of(["ab", "cde"])
    held = packing.validation(text, tokenizers.bytes_(), length=4, batch_size=3)
    assert held.batches == 1
    expected = {
        "ids_BL": [[a, b, END, c], [d, e, END, 0], [0, 0, 0, 0]],
        "targets_BL": [[b, END, 0, d], [e, END, 0, 0], [0, 0, 0, 0]],
        "segment_BL": [[1, 1, 1, 2], [1, 1, 1, 0], [0, 0, 0, 0]],
        "position_BL": [[0, 1, 2, 0], [0, 1, 2, 0], [0, 0, 0, 0]],
        "weight_BL": [[1, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]],
    }
    batch = held.batch(0, range(3))
    assert_equal(batch, expected)
    assert {name: batch[name].dtype for name in batch} == {
        name: np.float32 if name == "weight_BL" else np.int32 for name in expected
    }


@pytest.mark.parametrize("sizes", [[40], [1, 1, 1], [3, 17, 1, 64, 5] * 5])
@pytest.mark.parametrize(("length", "overlap"), [(1, 0), (7, 0), (8, 3), (64, 63)])
def test_validation_counts_every_target_once(sizes, length, overlap):
    text = distinct(sizes)
    tokenizer = tokenizers.characters(text)
    held = packing.validation(
        text, tokenizer, length=length, batch_size=4, overlap=overlap
    )
    assert counted_targets(all_batches(held)) == expected_targets(text, tokenizer)


def test_segments_and_positions_equal_a_plain_loop():
    window = np.random.default_rng(0).integers(250, 257, (20, 33))
    batch = packing.shift_targets(window, end=END)
    for row, codes in enumerate(window):
        segment, index = 1, 0
        for place, code in enumerate(codes[:-1]):
            assert batch["segment_BL"][row, place] == segment
            assert batch["position_BL"][row, place] == index
            assert batch["weight_BL"][row, place] == (code != END)
            segment, index = (segment + 1, 0) if code == END else (segment, index + 1)


@pytest.fixture(scope="module")
def novel():
    """A text of 6000 distinct tokens in documents of different sizes."""
    sizes = np.random.default_rng(0).integers(1, 200, 60).tolist()
    return distinct(sizes[:25])


def supplies(text, **changes):
    """Each kind of supply of rows, by name."""
    tokenizer = tokenizers.characters(text)
    settings = {"length": 16, "batch_size": 8, "seed": 3} | changes
    plain = packing.training(text, tokenizer, **settings)
    whole = first_fit.training(text, tokenizer, **settings)
    mixed = mixing.mixture([(plain, 0.75), (whole, 0.25)], batch_size=8)
    return {"plain": plain, "whole": whole, "mixed": mixed}


KINDS = ["plain", "whole", "mixed"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hosts", [1, 2, 4, 8])
def test_any_number_of_hosts_reads_the_same_global_batch(novel, kind, hosts):
    rows = supplies(novel)[kind]
    for step in (0, 7, 10**6):
        whole = rows.batch(step, range(8))
        share = 8 // hosts
        parts = [
            supplies(novel)[kind].batch(step, range(host * share, (host + 1) * share))
            for host in range(hosts)
        ]
        together = {n: np.concatenate([part[n] for part in parts]) for n in whole}
        assert_equal(together, whole)
        assert_equal(rows.batch(step, np.arange(8)[::-1]), reversed_rows(whole))


def reversed_rows(batch):
    return {name: value[::-1] for name, value in batch.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_depends_only_on_seed_and_step(novel, kind):
    rows, again = supplies(novel)[kind], supplies(novel)[kind]
    steps = [5, 0, 5, 300, 1, 5]
    with ThreadPoolExecutor(4) as pool:
        for step, batch in zip(
            steps, pool.map(lambda s: again.batch(s, range(8)), steps), strict=True
        ):
            assert_equal(batch, rows.batch(step, range(8)))
    tokens = rows.batch(5, range(8))["ids_BL"]
    assert (tokens != rows.batch(6, range(8))["ids_BL"]).any()
    other = supplies(novel, seed=4)[kind].batch(5, range(8))["ids_BL"]
    assert (tokens != other).any()


@pytest.mark.parametrize("cached_rows", [0, 1024])
def test_an_epoch_reads_disjoint_windows(novel, monkeypatch, cached_rows):
    monkeypatch.setattr(shuffling, "_CACHED_ROWS", cached_rows)
    tokenizer = tokenizers.characters(novel)
    rows = packing.training(novel, tokenizer, length=16, batch_size=1, seed=0)
    total = len(packing.tokenize_split(novel, tokenizer, split="train").tokens)
    count = rows.rows_per_epoch
    assert total - 2 * 16 <= count * 16 < total
    starts = np.array([rows.order[i] for i in range(3 * count)]).reshape(3, count)
    for epoch in starts:
        offset = epoch.min()
        assert 0 <= offset < 16
        assert sorted(epoch) == [offset + 16 * row for row in range(count)]
        assert epoch.max() + 16 < total
    assert len({epoch.min() for epoch in starts}) == 3
    orders = {tuple((epoch - epoch.min()) // 16) for epoch in starts}
    assert len(orders) == 3 and tuple(range(count)) not in orders


def test_caching_a_permutation_changes_nothing(novel, monkeypatch):
    tokenizer = tokenizers.characters(novel)
    batches = []
    for cached_rows in (0, 1024):
        monkeypatch.setattr(shuffling, "_CACHED_ROWS", cached_rows)
        rows = packing.training(novel, tokenizer, length=16, batch_size=4, seed=9)
        batches.append(rows.batch(333, range(4)))
    assert_equal(*batches)


def test_targets_follow_their_tokens(novel):
    tokenizer = tokenizers.characters(novel)
    codes = packing.tokenize_split(novel, tokenizer, split="train").tokens
    after = dict(zip(codes[:-1].tolist(), codes[1:].tolist(), strict=True))
    for kind, rows in supplies(novel).items():
        batch = rows.batch(2, range(8))
        counts = batch["weight_BL"] > 0
        assert counts.any(), kind
        for code, target in zip(
            batch["ids_BL"][counts], batch["targets_BL"][counts], strict=True
        ):
            assert code != tokenizer.end and target == after[int(code)]


@pytest.mark.parametrize("weights", [(0.5, 0.5), (3, 1), (0.9, 0.1)])
def test_a_mixture_keeps_the_proportions_and_the_order_of_its_parts(weights):
    texts = [text_of(["a" * 3000]), text_of(["b" * 1000])]
    parts = [
        packing.training(text, tokenizers.bytes_(), length=8, batch_size=4, seed=seed)
        for seed, text in enumerate(texts)
    ]
    rows = mixing.mixture(list(zip(parts, weights, strict=True)), batch_size=10)
    letters = np.concatenate(
        [rows.batch(step, range(10))["ids_BL"][:, 0] for step in range(100)]
    )
    share = weights[0] / sum(weights)
    assert abs((letters == ord("a")).mean() - share) < 0.002
    addresses = [rows.order[i] for i in range(1000)]
    for number, part in enumerate(parts):
        mine = [address for which, address in addresses if which == number]
        assert mine == [part.order[i] for i in range(len(mine))]


def wrong(case: str):
    text, tokenizer = text_of(["abcdefgh"]), tokenizers.bytes_()
    if case == "no parts":
        return mixing.mixture([], batch_size=4)
    make = packing.validation if "overlap" in case else packing.training
    make = first_fit.training if "whole" in case else make
    settings = {
        "long": {"length": 9, "batch_size": 1},
        "batch": {"length": 4, "batch_size": 2},
        "whole batch": {"length": 8, "batch_size": 2},
        "length": {"length": 0, "batch_size": 2},
        "batch size": {"length": 2, "batch_size": 0},
        "overlap": {"length": 2, "batch_size": 1, "overlap": 2},
    }
    if case in settings:
        return make(text, tokenizer, **settings[case])
    parts = [
        (packing.training(text, tokenizer, length=n, batch_size=1), weight)
        for n, weight in {"lengths": [(2, 1), (3, 1)], "weight": [(2, 0)]}[case]
    ]
    return mixing.mixture(parts, batch_size=4)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("long", r"probe \(train\): expected more tokens than .* length 9, got 9"),
        ("batch", r"expected text for a batch of 2 rows of 4 tokens, got 1 row"),
        ("whole batch", r"expected text for a batch of 2 rows of 8 tokens, got 1 row"),
        ("length", "length: expected at least 1, got 0"),
        ("batch size", "batch_size: expected at least 1, got 0"),
        ("overlap", "overlap: expected 0 to 1, got 2"),
        ("no parts", "parts: expected at least 1, got 0"),
        ("lengths", r"expected parts of one shape, got .*\(2,\).* and .*\(3,\)"),
        ("weight", r"expected weights above 0, got \(0,\)"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(case, message):
    with pytest.raises(ValueError, match=message) as caught:
        wrong(case)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("total", [17, 20, 31, 32, 33])
def test_a_text_barely_longer_than_a_row_gives_one_row(total):
    text = distinct([total - 1])
    tokenizer = tokenizers.characters(text)
    rows = packing.training(text, tokenizer, length=16, batch_size=1)
    assert rows.rows_per_epoch == 1
    starts = {rows.order[i] for i in range(200)}
    assert min(starts) == 0 and max(starts) + 16 < total
    assert rows.batch(0, [0])["weight_BL"].sum() == 16


def test_a_long_encoding_prints_its_rate(capsys):
    batches = [[documents.Piece("a" * 1_500_000, True)]] * 2
    assert list(packing._print_rate("big (train)", iter(batches), seconds=0)) == batches
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("big (train): 2 M characters encoded, ")
    assert second.startswith("big (train): 3 M characters encoded, ")
    assert list(packing._print_rate("big", iter(batches))) == batches
    assert capsys.readouterr().out == ""
