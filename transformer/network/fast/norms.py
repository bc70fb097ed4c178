"""Norms that keep the normalised features and 1 / deviation for the backward pass,
instead of computing both again."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp


def _squeezed(x: jax.Array) -> jax.Array:
    """x without leading dimensions of 1, behind which XLA's CPU kernels take several
    times as long to sum over D."""
    return x.reshape(*(size for size in x.shape[:-1] if size > 1), x.shape[-1])


def _summed(x: jax.Array) -> jax.Array:
    return x.sum(tuple(range(x.ndim - 1)))


def _lead(gain_D: jax.Array, x: jax.Array) -> jax.Array:
    return gain_D[(None,) * (x.ndim - 1)]


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(x_BLD, gain_D, bias_D, epsilon):
    return _layer_norm_forward(x_BLD, gain_D, bias_D, epsilon)[0]


def _layer_norm_forward(x_BLD, gain_D, bias_D, epsilon):
    wide = x_BLD.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + epsilon)
    normal = centred * inverse
    y_BLD = normal * _lead(gain_D, x_BLD) + _lead(bias_D, x_BLD)
    return y_BLD.astype(x_BLD.dtype), (normal.astype(x_BLD.dtype), inverse, gain_D)


def _layer_norm_backward(epsilon, saved, slope_BLD):
    normal_BLD, inverse, gain_D = saved
    normal, slope = normal_BLD.astype(jnp.float32), slope_BLD.astype(jnp.float32)
    inner = slope * _lead(gain_D, slope)
    level = inner.mean(-1, keepdims=True)
    along = (inner * normal).mean(-1, keepdims=True)
    x_slope = (inverse * (inner - level - normal * along)).astype(slope_BLD.dtype)
    return x_slope, _summed(slope * normal), _summed(slope)


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


def layer_norm(
    x_BLD: jax.Array, gain_D: jax.Array, bias_D: jax.Array, *, epsilon: float
) -> jax.Array:
    """`norms.layer_norm`: (x - mean) / deviation * gain + bias."""
    y = _layer_norm(_squeezed(x_BLD), gain_D, bias_D, epsilon)
    return y.reshape(x_BLD.shape)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rms_norm(x_BLD, gain_D, epsilon):
    return _rms_norm_forward(x_BLD, gain_D, epsilon)[0]


def _rms_norm_forward(x_BLD, gain_D, epsilon):
    wide = x_BLD.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + epsilon)
    normal = wide * inverse
    y_BLD = (normal * _lead(gain_D, x_BLD)).astype(x_BLD.dtype)
    return y_BLD, (normal.astype(x_BLD.dtype), inverse, gain_D)


def _rms_norm_backward(epsilon, saved, slope_BLD):
    normal_BLD, inverse, gain_D = saved
    normal, slope = normal_BLD.astype(jnp.float32), slope_BLD.astype(jnp.float32)
    inner = slope * _lead(gain_D, slope)
    along = (inner * normal).mean(-1, keepdims=True)
    x_slope = (inverse * (inner - normal * along)).astype(slope_BLD.dtype)
    return x_slope, _summed(slope * normal)


_rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


def rms_norm(x_BLD: jax.Array, gain_D: jax.Array, *, epsilon: float) -> jax.Array:
    """`norms.rms_norm`: x / root mean square * gain."""
    return _rms_norm(_squeezed(x_BLD), gain_D, epsilon).reshape(x_BLD.shape)
