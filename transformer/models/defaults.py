"""The default block: what the models put into its slots, and the kernels it runs on.

Attention in heads of one size with QK-norm, RMS norms, an MLP of ReLU^2, each by its
fast kernel: this file alone names `network/kernels`. Output maps into the residual
stream start at zero, so that every layer is the identity at first; the other maps have
deviation 1 / sqrt(inputs).

The slots of the builders in this package, `make_attention` and `make_mlp`, are called
with the keyword `width`: a module class, a `partial` of one, or what `attention` and
`mlp` return all fit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from transformer import axes
from transformer.network import attention as attention_
from transformer.network import block as block_
from transformer.network import mlp as mlp_
from transformer.network import norms, positions
from transformer.network import stack as stack_
from transformer.network.block import Make
from transformer.network.kernels import activations, row_attention
from transformer.network.kernels import norms as norm_kernels
from transformer.network.masks import Mask

# make(width=...) -> module.
MakeOfWidth = Callable[..., nn.Module]
Init = nn.initializers.Initializer

HEAD_FEATURES = 32
# Of the language models.
TEXT_HEAD_FEATURES = 64
ZERO: Init = nn.initializers.zeros
# fan_in_init(in_axis=..., out_axis=...): normal, of deviation 1 / sqrt(inputs).
fan_in_init: Any = partial(nn.initializers.variance_scaling, 1.0, "fan_in", "normal")

relu_squared = activations.relu_squared
gelu = activations.gelu
make_norm: Make = partial(norms.RMSNorm, implementation=norm_kernels.rms_norm)
make_head_norm: Make = partial(norms.HeadRMSNorm, implementation=norm_kernels.rms_norm)


def row_blocked_kernel(block: int) -> attention_.Kernel:
    """Softmax attention of `block` queries at a time: the fastest on a CPU."""
    return partial(row_attention.row_blocked_attention, block=block)


def flash_kernel(block: int) -> attention_.Kernel:
    """Softmax attention in tiles of `block` queries and keys, with memory linear in the
    length and without the tiles that the mask excludes: for long rows."""
    from transformer.network.kernels import flash_attention

    return partial(flash_attention.flash_attention, block=block)


def platform_kernel(block: int, *, tpu_block: int = 512) -> attention_.Kernel:
    """The fastest kernel of the platform and the mask, which a TPU's program names in a
    line: on a TPU Splash attention, in blocks of `tpu_block`, or for what that cannot
    compute flash attention; elsewhere blocks of `block` rows."""
    return partial(_attend_by_platform, row_block=block, tpu_block=tpu_block)


def _attend_by_platform(
    *arrays: Any, row_block: int, tpu_block: int, **settings: Any
) -> Any:
    if axes.platform() != "tpu":
        return row_blocked_kernel(row_block)(*arrays, **settings)
    from transformer.network.kernels import splash_attention

    mask, bias = settings["mask"], settings.get("bias")
    reason = splash_attention.reason_against(mask, bias=bias)
    if reason:
        _print_once(f"attention: flash kernel; Splash cannot compute {reason}")
        return flash_kernel(tpu_block)(*arrays, **settings)
    _print_once(f"attention: Splash kernel, mask {mask}")
    return splash_attention.splash_attention(*arrays, **settings, block=tpu_block)


def kernel_name(make_mixer: attention_.MakeMixer) -> str:
    """The name of a mixer's kernel, or of a mixer without one; of `platform_kernel`
    those of the platforms, where the mask does not exclude them."""
    kernel = getattr(make_mixer, "keywords", {}).get("kernel", make_mixer)
    function = getattr(kernel, "func", kernel)
    if function is _attend_by_platform:
        return "splash" if axes.platform() == "tpu" else "row-blocked (TPU: splash)"
    return function.__name__


@functools.cache
def _print_once(line: str) -> None:
    if jax.process_index() == 0:
        print(line, flush=True)


def row_blocked(block: int, *, soft_cap: float | None = None) -> attention_.MakeMixer:
    """The mixer of `row_blocked_kernel`. soft_cap: of the scores."""
    kernel = row_blocked_kernel(block)
    return partial(attention_.SoftmaxAttention, kernel=kernel, soft_cap=soft_cap)


ROW_BLOCKED = row_blocked(128)
BY_PLATFORM = partial(attention_.SoftmaxAttention, kernel=platform_kernel(128))


def num_heads(width: int, head_features: int) -> int:
    """The number of heads that fill the width. ValueError where none does."""
    if width < head_features or width % head_features:
        raise ValueError(f"width: expected a multiple of {head_features}, got {width}")
    return width // head_features


def attention(
    *,
    width: int,
    mask: Mask,
    rotate: positions.Rotate = positions.identity,
    head_features: int = HEAD_FEATURES,
    kv_heads: int | None = None,
    make_mixer: attention_.MakeMixer = BY_PLATFORM,
    output_init: Init = ZERO,
) -> Make:
    """Multi-head attention of `width` features in heads of `head_features`.

    kv_heads: of keys and values, as many as of queries if None. make_mixer: softmax
    attention by `platform_kernel`, or another function. ValueError where the heads do
    not fill the width.
    """
    heads = num_heads(width, head_features)
    return partial(
        attention_.Attention,
        width=width,
        heads=heads,
        kv_heads=kv_heads or heads,
        head_features=head_features,
        mask=mask,
        rotate=rotate,
        make_mixer=make_mixer,
        head_norm=make_head_norm,
        weight_init=fan_in_init(in_axis=0, out_axis=(1, 2)),
        output_init=output_init,
    )


def mlp(
    *, width: int, hidden_features: int | None = None, output_init: Init = ZERO
) -> Make:
    """An MLP of `hidden_features`, 4 * `width` if None."""
    return partial(
        mlp_.MLP,
        width=width,
        hidden_features=hidden_features or 4 * width,
        activation=relu_squared,
        weight_init=fan_in_init(),
        output_init=output_init,
    )


def stack(
    *,
    depth: int,
    width: int,
    make_attention: MakeOfWidth,
    make_mlp: MakeOfWidth | None = None,
    make_cross_attention: MakeOfWidth | None = None,
    make_norm: Make = make_norm,
    residual: block_.ResidualOrder = block_.pre_norm,
) -> Make:
    """`depth` equal blocks of these slots; of a decoder that attends to a memory too if
    `make_cross_attention` is given. make_mlp: `mlp` if None."""
    slots: dict[str, Any] = {
        "make_attention": partial(make_attention, width=width),
        "make_mlp": partial(make_mlp or mlp(width=width), width=width),
        "make_norm": make_norm,
        "residual": residual,
    }
    kind: type[nn.Module] = block_.Block
    if make_cross_attention is not None:
        slots["make_cross_attention"] = partial(make_cross_attention, width=width)
        kind = block_.DecoderBlock
    return partial(
        stack_.UnrolledStack,
        depth=depth,
        make_block=lambda block, layer: block(**slots),
        block=kind,
    )
