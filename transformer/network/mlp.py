"""What each token does by itself between attentions (Turner's section 2.2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.axes import constrain
from transformer.network import biases, precision
from transformer.network.precision import Product, contract

Activation = Callable[[jax.Array], jax.Array]


def gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution function of x, by tanh (Hendrycks and Gimpel
    2016, arXiv 1606.08415)."""
    return jax.nn.gelu(x, approximate=True)


def relu_squared(x: jax.Array) -> jax.Array:
    """max(x, 0)^2 (Primer, So et al. 2021, arXiv 2109.08668)."""
    return jnp.square(jax.nn.relu(x))


def silu(x: jax.Array) -> jax.Array:
    """x times its logistic function; the gate of SwiGLU."""
    return jax.nn.silu(x)


class MLP(nn.Module):
    """Widen to F hidden features, activate, narrow back to D. product: by what the
    linear maps are multiplied."""

    width: int
    hidden: int
    activation: Activation = gelu
    offset: biases.Offset = biases.absent
    product: Product = precision.product
    weight_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
    output_init: nn.initializers.Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        w_in_DF = self.param("w_in_DF", self.weight_init, (self.width, self.hidden))
        w_out_FD = self.param("w_out_FD", self.output_init, (self.hidden, self.width))
        b_in_F = self.offset(self, "b_in_F", (self.hidden,))
        b_out_D = self.offset(self, "b_out_D", (self.width,))
        linear = partial(contract, product=self.product)
        h_BLF = self.activation(linear("BLD,DF->BLF", x_BLD, w_in_DF) + b_in_F)
        h_BLF = constrain(h_BLF, "BLF")
        return linear("BLF,FD->BLD", h_BLF, w_out_FD) + b_out_D


class GatedMLP(nn.Module):
    """As `MLP`, the hidden features multiplied by a second map of the token: SwiGLU
    with `silu`, GeGLU with `gelu` (Shazeer 2020, arXiv 2002.05202)."""

    width: int
    hidden: int
    activation: Activation = silu
    offset: biases.Offset = biases.absent
    product: Product = precision.product
    weight_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
    output_init: nn.initializers.Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        w_gate_DF = self.param("w_gate_DF", self.weight_init, (self.width, self.hidden))
        w_in_DF = self.param("w_in_DF", self.weight_init, (self.width, self.hidden))
        w_out_FD = self.param("w_out_FD", self.output_init, (self.hidden, self.width))
        b_in_F = self.offset(self, "b_in_F", (self.hidden,))
        b_out_D = self.offset(self, "b_out_D", (self.width,))
        linear = partial(contract, product=self.product)
        gate_BLF = self.activation(linear("BLD,DF->BLF", x_BLD, w_gate_DF))
        h_BLF = gate_BLF * (linear("BLD,DF->BLF", x_BLD, w_in_DF) + b_in_F)
        h_BLF = constrain(h_BLF, "BLF")
        return linear("BLF,FD->BLD", h_BLF, w_out_FD) + b_out_D
