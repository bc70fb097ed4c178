"""Embeddings equal their formulas."""

from __future__ import annotations

from functools import partial

import numpy as np
from cases import close
from formulas import apply_random

from transformer.network import (
    embeddings,
    masks,
)

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, size=(2, 5, 8)).astype(np.float32)


def test_class_token_precedes_the_embedded_patches() -> None:
    embed = partial(embeddings.PatchEmbedding, features=8, width=6)
    module = embeddings.ClassToken(width=6, make_embed=embed)
    got, p = apply_random(module, X, masks.single_document(6))
    inner = p["PatchEmbedding_0"]
    np.testing.assert_array_equal(got[:, 0], [p["class_D"]] * 2)
    close(X @ inner["w_in_PD"] + inner["b_in_D"], got[:, 1:])
