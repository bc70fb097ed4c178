"""How long a run will take on this machine, before its step is compiled."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from transformer.training import timing

# Of the FLOP/s of a large float32 product, those that steps of the experiments reach
# (docs/benchmarks.md): attention, norms and the optimizer take time, and no products.
SHARES = (0.1, 0.8)
PRODUCT = 1024


def text(seconds: float) -> str:
    """Such as 40 s, 2 min 50 s, 3 h 20 min."""
    minutes, rest = divmod(round(seconds, -1 if seconds > 20 else 0), 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest:.0f} s" if minutes else f"{rest:.0f} s"


def bounds(flops: float) -> tuple[float, float]:
    """Seconds, at least and at most, of steps with matrix products of `flops`
    floating-point operations, by the time of a product on one device."""
    rate = timing.matmul_peak(jnp.float32, size=PRODUCT) * jax.device_count()
    low, high = SHARES
    return flops / rate / high, flops / rate / low
