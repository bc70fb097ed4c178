"""oneDNN's products equal XLA's, for every order of letters that the network and its
gradients use, and for a whole model."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import MODELS, Case, close, name_of, random_params

from transformer.network import precision
from transformer.network.kernels import onednn, row_attention
from transformer.objectives import cross_entropy
from transformer.training import flops

pytestmark = pytest.mark.skipif(
    bool(onednn._wrong()), reason=f"no oneDNN in this jaxlib: {onednn._wrong()}"
)

SIZES = dict(B=2, L=12, M=16, G=3, H=6, R=2, K=8, D=24, F=40, C=4, V=9)
SUBSCRIPTS = [
    "BLD,DF->BLF",
    "BLF,DF->BLD",
    "BLD,BLF->DF",
    "BLF,BLD->FD",
    "BLD,DHK->BLHK",
    "BLHK,DHK->BLD",
    "BLD,BLHK->DHK",
    "BLHK,HKD->BLD",
    "BLD,HKD->BLHK",
    "BLHK,BLD->HKD",
    "BLGRK,BMGK->BGLRM",
    "BGLRM,BMGK->BGLRK",
    "BLGRK,BGLRM->BGMK",
    "BLGRK,BGLRM->BGKM",
    "BCD,VD->BCV",
    "BCV,VD->BCD",
    "BCV,BCD->VD",
    "BD,VD->BV",
]
DTYPES = {"float32": 1e-6, "bfloat16": 1e-2}


def operands(subscripts: str, dtype: str) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        rng.normal(size=[SIZES[c] for c in letters]).astype(jnp.dtype(dtype))
        for letters in subscripts.split("->")[0].split(",")
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("subscripts", SUBSCRIPTS)
def test_products_equal_xla(subscripts: str, dtype: str) -> None:
    if dtype == "bfloat16" and not onednn.multiplies_bfloat16():
        pytest.skip("a CPU without AVX-512")

    @jax.jit
    def products(a: jax.Array, b: jax.Array) -> Any:
        wide = a.astype(jnp.float32), b.astype(jnp.float32)
        expected = jnp.einsum(subscripts, *wide, precision="highest")
        got = onednn.einsum(subscripts, a, b)
        return expected, got, onednn.einsum(subscripts, a, b, dtype=a.dtype)

    expected, got, narrow = products(*operands(subscripts, dtype))
    assert got.dtype == jnp.float32
    close(expected, got, 1e-6)
    assert narrow.dtype == jnp.dtype(dtype)
    close(expected, np.asarray(narrow, np.float32), DTYPES[dtype])


def test_bfloat16_is_refused_where_onednn_has_no_product(monkeypatch) -> None:
    """XLA would end the process."""
    monkeypatch.setattr(onednn, "multiplies_bfloat16", lambda: False)
    a, b = operands("BLD,DF->BLF", "bfloat16")
    with pytest.raises(ValueError, match="expected float32 on a CPU without AVX-512"):
        onednn.einsum("BLD,DF->BLF", a, b)


def test_vmap_equals_one_batched_product() -> None:
    a, b = operands("BLD,DF->BLF", "float32")
    one = partial(onednn.einsum, "LD,DF->LF")
    batched = partial(onednn.einsum, "BLD,DF->BLF")
    close(jax.jit(batched)(a, b), jax.jit(jax.vmap(one, (0, None)))(a, b))


@pytest.mark.parametrize("case", MODELS, ids=name_of)
def test_model_with_onednn_equals_model_with_xla(case: Case) -> None:
    """Loss and gradients, attention in blocks of rows included."""
    rows = partial(row_attention.row_blocked_attention, block=5, einsum=onednn.einsum)
    batch, plain = case.batch(0), case.make()
    params = random_params(plain, init_params=case.init_params)

    def mean(module: Any, params: Any) -> jax.Array:
        loss = case.loss(module, params, batch)
        return loss.total / loss.weight

    expected, got = (
        jax.jit(jax.value_and_grad(partial(mean, module)))(params)
        for module in (plain, case.make(kernel=rows, einsum=onednn.einsum))
    )
    close(expected, got)


def test_fused_cross_entropy_with_onednn_equals_xla() -> None:
    x_BLD, w_VD = operands("BLD,VD->BLV", "float32")
    targets_BL = np.zeros(x_BLD.shape[:2], np.int32)
    weight_BL = np.ones(x_BLD.shape[:2], np.float32)

    def total(einsum: precision.Einsum, *arguments: Any) -> jax.Array:
        return cross_entropy.fused_cross_entropy(
            *arguments, targets_BL, weight_BL, chunks=3, einsum=einsum
        ).total

    results = [
        jax.jit(jax.value_and_grad(partial(total, einsum), argnums=(0, 1)))(x_BLD, w_VD)
        for einsum in (precision.einsum_f32, onednn.einsum)
    ]
    close(*results)


@pytest.mark.parametrize("subscripts", SUBSCRIPTS)
def test_flops_of_onednn_products_are_counted(subscripts: str) -> None:
    a, b = operands(subscripts, "float32")
    counts = [
        flops.matmul_flops(jax.make_jaxpr(partial(einsum, subscripts))(a, b).jaxpr)
        for einsum in (precision.einsum_f32, onednn.einsum)
    ]
    assert counts[0] == counts[1] > 0


def test_several_devices_raise() -> None:
    with pytest.raises(ValueError, match=r"expected one device, got 8; use XLA's"):
        onednn.einsum_if_available()
