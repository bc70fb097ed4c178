"""Normalization over a token's features, with float32 statistics."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.network import biases
from transformer.network.precision import linear


def layer_norm(
    x_BLD: jax.Array, gain_D: jax.Array, bias_D: jax.Array, *, epsilon: float
) -> jax.Array:
    """(x - mean) / std * gain + bias over the last dimension (Ba et al. 2016,
    arXiv 1607.06450; Turner's section 2.3)."""
    wide = x_BLD.astype(jnp.float32)
    centered = wide - wide.mean(-1, keepdims=True)
    variance = jnp.square(centered).mean(-1, keepdims=True)
    lead = (None,) * (x_BLD.ndim - 1)
    normal = centered * jax.lax.rsqrt(variance + epsilon) * gain_D[lead] + bias_D[lead]
    return normal.astype(x_BLD.dtype)


def rms_norm(x_BLD: jax.Array, gain_D: jax.Array, *, epsilon: float) -> jax.Array:
    """x / root mean square * gain over the last dimension (Zhang and Sennrich 2019,
    arXiv 1910.07467)."""
    wide = x_BLD.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + epsilon)
    normal = wide * inverse * gain_D[(None,) * (x_BLD.ndim - 1)]
    return normal.astype(x_BLD.dtype)


class LayerNorm(nn.Module):
    """`layer_norm` with a learned gain and bias. implementation: of that formula."""

    epsilon: float = 1e-5
    implementation: Callable[..., jax.Array] = layer_norm

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        gain_D = self.param("gain_D", nn.initializers.ones, x_BLD.shape[-1:])
        bias_D = self.param("bias_D", nn.initializers.zeros, x_BLD.shape[-1:])
        return self.implementation(x_BLD, gain_D, bias_D, epsilon=self.epsilon)


class UnbiasedLayerNorm(nn.Module):
    """`layer_norm` with a learned gain and no bias (ModernBERT)."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        gain_D = self.param("gain_D", nn.initializers.ones, x_BLD.shape[-1:])
        return layer_norm(x_BLD, gain_D, jnp.zeros_like(gain_D), epsilon=self.epsilon)


class RMSNorm(nn.Module):
    """`rms_norm` with a learned gain. implementation: of that formula. offset: added to
    the parameter, which is 1 - offset at first: with 1, Gemma's."""

    epsilon: float = 1e-6
    implementation: Callable[..., jax.Array] = rms_norm
    offset: float = 0.0

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        init = nn.initializers.constant(1.0 - self.offset)
        gain_D = self.param("gain_D", init, x_BLD.shape[-1:]) + self.offset
        return self.implementation(x_BLD, gain_D, epsilon=self.epsilon)


class ZeroInitDense(nn.Module):
    """A linear map of a condition, (B, L, J) to (B, L, D), initialized to 0."""

    width: int
    condition_features: int

    @nn.compact
    def __call__(self, condition_BLJ: jax.Array) -> jax.Array:
        shape = self.condition_features, self.width
        w_JD = self.param("w_JD", nn.initializers.zeros, shape)
        b_D = biases.zero_init_bias(self, "b_D", (self.width,))
        return linear("BLJ,JD->BLD", condition_BLJ, w_JD) + b_D


class AdaptiveNorm(nn.Module):
    """Layer norm whose gain and bias are linear in a condition of J features (DiT,
    Peebles and Xie 2022, arXiv 2212.09748, section 3.2). Initialized to gain 1, bias
    0."""

    width: int
    condition_features: int
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x_BLD: jax.Array, condition_BLJ: jax.Array) -> jax.Array:
        """(B, L, D) with a condition (B, 1 or L, J) to (B, L, D)."""
        gain_BLD = ZeroInitDense(self.width, self.condition_features, name="gain")(
            condition_BLJ
        )
        bias_BLD = ZeroInitDense(self.width, self.condition_features, name="bias")(
            condition_BLJ
        )
        one_D, zero_D = jnp.ones(self.width), jnp.zeros(self.width)
        normal_BLD = layer_norm(x_BLD, one_D, zero_D, epsilon=self.epsilon)
        return normal_BLD * (1 + gain_BLD) + bias_BLD


class AdaLNZero(nn.Module):
    """adaLN-Zero: `AdaptiveNorm` and a gate on the sublayer's output, initialized to 0,
    so that each block starts as the identity."""

    width: int
    condition_features: int
    epsilon: float = 1e-6

    def setup(self) -> None:
        self.norm = AdaptiveNorm(self.width, self.condition_features, self.epsilon)
        self.gate_map = ZeroInitDense(self.width, self.condition_features)

    def __call__(self, x_BLD: jax.Array, condition_BLJ: jax.Array) -> jax.Array:
        return self.norm(x_BLD, condition_BLJ)

    def gate(self, condition_BLJ: jax.Array) -> jax.Array:
        """The factor of the sublayer's output, (B, 1 or L, D)."""
        return self.gate_map(condition_BLJ)


class HeadRMSNorm(nn.Module):
    """RMS norm over the features of a head, for queries and keys (QK-norm, Henry et al.
    2020, arXiv 2010.04245). implementation: of the same formula."""

    epsilon: float = 1e-6
    implementation: Callable[..., jax.Array] = rms_norm
    offset: float = 0.0

    @nn.compact
    def __call__(self, x_BLHK: jax.Array) -> jax.Array:
        init = nn.initializers.constant(1.0 - self.offset)
        gain_K = self.param("gain_K", init, x_BLHK.shape[-1:]) + self.offset
        return self.implementation(x_BLHK, gain_K, epsilon=self.epsilon)


class JointHeadNorm(nn.Module):
    """RMS norm over the features of all heads together (OLMo 2, arXiv 2501.00656)."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x_BLHK: jax.Array) -> jax.Array:
        gain_HK = self.param("gain_HK", nn.initializers.ones, x_BLHK.shape[-2:])
        rows, length = x_BLHK.shape[:2]
        joint = x_BLHK.reshape(rows, length, -1)
        normal = rms_norm(joint, gain_HK.reshape(-1), epsilon=self.epsilon)
        return normal.reshape(x_BLHK.shape)


class SandwichNorm(nn.Module):
    """A norm of a sublayer's input, and another of its output, for the order
    `block.sandwich_norm`."""

    make_norm: Callable[[], nn.Module]

    def setup(self) -> None:
        self.input = self.make_norm()
        self.output = self.make_norm()

    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        return self.input(x_BLD)

    def after(self, y_BLD: jax.Array) -> jax.Array:
        """The sublayer's output, normalized."""
        return self.output(y_BLD)


class ScaledNorm(nn.Module):
    """A norm of a sublayer's input, and learned factors of its output's features
    (LayerScale, Touvron et al. 2021, arXiv 2103.17239), for `block.sandwich_norm`."""

    make_norm: Callable[[], nn.Module]
    width: int
    initial: float = 1.0

    def setup(self) -> None:
        self.input = self.make_norm()
        init = nn.initializers.constant(self.initial)
        self.scale_D = self.param("scale_D", init, (self.width,))

    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        return self.input(x_BLD)

    def after(self, y_BLD: jax.Array) -> jax.Array:
        """The sublayer's output, scaled."""
        return y_BLD * self.scale_D[None, None].astype(y_BLD.dtype)


class Identity(nn.Module):
    """No normalization."""

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        return x_BLD
