"""Activations that keep little for the backward pass, as narrow as their input.

Differentiated as they stand, the plain ones keep every intermediate, in float32."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from transformer.network.precision import narrowed

_SLOPE = math.sqrt(2 / math.pi)
_CUBIC = 0.044715


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """`mlp.gelu`: x times the normal distribution function of x, by tanh; keeps that
    function's value, as narrow as x, so that the backward pass computes no exp."""
    return _gelu_forward(x)[0]


def _gelu_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    wide = x.astype(jnp.float32)
    # (1 + tanh u) / 2 = logistic(2 u), which stays exact where it is nearly 0.
    share = jax.nn.sigmoid(2 * _SLOPE * wide * (1 + _CUBIC * wide * wide))
    share = share.astype(x.dtype)
    return x * share, (x, share)


def _gelu_backward(
    kept: tuple[jax.Array, jax.Array], slope: jax.Array
) -> tuple[jax.Array]:
    x, share = kept
    wide, share = x.astype(jnp.float32), share.astype(jnp.float32)
    inner = 2 * _SLOPE * (1 + 3 * _CUBIC * wide * wide)
    derivative = share + wide * share * (1 - share) * inner
    return ((slope.astype(jnp.float32) * derivative).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


@jax.custom_vjp
def lean_gelu(x: jax.Array) -> jax.Array:
    """`gelu`, keeping x alone and computing the rest again: the faster one where x lies
    in memory as narrow as it is, as oneDNN writes it. (XLA's products are float32
    there, and what follows them reads that.)"""
    return _lean_gelu_forward(x)[0]


def _lean_gelu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    wide = x.astype(jnp.float32)
    share = jax.nn.sigmoid(2 * _SLOPE * wide * (1 + _CUBIC * wide * wide))
    return narrowed(wide * share, x.dtype), x


def _lean_gelu_backward(x: jax.Array, slope: jax.Array) -> tuple[jax.Array]:
    wide = x.astype(jnp.float32)
    square = wide * wide
    # Written otherwise than above, or XLA would keep that value, in float32.
    share = jax.nn.sigmoid(wide * (2 * _SLOPE + 2 * _SLOPE * _CUBIC * square))
    inner = 2 * _SLOPE + 6 * _SLOPE * _CUBIC * square
    derivative = share + wide * share * (1 - share) * inner
    return (narrowed(slope.astype(jnp.float32) * derivative, x.dtype),)


lean_gelu.defvjp(_lean_gelu_forward, _lean_gelu_backward)


@jax.custom_vjp
def relu_squared(x: jax.Array) -> jax.Array:
    """`mlp.relu_squared`: max(x, 0)^2, keeping max(x, 0)."""
    return jnp.square(jnp.maximum(x, 0))


def _relu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    positive = jnp.maximum(x, 0)
    return jnp.square(positive), positive


def _relu_backward(positive: jax.Array, slope: jax.Array) -> tuple[jax.Array]:
    return (2 * positive * slope,)


relu_squared.defvjp(_relu_forward, _relu_backward)
