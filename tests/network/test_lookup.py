"""A lookup over the mesh is a plain one, and no device has the whole table."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer import axes
from transformer.network import lookup

V, D, B, L = 320, 512, 8, 4
MESHES: list[dict[str, int]] = [
    {"fsdp": 8},
    {"fsdp": 4, "data": 2},
    {"fsdp": 4, "tensor": 2},
    {"fsdp": 2, "context": 2, "expert": 2},
    {"slice": 2, "fsdp": 2, "context": 2},
]


def program(table_VD: Any, ids_BL: Any, grad_BLD: Any) -> Any:
    """The rows, and the gradient of their product with `grad_BLD`."""
    x_BLD, pull_back = jax.vjp(lambda t: lookup.rows(t, ids_BL), table_VD)
    return x_BLD, pull_back(grad_BLD)[0]


def compile_over(mesh: Any, arrays: Any) -> Any:
    table, grad = {"embedding_VD": arrays[0]}, {"x_BLD": arrays[2]}
    (of_table,) = jax.tree.leaves(axes.shardings(mesh, table))
    (of_grad,) = jax.tree.leaves(axes.shardings(mesh, grad, role="activation"))
    of_ids = axes.batch_shardings(mesh, {"ids_BL": arrays[1]})["ids_BL"]
    places = (of_table, of_ids, of_grad), (of_grad, of_table)
    step = jax.jit(program, in_shardings=places[0], out_shardings=places[1])
    with jax.set_mesh(mesh):
        return step.lower(*arrays).compile(), places[0]


def arrays(dtype: Any = jnp.float32, length: int = L) -> tuple[Any, ...]:
    """The first token stands for half of all: many gradients add up in its row."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, V, (B, length)) * rng.integers(0, 2, (B, length))
    table, grad = rng.normal(size=(V, D)), rng.normal(size=(B, length, D))
    return table.astype(dtype), ids.astype(np.int32), grad.astype(dtype)


def shapes(compiled: Any) -> set[str]:
    return set(re.findall(r"(?:f32|bf16)(\[[\d,]*\])", compiled.as_text()))


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_rows_and_gradients_are_those_of_the_whole_table(sizes: dict) -> None:
    given = arrays()
    mesh = axes.make_mesh(**sizes)
    compiled, places = compile_over(mesh, given)
    got = compiled(*map(jax.device_put, given, places))
    for a, b in zip(got, jax.jit(program)(*given), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_no_device_has_the_whole_table(sizes: dict) -> None:
    """Nor a gradient of its size; in the plain lookup each device has both."""
    mesh = axes.make_mesh(**sizes)
    compiled, _ = compile_over(mesh, arrays())
    assert not shapes(compiled) & {f"[{V},{D}]", f"[{V // 2},{D}]"}


def test_the_plain_lookup_where_it_sends_less() -> None:
    """Of many tokens for a small vocabulary, and of narrow tables, which have no piece
    of 128 features: the whole table is gathered."""
    mesh = axes.make_mesh(fsdp=8)
    compiled, _ = compile_over(mesh, arrays(length=2 * V))
    assert f"[{V},{D}]" in shapes(compiled)
    assert "all-to-all" not in compiled.as_text()


def test_a_quarter_of_the_table_is_gathered_and_tokens_exchanged_twice() -> None:
    """On eight devices: pieces of 128 features, in groups of two."""
    compiled, _ = compile_over(axes.make_mesh(fsdp=8), arrays())
    assert shapes(compiled) >= {f"[{V},{D // 4}]"}
    text = compiled.as_text()
    assert text.count(" all-to-all(") + text.count(" all-to-all-start(") == 2
    assert "all-reduce(" not in text


def test_gradients_of_frequent_tokens_add_up_in_float32() -> None:
    """In bfloat16, 256 + 1 is 256: a device's sum of 512 ones would stop there."""
    ids_BL, grad_BLD = np.zeros((8, 512), np.int32), np.ones((8, 512, D), jnp.bfloat16)
    given = np.zeros((2 * V, D), jnp.bfloat16), ids_BL, grad_BLD
    compiled, places = compile_over(axes.make_mesh(fsdp=8), given)
    grad_VD = np.asarray(compiled(*map(jax.device_put, given, places))[1], np.float32)
    assert set(np.unique(grad_VD[0])) == {4096.0} and not grad_VD[1:].any()


def test_devices_add_up_gradients_in_the_stated_dtype() -> None:
    """Each sums its own tokens in float32 all the same."""
    ids_BL, grad_BLD = np.zeros((8, 512), np.int32), np.ones((8, 512, D), jnp.bfloat16)
    given = np.zeros((2 * V, D), jnp.bfloat16), ids_BL, grad_BLD
    mesh = axes.make_mesh(fsdp=8)

    def scatters(dtype: str) -> list[str]:
        with axes.add_gradients_in(dtype), jax.set_mesh(mesh):
            text = str(jax.make_jaxpr(lambda *g: program(*g))(*given))
        return re.findall(r":(\w+)\[[\d,]*\] = reduce_scatter", text)

    assert scatters("float32") == ["f32"] and scatters("bfloat16") == ["bf16"]
