"""Operations counted in the program against the formula."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import pytest
from cases import DEPTH, FEATURES, HEADS, LENGTH, MODELS, ROWS

from transformer.axes import leaf_name
from transformer.network import stack
from transformer.training import flops


def training_flops(params: Any) -> float:
    """Of one row, forward and backward: six a weight and token for the products (Kaplan
    et al. 2020, arXiv 2001.08361, section 2.1; a tied embedding counts once), twelve a
    head feature and pair of tokens for the attention matrix and its mixture."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    names = [(leaf_name(path), leaf) for path, leaf in leaves]
    weights = sum(
        leaf.size
        for name, leaf in names
        if name.startswith("w_") or name == "embedding_VD"
    )
    pairs = LENGTH * LENGTH
    return 6.0 * weights * LENGTH + 12.0 * DEPTH * HEADS * FEATURES * pairs


@pytest.mark.parametrize("make_stack", [stack.Unrolled, stack.Scanned])
def test_products_counted_in_the_program_are_those_of_the_formula(
    make_stack: Any,
) -> None:
    """`dot_product_attention` computes every pair, whatever the mask."""
    case = MODELS[0]
    net = case.make(stack=make_stack, remat=stack.REMAT["products"])
    params = jax.eval_shape(partial(case.init_params, net), jax.random.key(0))
    program = jax.make_jaxpr(partial(case.loss, net))(params, case.batch(0))
    assert 3 * flops.products(program.jaxpr) == ROWS * training_flops(params)
