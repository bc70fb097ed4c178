"""Narrow weights: rounding within half a step, and products equal to NumPy's."""

from __future__ import annotations

import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import MODELS, random_params

from transformer.models import decoder
from transformer.network import narrow_weights, precision

ROUND = {
    "int8": jax.jit(narrow_weights.to_int8, static_argnums=1),
    "bfloat16": jax.jit(narrow_weights.to_bfloat16, static_argnums=1),
}
dequantize = jax.jit(narrow_weights.dequantize)
SIZES = dict(B=1, L=8, D=30, F=97, H=6, K=5, G=3, V=103)
# The last one is large enough for several threads.
PRODUCTS = [
    ("BLD,DF->BLF", {}),
    ("BLF,FD->BLD", {}),
    ("BLD,DHK->BLHK", {}),
    ("BLD,DGK->BLGK", {}),
    ("BLHK,HKD->BLD", {}),
    ("BLD,VD->BLV", {}),
    ("BLD,VD->BLV", {"L": 1}),
    ("BLD,VD->BLV", {"L": 9}),
    ("BLD,DF->BLF", {"D": 331, "F": 650}),
    ("BLD,VD->BLV", {"D": 331, "V": 650, "L": 2}),
]
needs_numba = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="numba is not installed"
)


def operands(
    dtype: str, subscripts: str, sizes: dict[str, int]
) -> tuple[np.ndarray, narrow_weights.NarrowWeight]:
    rng = np.random.default_rng(len(subscripts))
    sizes = SIZES | sizes
    first, second, result = subscripts.replace("->", ",").split(",")
    x = rng.normal(size=[sizes[c] for c in first]).astype(np.float32)
    w = rng.normal(size=[sizes[c] for c in second]).astype(np.float32)
    summed = tuple(i for i, c in enumerate(second) if c not in result)
    return x, ROUND[dtype](w, summed)


def product(subscripts: str, x: Any, w: Any) -> np.ndarray:
    return np.asarray(jax.jit(precision.linear, static_argnums=0)(subscripts, x, w))


@needs_numba
@pytest.mark.parametrize("dtype", ROUND)
@pytest.mark.parametrize(("subscripts", "sizes"), PRODUCTS)
def test_products_equal_those_of_numpy_in_float64(
    dtype: str, subscripts: str, sizes: dict[str, int]
) -> None:
    x, w = operands(dtype, subscripts, sizes)
    wide = np.float64(dequantize(w))
    expected = np.einsum(subscripts, np.float64(x), wide)
    # The bound of a float32 sum in any order (Higham 2002, section 4.2).
    most = np.einsum(subscripts, np.abs(np.float64(x)), np.abs(wide))
    terms = x[0, 0].size + 3
    got = product(subscripts, x, w)
    assert got.shape == expected.shape
    assert np.all(np.abs(got - expected) <= terms * 2.0**-24 * most)
    assert not np.array_equal(got, np.zeros_like(got))


@needs_numba
@pytest.mark.parametrize("dtype", ROUND)
@pytest.mark.parametrize("subscripts", ["BLD,DF->BLF", "BLD,VD->BLV"])
def test_a_row_is_the_same_bit_for_bit_alone_and_among_others(
    dtype: str, subscripts: str
) -> None:
    x, w = operands(dtype, subscripts, {"D": 331, "F": 650, "V": 650})
    got = product(subscripts, x, w)
    for row in range(x.shape[1]):
        alone = product(subscripts, x[:, row : row + 1], w)
        np.testing.assert_array_equal(alone[:, 0], got[:, row])


@needs_numba
def test_a_number_that_is_not_finite_stays_so_in_its_row() -> None:
    x, w = operands("int8", "BLD,DF->BLF", {})
    x[0, 2, 5] = np.nan
    got = product("BLD,DF->BLF", x, w)
    assert np.isnan(got[0, 2]).all() and np.isfinite(np.delete(got, 2, axis=1)).all()


def test_int8_is_within_half_a_step_of_the_largest_weight_over_127() -> None:
    w_DF = np.float32(np.random.default_rng(0).normal(size=(64, 33)) * np.arange(33))
    narrow = ROUND["int8"](w_DF, (0,))
    step_F = np.abs(w_DF).max(0) / np.float32(127)
    step_F[0] = 1.0
    np.testing.assert_allclose(np.asarray(narrow.scale)[0], step_F, rtol=1e-6)
    error_DF = np.abs(np.float64(w_DF) - np.float64(dequantize(narrow)))
    assert np.all(error_DF <= 0.5001 * step_F[None])
    assert narrow.values.dtype == jnp.int8
    assert int(np.abs(np.asarray(narrow.values)).max()) == 127


def test_bfloat16_weights_are_the_nearest_bfloat16_numbers() -> None:
    w_DF = np.float32(np.random.default_rng(0).normal(size=(64, 33)))
    narrow = ROUND["bfloat16"](w_DF, (0,))
    expected = w_DF.astype(jnp.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(dequantize(narrow), expected)
    ids = np.array([[3, 0]])
    rows = jax.jit(narrow_weights.NarrowWeight.rows)(narrow, ids)
    np.testing.assert_array_equal(rows, expected[ids])


@pytest.mark.parametrize("dtype", ROUND)
@pytest.mark.parametrize("stack", [False, True])
def test_linear_maps_and_tables_are_narrow_and_all_else_stays(
    dtype: Any, stack: bool
) -> None:
    params = random_params(MODELS[1].make())
    if stack:
        # Layers in one array, as of a scanned stack.
        params = jax.tree.map(lambda leaf: np.stack([leaf, -np.asarray(leaf)]), params)
    weights = narrow_weights.narrow(params, dtype)
    for path, leaf in jax.tree_util.tree_leaves_with_path(
        weights, is_leaf=narrow_weights.is_narrow
    ):
        name = narrow_weights.leaf_name(path)
        # Its rows are only looked up, as the unembedding is another parameter.
        expected = name in narrow_weights.SUMMED and name != "embedding_VD"
        assert narrow_weights.is_narrow(leaf) == expected, name
    table_VD = params["embedding_VD"]
    tied = narrow_weights.narrow({"embedding_VD": table_VD}, dtype)
    assert narrow_weights.is_narrow(tied["embedding_VD"])
    wide = dequantize(weights)
    assert jax.tree.structure(wide) == jax.tree.structure(params)
    for before, after in zip(
        jax.tree.leaves(params), jax.tree.leaves(wide), strict=True
    ):
        assert before.shape == after.shape
        atol = 0.01 * np.abs(np.asarray(before)).max()
        np.testing.assert_allclose(before, after, atol=atol)


def test_what_is_narrow_is_said_in_one_line() -> None:
    # Its unembedding is the embedding.
    net = MODELS[0].make()
    params = jax.eval_shape(lambda: decoder.init_params(net, jax.random.key(0)))
    weights = jax.eval_shape(lambda p: narrow_weights.narrow(p, "int8"), params)
    line = narrow_weights.describe(weights, "int8")
    leaves = jax.tree_util.tree_leaves_with_path(params)
    sizes = {narrow_weights.leaf_name(path): leaf.size for path, leaf in leaves}
    total = sum(leaf.size for _, leaf in leaves)
    summed = sum(
        leaf.size
        for path, leaf in leaves
        if narrow_weights.leaf_name(path) in narrow_weights.SUMMED
    )
    assert f"int8 weights: {summed:,} numbers of" in line
    assert f"; {total - summed:,} stay float32 (" in line and "\n" not in line
    others = line.rpartition("(")[2].rstrip(")").split(", ")
    assert sorted(others) == sorted(set(sizes) - set(narrow_weights.SUMMED))


@pytest.mark.parametrize("subscripts", ["BLD,DF->BFL", "EBD,EDF->EBF", "DB,DF->BF"])
def test_other_products_are_refused(subscripts: str) -> None:
    first, second, _ = subscripts.replace("->", ",").split(",")
    sizes = SIZES | {"E": 2}
    x: Any = np.zeros([sizes[c] for c in first])
    w = ROUND["int8"](np.ones([sizes[c] for c in second]), (0,))
    with pytest.raises(ValueError, match=f"{subscripts}.*expected a product of"):
        precision.linear(subscripts, x, w)


def test_decoding_in_narrow_weights_needs_a_cpu_and_numba(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    narrow_weights.require("float32")
    with monkeypatch.context() as patch:
        patch.setattr(narrow_weights.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ValueError, match="decode_dtype=int8: expected numba"):
            narrow_weights.require("int8")
    monkeypatch.setattr(narrow_weights.cpu_tuning, "on_cpu", lambda: False)
    with pytest.raises(ValueError, match="decode_dtype=bfloat16: expected a CPU"):
        narrow_weights.require("bfloat16")
    with pytest.raises(ValueError, match="decode_dtype=float32: expected a CPU"):
        narrow_weights.require("float32")
