"""Muon over a mesh: equal to optax's, and its products divided."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer import axes
from transformer.planning import costs, hlo
from transformer.training import optimizers, sharded_muon

LAYERS = 8
SHAPES = {
    "w_q_DHK": (8, 2, 4),
    "w_k_DGK": (8, 1, 4),
    "w_out_HKD": (2, 4, 8),
    "w_up_DF": (8, 16),
    "w_down_FD": (16, 8),
    "w_up_EDF": (2, 8, 16),
    "w_down_EFD": (2, 16, 8),
    "gain_D": (8,),
}


def random_stack(seed, shapes):
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=(LAYERS, *shape)).astype("f4")
        for name, shape in shapes.items()
    }


def two_updates(optimizer, params, gradients):
    advance = jax.jit(lambda state: optimizer.update(gradients, state, params))
    first, state = advance(optimizer.init(params))
    return first, *advance(state)


def test_muon_equals_the_one_of_optax_with_its_state():
    """Two updates over fsdp:8, and on one device."""
    params, gradients = random_stack(0, SHAPES), random_stack(1, SHAPES)
    optimizer = optimizers.muon(0.1, 0.01, weight_decay=0.1)
    expected = two_updates(optimizer, params, gradients)
    mesh = axes.make_mesh(fsdp=8)
    with jax.set_mesh(mesh):
        place = lambda tree: jax.device_put(tree, axes.shardings(mesh, tree))  # noqa: E731
        got = two_updates(optimizer, place(params), place(gradients))
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, expected
    )


@pytest.mark.parametrize(
    "sizes",
    [{"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}, {"expert": 2, "fsdp": 4}],
    ids=str,
)
def test_divided_over_a_mesh_it_is_the_same(sizes):
    tree = {
        name: leaf for name, leaf in random_stack(0, SHAPES).items() if name != "gain_D"
    }
    tree = {name: leaf / 16 for name, leaf in tree.items()}
    numbers = optimizers.matrix_dimensions(tree)

    def orthogonalize(tree):
        return jax.jit(lambda tree: sharded_muon.orthogonalize(tree, numbers))(tree)

    mesh = axes.make_mesh(**sizes)
    with jax.set_mesh(mesh):
        got = orthogonalize(jax.device_put(tree, axes.shardings(mesh, tree)))
    for name, expected in orthogonalize(tree).items():
        np.testing.assert_allclose(got[name], expected, atol=5e-6, err_msg=name)


def test_each_device_multiplies_its_share_and_no_matrix_is_gathered():
    """24 matrices of one shape and 16 of another over 8 devices: products an eighth,
    and what a device sends is twice its part of both stacks, there and back."""
    shapes = {name: SHAPES[name] for name in ("w_q_DHK", "w_out_HKD", "w_up_DF")}
    tree = random_stack(0, {**shapes, "w_down_FD": (16, 8), "w_gate_DF": (8, 16)})
    numbers = optimizers.matrix_dimensions(tree)

    def program(mesh):
        with jax.set_mesh(mesh):
            placed = jax.device_put(tree, axes.shardings(mesh, tree))
            made = jax.jit(lambda tree: sharded_muon.orthogonalize(tree, numbers))
            text = made.lower(placed).compile().as_text()
        return costs.of_program(hlo.parse(text))

    whole = program(axes.make_mesh(devices=jax.devices()[:1]))
    part = program(axes.make_mesh(fsdp=8))
    assert part.flops == whole.flops / 8
    assert {one.kind for one in part.collectives} == {"all-to-all"}
    numbers_each = sum(leaf.size for leaf in tree.values()) / 8
    sent = sum(one.traffic for one in part.collectives)
    assert sent == 2 * 4 * numbers_each * 7 / 8


def test_singular_values_are_taken_to_about_one():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 24)), jnp.float32)
    x = x / jnp.linalg.norm(x, axis=(1, 2), keepdims=True)
    values = np.linalg.svd(sharded_muon.newton_schulz(x), compute_uv=False)
    assert 0.6 < values.min() <= values.max() < 1.3
