"""The recipe that the models here have in common: what goes into a block's slots.

Heads of one size with normalised queries and keys, RMS norms, an MLP of ReLU^2, and the
fast paths of each (`network/fast`). Maps into the stream start at zero, so that each
layer is the identity at first; the others with deviation 1 / sqrt(inputs). A model that
wants something else puts it in the slot instead.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn

from transformer.network import attention, mlp, norms, positions, stack
from transformer.network.kernels import activations as fast_activations
from transformer.network.kernels import norms as fast_norms
from transformer.network.kernels import row_attention as fast_attention
from transformer.network.masks import Mask

Make = Callable[[], nn.Module]
Init = nn.initializers.Initializer
HEAD_FEATURES = 32
ZERO = nn.initializers.zeros
SCALED: Any = partial(nn.initializers.variance_scaling, 1.0, "fan_in", "normal")

ROWS = partial(fast_attention.rows, block=128)

make_norm: Make = partial(norms.RMSNorm, compute=fast_norms.rms_norm)


def attention_of(
    *,
    width: int,
    mask: Mask,
    rotate: positions.Rotate = positions.unrotated,
    head_features: int = HEAD_FEATURES,
    attend: attention.Attend = ROWS,
    output_init: Init = ZERO,
) -> Make:
    """Multi-head attention of `width` features in heads of `head_features`.

    attend: how it is computed. ValueError where the heads do not fill the width.
    """
    if width % head_features:
        raise ValueError(f"width: expected a multiple of {head_features}, got {width}")
    heads = width // head_features
    return partial(
        attention.Attention,
        width=width,
        heads=heads,
        groups=heads,
        head_features=head_features,
        mask=mask,
        rotate=rotate,
        attend=attend,
        head_norm=partial(norms.HeadRMSNorm, compute=fast_norms.rms_norm),
        weight_init=SCALED(in_axis=0, out_axis=(1, 2)),
        output_init=output_init,
    )


def mlp_of(*, width: int, output_init: Init = ZERO) -> Make:
    """`width` features to four times as many and back."""
    return partial(
        mlp.MLP,
        width=width,
        hidden=4 * width,
        activation=fast_activations.relu_squared,
        weight_init=SCALED(),
        output_init=output_init,
    )


def layers(*, depth: int, width: int, make_attention: Make) -> Make:
    """A stack of `depth` equal blocks of that attention and `mlp_of` the width."""
    return partial(
        stack.Unrolled,
        depth=depth,
        make_block=lambda block, layer: block(
            make_attention=make_attention,
            make_mlp=mlp_of(width=width),
            make_norm=make_norm,
        ),
    )
