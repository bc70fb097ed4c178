"""The multi-layer perceptron of each token (Turner's section 2.2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.axes import constrain
from transformer.network import biases, precision
from transformer.network.precision import Einsum

Activation = Callable[[jax.Array], jax.Array]


def gelu(x: jax.Array) -> jax.Array:
    """x times the normal CDF of x, by its tanh formula (Hendrycks and Gimpel 2016,
    arXiv 1606.08415)."""
    return jax.nn.gelu(x, approximate=True)


def exact_gelu(x: jax.Array) -> jax.Array:
    """x times the normal CDF of x, by the error function (BERT, ViT)."""
    return jax.nn.gelu(x, approximate=False)


def quick_gelu(x: jax.Array) -> jax.Array:
    """x times the logistic function of 1.702 x (Hendrycks and Gimpel 2016, arXiv
    1606.08415; CLIP)."""
    return x * jax.nn.sigmoid(1.702 * x)


def relu(x: jax.Array) -> jax.Array:
    """max(x, 0)."""
    return jax.nn.relu(x)


def relu_squared(x: jax.Array) -> jax.Array:
    """max(x, 0)^2 (Primer, So et al. 2021, arXiv 2109.08668)."""
    return jnp.square(jax.nn.relu(x))


def silu(x: jax.Array) -> jax.Array:
    """x times the logistic function of x; the gate of SwiGLU."""
    return jax.nn.silu(x)


class MLP(nn.Module):
    """D features to F hidden features, activation, back to D. einsum: implementation of
    the linear maps."""

    width: int
    hidden_features: int
    activation: Activation = gelu
    make_bias: biases.MakeBias = biases.no_bias
    einsum: Einsum = precision.einsum_f32
    weight_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
    output_init: nn.initializers.Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        w_in_DF = self.param(
            "w_in_DF", self.weight_init, (self.width, self.hidden_features)
        )
        w_out_FD = self.param(
            "w_out_FD", self.output_init, (self.hidden_features, self.width)
        )
        b_in_F = self.make_bias(self, "b_in_F", (self.hidden_features,))
        b_out_D = self.make_bias(self, "b_out_D", (self.width,))
        linear = partial(precision.linear, einsum=self.einsum)
        h_BLF = self.activation(linear("BLD,DF->BLF", x_BLD, w_in_DF) + b_in_F)
        h_BLF = constrain(h_BLF, "BLF")
        return linear("BLF,FD->BLD", h_BLF, w_out_FD) + b_out_D


class GatedMLP(nn.Module):
    """An MLP whose hidden features are multiplied by an activated second linear map:
    SwiGLU with `silu`, GeGLU with `gelu` (Shazeer 2020, arXiv 2002.05202)."""

    width: int
    hidden_features: int
    activation: Activation = silu
    make_bias: biases.MakeBias = biases.no_bias
    einsum: Einsum = precision.einsum_f32
    weight_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
    output_init: nn.initializers.Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        w_gate_DF = self.param(
            "w_gate_DF", self.weight_init, (self.width, self.hidden_features)
        )
        w_in_DF = self.param(
            "w_in_DF", self.weight_init, (self.width, self.hidden_features)
        )
        w_out_FD = self.param(
            "w_out_FD", self.output_init, (self.hidden_features, self.width)
        )
        b_in_F = self.make_bias(self, "b_in_F", (self.hidden_features,))
        b_out_D = self.make_bias(self, "b_out_D", (self.width,))
        linear = partial(precision.linear, einsum=self.einsum)
        gate_BLF = self.activation(linear("BLD,DF->BLF", x_BLD, w_gate_DF))
        h_BLF = gate_BLF * (linear("BLD,DF->BLF", x_BLD, w_in_DF) + b_in_F)
        h_BLF = constrain(h_BLF, "BLF")
        return linear("BLF,FD->BLD", h_BLF, w_out_FD) + b_out_D
