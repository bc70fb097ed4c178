"""Activations that save few residuals for the backward pass, in their input's dtype.

Automatic differentiation of the plain ones saves every intermediate in float32."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from transformer.network.precision import to_bfloat16

_SLOPE = math.sqrt(2 / math.pi)
_CUBIC = 0.044715


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """`mlp.gelu`: x times the normal CDF of x by its tanh formula. Saves the CDF in x's
    dtype, so that the backward pass computes no exp."""
    return _gelu_forward(x)[0]


def _gelu_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    wide = x.astype(jnp.float32)
    # (1 + tanh u) / 2 = logistic(2 u), which is exact near 0.
    cdf = jax.nn.sigmoid(2 * _SLOPE * wide * (1 + _CUBIC * wide * wide))
    cdf = cdf.astype(x.dtype)
    return x * cdf, (x, cdf)


def _gelu_backward(
    residuals: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array]:
    x, cdf = residuals
    wide, cdf = x.astype(jnp.float32), cdf.astype(jnp.float32)
    inner = 2 * _SLOPE * (1 + 3 * _CUBIC * wide * wide)
    derivative = cdf + wide * cdf * (1 - cdf) * inner
    return ((grad.astype(jnp.float32) * derivative).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


@jax.custom_vjp
def gelu_recompute(x: jax.Array) -> jax.Array:
    """`gelu` that saves only x and recomputes the rest: faster where x is in memory in
    its own dtype, as oneDNN writes it. (XLA's CPU einsums write float32, which the
    following operations then use.)"""
    return _gelu_recompute_forward(x)[0]


def _gelu_recompute_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    wide = x.astype(jnp.float32)
    cdf = jax.nn.sigmoid(2 * _SLOPE * wide * (1 + _CUBIC * wide * wide))
    return to_bfloat16(wide * cdf, x.dtype), x


def _gelu_recompute_backward(x: jax.Array, grad: jax.Array) -> tuple[jax.Array]:
    wide = x.astype(jnp.float32)
    square = wide * wide
    # Another formula than above, or XLA would save the forward value in float32.
    cdf = jax.nn.sigmoid(wide * (2 * _SLOPE + 2 * _SLOPE * _CUBIC * square))
    inner = 2 * _SLOPE + 6 * _SLOPE * _CUBIC * square
    derivative = cdf + wide * cdf * (1 - cdf) * inner
    return (to_bfloat16(grad.astype(jnp.float32) * derivative, x.dtype),)


gelu_recompute.defvjp(_gelu_recompute_forward, _gelu_recompute_backward)


@jax.custom_vjp
def relu_squared(x: jax.Array) -> jax.Array:
    """`mlp.relu_squared`: max(x, 0)^2. Saves max(x, 0)."""
    return jnp.square(jnp.maximum(x, 0))


def _relu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    positive = jnp.maximum(x, 0)
    return jnp.square(positive), positive


def _relu_backward(positive: jax.Array, grad: jax.Array) -> tuple[jax.Array]:
    return (2 * positive * grad,)


relu_squared.defvjp(_relu_forward, _relu_backward)
