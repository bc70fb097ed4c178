"""How long a run will take on this machine, before its step is compiled."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from transformer.training import timing

# Of the FLOP/s of a large float32 product, those that steps of the experiments reach:
# on a CPU with bfloat16 language_model 1.25, eight others 0.47 to 0.62.
SHARES = (0.4, 1.6)
# What a step takes at most without its products; winds, the smallest, 0.1 in all.
STEP_SECONDS = 0.1
PRODUCT = 1024


def text(seconds: float) -> str:
    """Such as 40 s, 2 min 50 s, 3 h 20 min."""
    minutes, rest = divmod(round(seconds, -1 if seconds > 20 else 0), 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest:.0f} s" if minutes else f"{rest:.0f} s"


def bounds(steps: int, flops: float) -> tuple[float, float]:
    """Seconds, at least and at most, of `steps` steps with matrix products of `flops`
    floating-point operations each, by the time of a product on one device."""
    rate = timing.matmul_peak(jnp.float32, size=PRODUCT) * jax.device_count()
    low, high = SHARES
    seconds = steps * flops / rate
    return seconds / high, seconds / low + steps * STEP_SECONDS
