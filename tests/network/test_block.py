"""The residual block in both orders, by hand."""

from __future__ import annotations

from functools import partial
from typing import Any

import formulas
import numpy as np
from cases import close
from formulas import apply_random

from transformer.network import (
    block,
    masks,
    norms,
)

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, size=(2, 5, 8)).astype(np.float32)


def test_pre_norm_and_post_norm_equal_their_formulas() -> None:
    """With y(x) = 2x as attention and x + 1 as MLP, both orders by hand."""

    class Twice(norms.Identity):
        def __call__(self, x_BLD: Any, tokens: Any) -> Any:
            return 2 * x_BLD

    class More(norms.Identity):
        def __call__(self, x_BLD: Any) -> Any:
            return x_BLD + 1

    def run(residual: block.ResidualOrder) -> tuple[np.ndarray, Any]:
        module = block.Block(Twice, More, norms.RMSNorm, residual)
        return apply_random(module, X, masks.single_document(5))

    got, p = run(block.pre_norm)
    a, b = (
        partial(formulas.rms_norm, gain=p[f"{name}_norm"]["gain_D"], epsilon=1e-6)
        for name in ("attention", "mlp")
    )
    x = X + 2 * a(X)
    close(x + b(x) + 1, got)
    got, p = run(block.post_norm)
    x = a(X + 2 * X)
    close(b(x + x + 1), got)
