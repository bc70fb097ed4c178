"""Linear attention by chunks equals its definition, in whole rows and from a cache."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.network import attention, contract, linear_attention, masks


def random_qkv(length: int, heads: int = 2) -> list[Any]:
    rng = np.random.default_rng(0)
    return [2 * np.float32(rng.normal(size=(2, length, heads, 8))) for _ in range(3)]


def arguments(length: int) -> dict[str, Any]:
    tokens = masks.single_document(length)
    return {"mask": masks.causal(), "queries": tokens, "keys": tokens}


def packed_arguments(length: int) -> dict[str, Any]:
    """Documents of another length in each row, the last third of one row is padding."""
    starts = np.array([[0.1, 0.3, 0.4], [0.35, 0.36, 0.9]])[:, :, None] * length
    segment_BL = 1 + (np.arange(length) >= starts).sum(1)
    segment_BL[1, -length // 3 :] = 0
    index_BL = np.arange(length)[None].repeat(2, 0)
    tokens = masks.packed(*map(jnp.asarray, (segment_BL, index_BL)))
    mask = masks.causal() & masks.segments()
    return {"mask": mask, "queries": tokens, "keys": tokens}


def by_chunks(*qkv: jax.Array, **changes: Any) -> jax.Array:
    where = {**arguments(qkv[0].shape[1]), "scale": 1.0, "chunk": 16, **changes}
    return linear_attention.linear_attention(*qkv, **where)


def by_definition(*qkv: jax.Array, **where: Any) -> jax.Array:
    where = where or arguments(qkv[0].shape[1])
    return linear_attention.quadratic_linear_attention(*qkv, **where)


@pytest.mark.parametrize("length", [1, 15, 16, 50, "packed"])
def test_chunks_equal_the_definition(length: int | str) -> None:
    """Values and gradients, also of packed documents."""
    where = packed_arguments(50) if length == "packed" else arguments(int(length))
    qkv = random_qkv(50 if length == "packed" else int(length))

    def run(function: Any) -> Any:
        def total(*qkv: jax.Array) -> Any:
            y = function(*qkv, **where)
            return jnp.sin(y).sum(), y

        return jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(*qkv)

    ((_, expected), grads), ((_, got), got_grads) = run(by_definition), run(by_chunks)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    for a, b in zip(grads, got_grads, strict=True):
        np.testing.assert_allclose(b, a, atol=1e-4)


def test_other_masks_and_grouped_keys_raise() -> None:
    q, k, v = random_qkv(8)
    with pytest.raises(ValueError, match=r"causal\(\) & segments\(\), got .*window"):
        by_chunks(q, k, v, mask=masks.causal() & masks.window(3))
    with pytest.raises(ValueError, match="keys of the queries' shape"):
        by_chunks(q, k[:, :, :1], v[:, :, :1])


def test_linear_attention_decodes_as_it_trains() -> None:
    """The whole contract, with values wider than keys."""
    contract.check_attention(
        partial(
            attention.Attention,
            width=32,
            heads=4,
            kv_heads=4,
            head_features=8,
            value_features=12,
            mask=masks.causal(),
            make_mixer=partial(linear_attention.LinearAttention, chunk=5),
        ),
        width=32,
    )
