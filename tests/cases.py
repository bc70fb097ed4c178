"""The models that every theorem is stated for. A later model joins by one line in
`MODELS`: how to make it, a batch for it, and its loss.

They are tiny, their parameters are drawn with numpy (no compilation, and no norm gain
of exactly 1 or bias of exactly 0 behind which an error could hide).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transformer.axes import leaf_name
from transformer.models import decoder
from transformer.network import (
    attention,
    biases,
    block,
    masks,
    mlp,
    norms,
    positions,
    precision,
    stack,
)
from transformer.network.kernels import flash_attention as fast_blockwise
from transformer.network.kernels import row_attention as fast_attention
from transformer.objectives import cross_entropy
from transformer.objectives.loss import Loss

WIDTH, HEADS, FEATURES, DEPTH, VOCAB_SIZE = 32, 4, 8, 2, 64
ROWS, LENGTH = 8, 16


class Case(NamedTuple):
    """make(stack=..., remat=..., kernel=..., einsum=..., depth=...) gives the module;
    batch(seed) a batch of ROWS rows; loss(module, params, batch) its Loss. mask:
    without segments. init_params(module, key): its parameters."""

    name: str
    make: Callable[..., nn.Module]
    batch: Callable[[int], dict[str, np.ndarray]]
    loss: Callable[[nn.Module, Any, dict[str, Any]], Loss]
    mask: masks.Mask
    init_params: Callable[[nn.Module, jax.Array], Any] = decoder.init_params


def text(seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of two documents and some padding, cut at a different place in each."""
    rng = np.random.default_rng(seed)
    segment_BL = np.zeros((ROWS, LENGTH), np.int32)
    index_BL = np.zeros((ROWS, LENGTH), np.int32)
    for row in range(ROWS):
        cut, end = rng.integers(3, 9), rng.integers(11, LENGTH + 1)
        segment_BL[row, :end] = 1 + (np.arange(end) >= cut)
        index_BL[row, :end] = np.r_[:cut, : end - cut]
    ids_BL = rng.integers(0, VOCAB_SIZE, (ROWS, LENGTH + 1)).astype(np.int32)
    return {
        "ids_BL": ids_BL[:, :-1],
        "targets_BL": ids_BL[:, 1:],
        "segment_BL": segment_BL,
        "position_BL": index_BL,
        "weight_BL": (segment_BL > 0).astype(np.float32),
    }


def next_token(module: nn.Module, params: Any, batch: dict[str, Any]) -> Loss:
    tokens = masks.packed(batch["segment_BL"], batch["position_BL"])
    readout = module.apply({"params": params}, batch["ids_BL"], tokens)
    return cross_entropy.cross_entropy(
        decoder.logits(readout), batch["targets_BL"], batch["weight_BL"]
    )


@cache
def _shapes(module: nn.Module, init_params: Callable[..., Any]) -> Any:
    return jax.eval_shape(lambda: init_params(module, jax.random.key(0)))


def random_params(
    module: nn.Module,
    seed: int = 0,
    init_params: Callable[..., Any] = decoder.init_params,
) -> Any:
    """Parameters of a model: gains near 1, weights of deviation 0.3."""
    try:
        shapes = _shapes(module, init_params)
    except TypeError:  # Of a module with a dict, which has no hash.
        shapes = _shapes.__wrapped__(module, init_params)
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> jax.Array:
        near = 1.0 if leaf_name(path).startswith("gain_") else 0.0
        return jnp.asarray(np.float32(near + 0.3 * rng.normal(size=leaf.shape)))

    return jax.tree_util.tree_map_with_path(draw, shapes)


def _language(
    *,
    mask: masks.Mask,
    attention_arguments: dict[str, Any],
    mixer_arguments: dict[str, Any],
    make_mlp: Callable[..., nn.Module],
    make_bias: biases.MakeBias,
    residual: block.ResidualOrder,
    norm: Callable[[], nn.Module],
    decoder_arguments: dict[str, Any],
    stack: Callable[..., nn.Module] = stack.UnrolledStack,
    remat: Any = stack.REMAT["none"],
    kernel: attention.Kernel = attention.dot_product_attention,
    einsum: precision.Einsum = precision.einsum_f32,
    depth: int = DEPTH,
) -> nn.Module:
    make_attention = partial(
        attention.Attention,
        width=WIDTH,
        heads=HEADS,
        head_features=FEATURES,
        mask=mask,
        make_mixer=partial(
            attention.SoftmaxAttention, kernel=kernel, **mixer_arguments
        ),
        make_bias=make_bias,
        einsum=einsum,
        **{"kv_heads": HEADS, **attention_arguments},
    )

    def make_block(block: Any, layer: int) -> Any:
        return block(
            make_attention=make_attention,
            make_mlp=partial(
                make_mlp,
                width=WIDTH,
                hidden_features=2 * WIDTH,
                make_bias=make_bias,
                einsum=einsum,
            ),
            make_norm=norm,
            residual=residual,
        )

    return decoder.Decoder(
        vocab_size=VOCAB_SIZE,
        width=WIDTH,
        make_stack=partial(stack, depth=depth, make_block=make_block, remat=remat),
        make_norm=norm,
        **decoder_arguments,
    )


def language_model(
    name: str,
    *,
    mask: masks.Mask | None = None,
    packed: bool = True,
    make_mlp: Callable[..., nn.Module] = mlp.MLP,
    make_bias: biases.MakeBias = biases.no_bias,
    residual: block.ResidualOrder = block.pre_norm,
    norm: Callable[[], nn.Module] = norms.RMSNorm,
    attention: dict[str, Any] | None = None,
    mixer: dict[str, Any] | None = None,
    decoder: dict[str, Any] | None = None,
) -> Case:
    """A decoder that differs from the plainest one in what is named. packed: it sees
    where documents end."""
    mask = masks.causal() if mask is None else mask
    make = partial(
        _language,
        mask=mask & masks.segments() if packed else mask,
        attention_arguments=attention or {},
        mixer_arguments=mixer or {},
        make_mlp=make_mlp,
        make_bias=make_bias,
        residual=residual,
        norm=norm,
        decoder_arguments=decoder or {},
    )
    return Case(name, make, text, next_token, mask)


LEARNED = {"make_position": partial(positions.Learned, length=LENGTH)}
ROTARY = {"rotate": positions.rotary()}

# The models that stand for all: every theorem is stated for each.
MODELS = [
    language_model(
        "gpt2", make_bias=biases.zero_init_bias, norm=norms.LayerNorm, decoder=LEARNED
    ),
    language_model(
        "modern",
        make_mlp=mlp.GatedMLP,
        attention={**ROTARY, "kv_heads": 2, "head_norm": norms.HeadRMSNorm},
        decoder={
            "unembed": decoder.untied_unembedding,
            "make_embedding_norm": norms.RMSNorm,
        },
    ),
    language_model(
        "window",
        mask=masks.causal() & masks.window(4),
        residual=block.post_norm,
        norm=norms.LayerNorm,
        attention={"kv_heads": 1},
        mixer={"bias": positions.alibi(HEADS), "soft_cap": 5.0},
    ),
]

# One variant each, for theorems about attention and decoding only.
VARIANTS = [
    *MODELS,
    language_model("no position"),
    language_model("rotary", attention=ROTARY),
    language_model("unpacked", packed=False, attention=ROTARY),
    language_model(
        "unpacked rolling", packed=False, mask=masks.window(3), attention=ROTARY
    ),
    language_model(
        "interpolated", attention={"rotate": positions.rotary(interpolation=2.0)}
    ),
    language_model(
        "sinusoidal", decoder={"make_position": positions.SinusoidalPositions}
    ),
    language_model("multi-query", attention={**ROTARY, "kv_heads": 1}),
    language_model("soft-cap", attention=ROTARY, mixer={"soft_cap": 1.0}),
    language_model("alibi", mixer={"bias": positions.alibi(HEADS)}),
    language_model("rolling", mask=masks.window(3), attention=ROTARY),
    language_model("dilated", mask=masks.dilated(2, 2), attention=ROTARY),
    language_model("prefix", mask=masks.prefix(4) | masks.causal(), attention=ROTARY),
    language_model(
        "global",
        mask=(masks.window(3) | masks.global_tokens(2)) & masks.causal(),
        attention=ROTARY,
    ),
    language_model(
        "sparse",
        mask=masks.block_sparse(np.tri(4, dtype=int) - np.tri(4, k=-3, dtype=int), 4)
        & masks.causal(),
    ),
]


class KernelCase(NamedTuple):
    """A kernel, equal to `attention.dot_product_attention`. soft_cap: whether it has
    one."""

    name: str
    kernel: attention.Kernel
    soft_cap: bool = True


# Fast paths; each is held against `attention.dot_product_attention` in every theorem
# about attention.
KERNELS = [
    KernelCase("platform", attention.jax_attention, soft_cap=False),
    KernelCase("rows", partial(fast_attention.row_blocked_attention, block=5)),
    KernelCase("blockwise", partial(fast_blockwise.flash_attention, block=5)),
]


def name_of(case: Any) -> str | None:
    """For `pytest.mark.parametrize(..., ids=name_of)`."""
    return getattr(case, "name", None)


def close(expected: Any, got: Any, tolerance: float = 1e-5) -> None:
    """Two trees of arrays agree, each leaf to `tolerance` of its largest entry."""
    wanted, found = (
        jax.tree_util.tree_flatten_with_path(t)[0] for t in (expected, got)
    )
    assert [path for path, _ in wanted] == [path for path, _ in found]
    for (path, a), (_, b) in zip(wanted, found, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        scale = max(float(np.abs(a).max(initial=0.0)), 1e-2)
        np.testing.assert_allclose(
            b, a, rtol=0, atol=tolerance * scale, err_msg=jax.tree_util.keystr(path)
        )
