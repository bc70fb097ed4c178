"""Floating-point operations, counted in the program."""

import jax
import jax.numpy as jnp
import pytest
import tiny_experiment

from transformer.training import flops

A = jnp.ones((4, 5, 6))
B = jnp.ones((4, 6, 7))
PRODUCT = 2.0 * 4 * 5 * 6 * 7


def product(a, b):
    return jnp.einsum("nij,njk->nik", a, b)


def scan(a, b):
    return jax.lax.scan(
        lambda sum_, _: (sum_ + product(a, b), None), 0.0 * product(a, b), length=9
    )[0]


PROGRAMS = {
    "product": (product, 1),
    "jitted": (jax.jit(product), 1),
    "rematerialized": (jax.checkpoint(lambda a, b: product(a, b)), 1),
    "vector": (lambda a, b: jnp.sin(a).sum() + b.sum(), 0),
    "scan of 9": (scan, 10),
    "larger branch": (
        lambda a, b: jax.lax.cond(
            a[0, 0, 0] > 0,
            lambda: product(a, b),
            lambda: product(a, b) + product(2 * a, b),
        ),
        2,
    ),
    "value, gradient of one operand": (
        lambda a, b: jax.value_and_grad(lambda a: product(a, b).sum())(a),
        2,
    ),
    "value, gradient of both": (
        jax.value_and_grad(lambda a, b: product(a, b).sum(), (0, 1)),
        3,
    ),
    "gradient alone": (jax.grad(lambda a, b: product(a, b).sum(), (0, 1)), 2),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_products_of_a_program(name):
    function, products = PROGRAMS[name]
    program = jax.make_jaxpr(function)(A, B)
    assert flops.matmul_flops(program.jaxpr) == products * PRODUCT


@pytest.mark.parametrize("batch_size", [4, 8])
def test_row_of_an_experiment(batch_size):
    """Three times the products of its three maps, at any batch size."""
    width, length, vocab = 16, tiny_experiment.LENGTH, tiny_experiment.VOCAB
    weights = 2 * width * 4 * width + width * vocab
    made = tiny_experiment.experiment(width=width, batch_size=batch_size)
    assert flops.per_row(made) == 3 * 2 * length * weights
