"""One transformer for every kind of sequence, in JAX and Flax Linen."""

__version__ = "0.1.0"
