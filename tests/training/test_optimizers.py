"""Optimizers: which parameters are orthogonalized and decayed; schedules."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from transformer.training import optimizers

SHAPES = {
    "w_q_DHK": (8, 2, 4),
    "w_k_DGK": (8, 1, 4),
    "w_out_HKD": (2, 4, 8),
    "w_up_DF": (8, 16),
    "w_down_FD": (16, 8),
    "gain_D": (8,),
    "b_F": (16,),
    "embedding_VD": (11, 8),
}
MATRICES = {name for name in SHAPES if name.startswith("w_")}


def random_layers(seed: int, layers: int = 2) -> list[dict[str, np.ndarray]]:
    """Parameters, or gradients, of some layers."""
    rng = np.random.default_rng(seed)
    return [
        {name: rng.normal(size=shape).astype("f4") for name, shape in SHAPES.items()}
        for _ in range(layers)
    ]


def stack(layers):
    """Parameters of a scanned stack: one array each, layers leading."""
    return jax.tree.map(lambda *each: np.stack(each), *layers)


def changes(optimizer, params, gradients):
    """The changes of two successive updates."""
    advance = jax.jit(lambda state: optimizer.update(gradients, state, params))
    first, state = advance(jax.jit(optimizer.init)(params))
    second, _ = advance(state)
    return [first, second]


RECIPES = {
    "adamw": optimizers.adamw(4, learning_rate=0.1),
    "muon": optimizers.muon(0.1, 0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("name", RECIPES)
def test_scanned_layers_are_updated_like_unrolled_ones(name):
    params, gradients = random_layers(0), random_layers(1)
    optimizer = RECIPES[name]
    unrolled = changes(optimizer, {"layers": params}, {"layers": gradients})
    scanned = changes(optimizer, stack(params), stack(gradients))
    for separate, stacked in zip(unrolled, scanned, strict=True):
        for layer, expected in enumerate(separate["layers"]):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5),
                jax.tree.map(lambda a, i=layer: a[i], stacked),
                expected,
            )


@pytest.mark.parametrize("scanned", [False, True])
@pytest.mark.parametrize("name", RECIPES)
def test_matrices_only_are_decayed(name, scanned):
    params = stack(random_layers(0)) if scanned else random_layers(0)[0]
    zeros = jax.tree.map(np.zeros_like, params)
    change = changes(RECIPES[name], params, zeros)[0]
    changed = {leaf for leaf, value in change.items() if np.abs(value).max() > 1e-6}
    assert changed == MATRICES
    for leaf in MATRICES:
        np.testing.assert_allclose(change[leaf], -0.01 * params[leaf], rtol=1e-4)


def test_muon_orthogonalizes_inputs_by_outputs():
    """The singular values of a matrix's change are similar, its heads merged."""
    change = changes(RECIPES["muon"], random_layers(0)[0], random_layers(1)[0])[0]
    undecayed = changes(
        optimizers.muon(0.1, 0.01), random_layers(0)[0], random_layers(1)[0]
    )[0]
    for name, inputs in {"w_q_DHK": 8, "w_out_HKD": 8, "w_up_DF": 8}.items():
        values = np.linalg.svd(undecayed[name].reshape(inputs, -1), compute_uv=False)
        assert values.max() / values.min() < 2.0, (name, values)
        assert not np.allclose(change[name], undecayed[name])
    values = np.linalg.svd(undecayed["embedding_VD"], compute_uv=False)
    assert values.max() / values.min() > 2.0


def test_adam_updates_the_first_and_the_last_map():
    """Patches in, patches out and conditions; the router is for Muon."""
    shapes = {"w_in_PD": (4, 8), "w_out_DP": (8, 4), "w_JD": (3, 8), "w_r_DE": (8, 2)}
    params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    numbers = optimizers.matrix_dimensions(params)
    assert [name for name, value in numbers.items() if value is not None] == ["w_r_DE"]


def test_muon_refuses_unknown_dimensions():
    with pytest.raises(ValueError, match="w_x_DV: expected dimensions among .* got DV"):
        optimizers.matrix_dimensions({"w_x_DV": jnp.zeros((2, 3))})


def test_adamw_equals_the_one_of_optax():
    params, gradients = random_layers(0)[0], random_layers(1)[0]
    schedule = optimizers.warmup_cosine(0.1, steps=4, warmup=1)
    expected = changes(
        optax.adamw(schedule, b2=0.99, weight_decay=0.1, mask=optimizers.is_decayed),
        params,
        gradients,
    )
    for one, other in zip(
        changes(RECIPES["adamw"], params, gradients), expected, strict=True
    ):
        jax.tree.map(np.testing.assert_array_equal, one, other)


def values(schedule, steps):
    return [round(float(schedule(step)), 6) for step in steps]


def test_warmup_cosine_has_literal_values():
    schedule = optimizers.warmup_cosine(1.0, steps=12, warmup=4, final=0.1)
    cosine = [0.1 + 0.45 * (1 + math.cos(math.pi * i / 9)) for i in range(10)]
    expected = [0.25, 0.5, 0.75, *cosine]
    assert values(schedule, range(13)) == pytest.approx(expected, abs=1e-6)
    assert values(schedule, [40]) == [0.1]


def test_warmup_stable_decay_has_literal_values():
    schedule = optimizers.warmup_stable_decay(1.0, steps=10, warmup=2, decay=0.4)
    expected = [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    assert values(schedule, range(11)) == expected


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize(
    "recipe", [optimizers.warmup_cosine, optimizers.warmup_stable_decay]
)
def test_schedules_shorter_than_the_warmup_are_finite(recipe, steps):
    rates = values(recipe(1.0, steps=steps, warmup=20), range(steps + 1))
    assert np.isfinite(rates).all() and min(rates) >= 0 and max(rates) <= 1
    assert min(rates[:-1]) > 0, "every step moves"
