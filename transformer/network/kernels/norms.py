"""Norms that save the normalized features and 1 / std for the backward pass
instead of recomputing both."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp


def _drop_unit_dimensions(x: jax.Array) -> jax.Array:
    """x without leading dimensions of 1: with them XLA's CPU kernels take several times
    as long to sum over D."""
    # The open sizes of an exported program cannot be compared.
    lead = (size for size in x.shape[:-1] if not isinstance(size, int) or size > 1)
    return x.reshape(*lead, x.shape[-1])


_product = partial(
    jnp.tensordot, precision="highest", preferred_element_type=jnp.float32
)


def _sum_leading(x: jax.Array) -> jax.Array:
    """Sums over all dimensions but the last, in float32, as a matrix product (as in
    `scores.row_sum`)."""
    lead = x.shape[:-1]
    ones = jnp.ones((8, *lead), x.dtype)
    return _product(ones, x, len(lead))[0]


def _weighted_mean(x: jax.Array, gain_D: jax.Array) -> jax.Array:
    """The mean over D of x times the gain, in float32, as a matrix product."""
    columns = jnp.tile(gain_D[:, None].astype(x.dtype), 8)
    return _product(x, columns, 1)[..., :1] / gain_D.size


def _broadcast(gain_D: jax.Array, x: jax.Array) -> jax.Array:
    return gain_D[(None,) * (x.ndim - 1)]


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(x_BLD, gain_D, bias_D, epsilon):
    return _layer_norm_forward(x_BLD, gain_D, bias_D, epsilon)[0]


def _layer_norm_forward(x_BLD, gain_D, bias_D, epsilon):
    wide = x_BLD.astype(jnp.float32)
    centered = wide - wide.mean(-1, keepdims=True)
    variance = jnp.square(centered).mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + epsilon)
    normal = centered * inverse
    y_BLD = normal * _broadcast(gain_D, x_BLD) + _broadcast(bias_D, x_BLD)
    return y_BLD.astype(x_BLD.dtype), (normal.astype(x_BLD.dtype), inverse, gain_D)


def _layer_norm_backward(epsilon, residuals, grad_BLD):
    normal_BLD, inverse, gain_D = residuals
    normal, grad = normal_BLD.astype(jnp.float32), grad_BLD.astype(jnp.float32)
    both_BLD = (grad * normal).astype(grad_BLD.dtype)
    level, along = _weighted_mean(grad_BLD, gain_D), _weighted_mean(both_BLD, gain_D)
    inner = grad * _broadcast(gain_D, grad) - level - normal * along
    x_grad_BLD = (inverse * inner).astype(grad_BLD.dtype)
    return x_grad_BLD, _sum_leading(both_BLD), _sum_leading(grad_BLD)


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


def layer_norm(
    x_BLD: jax.Array, gain_D: jax.Array, bias_D: jax.Array, *, epsilon: float
) -> jax.Array:
    """`norms.layer_norm`: (x - mean) / std * gain + bias."""
    y: Any = _layer_norm(_drop_unit_dimensions(x_BLD), gain_D, bias_D, epsilon)
    return y.reshape(x_BLD.shape)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rms_norm(x_BLD, gain_D, epsilon):
    return _rms_norm_forward(x_BLD, gain_D, epsilon)[0]


def _rms_norm_forward(x_BLD, gain_D, epsilon):
    wide = x_BLD.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + epsilon)
    normal = wide * inverse
    y_BLD = (normal * _broadcast(gain_D, x_BLD)).astype(x_BLD.dtype)
    return y_BLD, (normal.astype(x_BLD.dtype), inverse, gain_D)


def _rms_norm_backward(epsilon, residuals, grad_BLD):
    normal_BLD, inverse, gain_D = residuals
    normal, grad = normal_BLD.astype(jnp.float32), grad_BLD.astype(jnp.float32)
    both_BLD = (grad * normal).astype(grad_BLD.dtype)
    inner = grad * _broadcast(gain_D, grad) - normal * _weighted_mean(both_BLD, gain_D)
    return (inverse * inner).astype(grad_BLD.dtype), _sum_leading(both_BLD)


_rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


def rms_norm(x_BLD: jax.Array, gain_D: jax.Array, *, epsilon: float) -> jax.Array:
    """`norms.rms_norm`: x / root mean square * gain."""
    y: Any = _rms_norm(_drop_unit_dimensions(x_BLD), gain_D, epsilon)
    return y.reshape(x_BLD.shape)
