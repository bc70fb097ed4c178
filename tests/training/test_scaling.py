"""Sizes derived from the depth: today's at the default depth, and theorems beyond."""

from __future__ import annotations

import math
from typing import Any

import jax
import pytest

from transformer.axes import leaf_name
from transformer.models import decoder
from transformer.training import scaling
from transformer.training.scaling import BASE, scale

DEPTHS = range(1, 129)
GIVEN: dict[str, Any] = {
    "width": 256,
    "heads": 2,
    "kv_heads": 1,
    "sequence_length": 100,
    "batch_size": 24,
    "steps": 7,
    "muon_learning_rate": 0.5,
    "adam_learning_rate": 0.25,
    "chunks": 4,
}


def batch_tokens(found: scaling.Scale) -> int:
    return found.batch_size * found.sequence_length


def test_the_default_depth_has_the_sizes_that_were_tuned_by_hand() -> None:
    assert scale(3) == BASE
    assert BASE.parameters == 1_327_104
    assert scale(3)._asdict() == {
        "depth": 3,
        "width": 192,
        "heads": 3,
        "kv_heads": 3,
        "sequence_length": 256,
        "batch_size": 8,
        "steps": 900,
        "muon_learning_rate": 0.02,
        "adam_learning_rate": 0.01,
        "chunks": 2,
        "tokens": 1_843_200,
    }


@pytest.mark.parametrize("depth", [1, 2])
def test_below_it_only_the_net_is_smaller(depth: int) -> None:
    net = {"depth": depth, "width": 64 * depth, "heads": depth, "kv_heads": depth}
    assert scale(depth) == BASE._replace(**net)
    assert scale(depth).parameters == depth * 12 * (64 * depth) ** 2


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (12, (768, 12, 12, 1024, 64, 25_920, 0.02, 0.005, 8)),
        (24, (1536, 24, 8, 2048, 128, 46_080, 0.02, 0.00354, 4)),
        (32, (2048, 16, 8, 2048, 256, 56_320, 0.02, 0.00306, 4)),
        (80, (5120, 40, 8, 4096, 512, 208_000, 0.02, 0.00194, 1)),
    ],
)
def test_sizes_of_depths_at_scale(depth: int, expected: tuple[float, ...]) -> None:
    assert scale(depth, vocab_size=2**15)[1:10] == expected


def test_nothing_shrinks_with_depth_but_the_learning_rate() -> None:
    found = [scale(depth) for depth in DEPTHS]
    for of in (
        lambda one: one.width,
        lambda one: one.sequence_length,
        batch_tokens,
        lambda one: -one.adam_learning_rate,
        lambda one: -one.chunks,
    ):
        values = [of(one) for one in found]
        assert values == sorted(values)


def test_parameters_and_tokens_grow_with_depth() -> None:
    """By multiples of four. From one depth to the next groups may begin, as 29 heads
    have no divisor, and 30 have: a few percent less of both."""
    found = [scale(depth) for depth in DEPTHS]
    for name in ("parameters", "tokens"):
        values = [getattr(one, name) for one in found]
        assert values[3::4] == sorted(values[3::4])
        pairs = zip(values[:-1], values[1:], strict=True)
        assert min(later / earlier for earlier, later in pairs) > 0.95


@pytest.mark.parametrize("vocab_size", [257, 2048, 2**17])
def test_sizes_divide(vocab_size: int) -> None:
    """Width into heads of 64 or 128 features, heads into groups, a row into chunks; a
    step has a power of two of tokens, and so many rows."""
    for depth in DEPTHS:
        found = scale(depth, vocab_size=vocab_size)
        features, rest = divmod(found.width, found.heads)
        assert not rest and features == (64 if found.width < 2048 else 128)
        assert found.width < 2048 or found.width % 256 == 0
        assert found.heads % found.kv_heads == 0
        assert min(found.heads, 8) <= found.kv_heads
        assert found.sequence_length % found.chunks == 0
        for number in (found.sequence_length, found.batch_size, found.chunks):
            assert number & -number == number


def test_a_parameter_has_twenty_tokens_from_twelve_blocks_on() -> None:
    for depth in DEPTHS:
        found = scale(depth)
        share = found.tokens / found.parameters
        if depth >= 12:
            assert share == pytest.approx(20, rel=1e-3)
        elif depth >= 3:
            assert share == pytest.approx(25 / 18 * (depth / 3) ** 2, rel=1e-3)


def test_the_batch_follows_the_compute() -> None:
    """By the exponent of arXiv 2401.02954, but for the rounding to a power of two."""
    for depth in DEPTHS[2:]:
        found = scale(depth)
        compute = found.parameters * found.tokens / (BASE.parameters * BASE.tokens)
        exact = batch_tokens(BASE) * compute**0.3271
        assert abs(math.log2(batch_tokens(found) / exact)) < 0.51


@pytest.mark.parametrize("name", GIVEN)
def test_a_given_size_stays_and_changes_none_before_it(name: str) -> None:
    """What is derived from it follows."""
    derived = scale(4)._asdict()
    found = scale(4, **{name: GIVEN[name]})._asdict()
    assert found[name] == GIVEN[name]
    before = list(derived)[: list(derived).index(name)]
    assert {n: found[n] for n in before} == {n: derived[n] for n in before}


def test_the_tokens_of_a_run_do_not_depend_on_its_batch() -> None:
    derived = scale(6)
    for sizes in ({"batch_size": 128}, {"sequence_length": 64}):
        found = scale(6, **sizes)
        assert found.tokens == pytest.approx(derived.tokens, rel=0.01)
        assert found.steps * batch_tokens(found) == found.tokens
    assert scale(6, steps=10).tokens == 10 * batch_tokens(derived)


def test_all_that_is_given_stays() -> None:
    found = scale(5, **GIVEN)._asdict()
    assert {name: found[name] for name in GIVEN} == GIVEN


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"width": 100}, "--width: expected a multiple of 64, .* got 100"),
        ({"width": 2112}, "--width: expected a multiple of 128, .* got 2112"),
        ({"width": 192, "heads": 5}, "--heads: expected heads of an even number .* 5"),
        ({"heads": 64}, "--heads: .* got 64 for a width of 192"),
        ({"chunks": 3}, "--chunks: expected a divisor .*, 256, got 3"),
        ({"kv_heads": 2}, "--kv_heads: expected a divisor of the heads, 3, got 2"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(sizes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scale(3, **sizes)


@pytest.mark.parametrize("sizes", [{}, {"kv_heads": 1}, {"width": 128, "heads": 4}])
def test_parameters_are_those_of_the_net(sizes: dict[str, int]) -> None:
    """The matrices of its blocks, counted."""
    found = scale(3, **sizes)
    net = decoder.language_model(
        depth=3,
        vocab_size=8,
        width=found.width,
        heads=found.heads,
        kv_heads=found.kv_heads,
    )
    params = jax.eval_shape(
        lambda key: decoder.init_params(net, key), jax.random.key(0)
    )
    leaves = jax.tree_util.tree_flatten_with_path(params["stack"])[0]
    matrices = (a.size for path, a in leaves if leaf_name(path).startswith("w_"))
    assert sum(matrices) == found.parameters
    facts = decoder.summary(net)
    names = ("width", "heads", "kv_heads")
    assert {n: facts[n] for n in names} == {n: getattr(found, n) for n in names}
    assert facts["head_features"] * found.heads == found.width


def test_old_records_have_the_sizes_of_their_time() -> None:
    """Heads of 64 features each with keys and values, unrolled: 64 times the depth
    wide, if the record does not say."""
    old = {"layers": "unrolled", "remat": "none", "chunks": 2}
    wide = {"width": 2112, "heads": 33, "kv_heads": 33, **old}
    assert scaling.earlier_flags({"depth": 33}) == wide
    narrow = {"width": 128, "heads": 2, "kv_heads": 2, **old}
    assert scaling.earlier_flags({"depth": 3, "width": 128}) == narrow
