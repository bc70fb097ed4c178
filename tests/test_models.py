"""Whole models: how far a token is seen, how parameters are born, what is learned."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import LENGTH, MODELS, VARIANTS, VOCABULARY, Case, drawn, name_of
from kinds import KINDS

from transformer.models import decoder
from transformer.network import masks, stack
from transformer.training import flops


@pytest.mark.parametrize("case", VARIANTS, ids=name_of)
def test_tokens_reach_exactly_as_far_as_the_mask_through_the_layers(case: Case) -> None:
    """d features_i / d embedding_j is 0 for every j that i's mask, and the masks of
    those that it sees, hide: so for j > i in every causal model. (The one below the
    other: a boolean matrix power.)"""
    module = case.make()
    params = drawn(module)
    ids_BL = jnp.arange(LENGTH)[None]
    rng = np.random.default_rng(0)
    direction_D = jnp.asarray(rng.normal(size=32), jnp.float32)

    def features(embedding_VD: jax.Array) -> jax.Array:
        variables = {"params": {**params, "embedding_VD": embedding_VD}}
        x_BLD, _ = module.apply(variables, ids_BL, masks.row(LENGTH))
        return x_BLD[0] @ direction_D

    slope_LVD = jax.jit(jax.jacrev(features))(params["embedding_VD"])
    influence = np.abs(np.asarray(slope_LVD[:, :LENGTH])).sum(-1)
    one_layer = case.mask.array(LENGTH) | np.eye(LENGTH, dtype=bool)
    reached = one_layer.astype(int) @ one_layer.astype(int) > 0
    assert not np.triu(reached, 1)[4:].any()
    np.testing.assert_array_equal(influence > 0, reached)


@pytest.mark.parametrize("case", MODELS, ids=name_of)
def test_parameters_are_born_as_their_names_say(case: Case) -> None:
    params = jax.jit(partial(decoder.initial, case.make()))(jax.random.key(0))
    shapes = jax.tree.map(jnp.shape, drawn(case.make()))
    assert jax.tree.map(jnp.shape, params) == shapes
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = path[-1].key
        assert leaf.dtype == jnp.float32
        if name.startswith("gain_"):
            assert (leaf == 1).all()
        if name.startswith(("bias_", "b_")):
            assert (leaf == 0).all()
        if name.startswith(("w_", "embedding_")):
            assert 0.015 < leaf.std() < 0.025, name


def test_an_untied_readout_starts_undecided() -> None:
    module = MODELS[1].make()
    params = decoder.initial(module, jax.random.key(0))
    assert (params["unembedding_VD"] == 0).all()
    assert "unembedding_VD" not in drawn(MODELS[0].make())


def test_training_flops_count_products_and_allowed_pairs() -> None:
    case = MODELS[2]
    got = decoder.training_flops(
        drawn(case.make()), mask=case.mask, length=16, heads=4, head_features=8, depth=2
    )
    # Tied readout V D; per layer q and o D H K, k and v D K, MLP 2 D F.
    weights = 64 * 32 + 2 * (2 * 32 * 4 * 8 + 2 * 32 * 8 + 2 * 32 * 64)
    assert got == 6 * weights * 16 + 12 * 2 * 4 * 8 * case.mask.array(16).sum()


@pytest.mark.parametrize("make_stack", [stack.Unrolled, stack.Scanned])
def test_products_counted_in_the_program_are_the_formula_s(make_stack: Any) -> None:
    """Plain attention computes every pair, whatever the mask."""
    case = MODELS[0]
    net = case.make(stack=make_stack, remat=stack.REMAT["products"])
    params = jax.eval_shape(partial(case.initial, net), jax.random.key(0))
    program = jax.make_jaxpr(partial(case.loss, net))(params, case.batch(0))
    formula = decoder.training_flops(
        params,
        mask=masks.everything(),
        length=LENGTH,
        heads=4,
        head_features=8,
        depth=2,
    )
    assert 3 * flops.products(program.jaxpr) == 8 * formula


@pytest.mark.parametrize("case", [*MODELS, *KINDS], ids=name_of)
def test_tiny_data_is_memorised(case: Case) -> None:
    module, batch = case.make(), case.batch(0)
    batch = {name: a[:4] for name, a in batch.items()}
    optimizer = optax.adam(1e-2)

    @jax.jit
    def memorised(params: Any) -> jax.Array:
        def mean(params: Any) -> jax.Array:
            loss = case.loss(module, params, batch)
            return loss.total / loss.weight

        def step(carry: Any, _: Any) -> Any:
            params, state = carry
            value, gradients = jax.value_and_grad(mean)(params)
            updates, state = optimizer.update(gradients, state)
            return (optax.apply_updates(params, updates), state), value

        start = params, optimizer.init(params)
        return jax.lax.scan(step, start, length=200)[1]

    losses = memorised(case.initial(module, jax.random.key(0)))
    assert 0.5 < losses[0] < np.log(VOCABULARY) + 1
    assert losses[-1] < 0.05, losses[-1]
