"""Our GPT of the compared shapes, from the project's own modules."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.shapes import Shape
from transformer.models import decoder
from transformer.network import (
    attention,
    block,
    masks,
    mlp,
    norms,
    positions,
    precision,
    stack,
)
from transformer.network.kernels import activations as fast_activations
from transformer.network.kernels import norms as fast_norms
from transformer.network.kernels import row_attention as fast_attention
from transformer.network.precision import Einsum
from transformer.objectives import cross_entropy


def model(
    shape: Shape, *, fast: bool = True, einsum: Einsum = precision.einsum_f32
) -> decoder.Decoder:
    """The decoder; `fast=False` has every plain path, for comparison."""
    rows = partial(
        fast_attention.row_blocked_attention, block=shape.block, einsum=einsum
    )
    kernel = rows if fast else attention.dot_product_attention
    recompute = einsum is not precision.einsum_f32
    fast_gelu = fast_activations.gelu_recompute if recompute else fast_activations.gelu
    activation = fast_gelu if fast else mlp.gelu
    compute = fast_norms.layer_norm if fast else norms.layer_norm
    make_norm = partial(norms.LayerNorm, implementation=compute)

    def make_block(make: Callable[..., block.Block], layer: int) -> block.Block:
        return make(
            make_attention=partial(
                attention.Attention,
                width=shape.width,
                heads=shape.heads,
                kv_heads=shape.heads,
                head_features=shape.width // shape.heads,
                mask=masks.causal(),
                make_mixer=partial(attention.SoftmaxAttention, kernel=kernel),
                einsum=einsum,
            ),
            make_mlp=partial(
                mlp.MLP,
                width=shape.width,
                hidden_features=4 * shape.width,
                activation=activation,
                einsum=einsum,
            ),
            make_norm=make_norm,
        )

    return decoder.Decoder(
        vocab_size=shape.vocab_size,
        width=shape.width,
        make_stack=partial(
            stack.UnrolledStack, depth=shape.depth, make_block=make_block
        ),
        make_position=partial(positions.Learned, length=shape.length),
        make_norm=make_norm,
        unembed=decoder.tied_unembedding,
    )


def params(shape: Shape, weights: dict[str, np.ndarray]) -> dict[str, Any]:
    """The named arrays of `shapes.weights` as our parameter tree."""
    heads = shape.heads, shape.width // shape.heads

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"gain_D": weights[f"{name}.weight"], "bias_D": weights[f"{name}.bias"]}

    def layer(i: int) -> dict[str, Any]:
        of = f"blocks.{i}"
        q, k, v = (
            part.T.reshape(shape.width, *heads)
            for part in np.split(weights[f"{of}.attention.qkv.weight"], 3)
        )
        out = weights[f"{of}.attention.out.weight"].T.reshape(*heads, shape.width)
        return {
            "attention": {"w_q_DHK": q, "w_k_DGK": k, "w_v_DGK": v, "w_o_HKD": out},
            "mlp": {
                "w_in_DF": weights[f"{of}.up.weight"].T,
                "w_out_FD": weights[f"{of}.down.weight"].T,
            },
            "attention_norm": norm(f"{of}.norm1"),
            "mlp_norm": norm(f"{of}.norm2"),
        }

    tree = {
        "embedding_VD": weights["embedding.weight"],
        "position": {"position_LD": weights["position.weight"]},
        "stack": {f"layers_{i}": layer(i) for i in range(shape.depth)},
        "final_norm": norm("norm"),
    }
    return jax.tree.map(jnp.asarray, tree)


def optimizer(shape: Shape) -> optax.GradientTransformation:
    """AdamW with the numbers of `torch_gpt`."""
    return optax.adamw(shape.learning_rate, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1)


def trainer(
    shape: Shape,
    weights: dict[str, np.ndarray],
    *,
    dtype: str,
    fast: bool = True,
    einsum: Einsum = precision.einsum_f32,
) -> Callable[[np.ndarray, np.ndarray], float]:
    """A function of (ids, targets) that makes one AdamW step and returns the loss."""
    gpt, adamw = model(shape, fast=fast, einsum=einsum), optimizer(shape)
    readout_loss: Any = (
        partial(cross_entropy.fused_cross_entropy, einsum=einsum)
        if fast
        else partial(cross_entropy.chunked_loss, cross_entropy.cross_entropy)
    )

    def loss(masters: Any, ids_BL: jax.Array, targets_BL: jax.Array) -> jax.Array:
        narrow = precision.cast_weights(masters, jnp.dtype(dtype))
        features = gpt.apply(
            {"params": narrow}, ids_BL, masks.single_document(shape.length)
        )
        weight_BL = jnp.ones(targets_BL.shape, jnp.float32)
        out = readout_loss(*features, targets_BL, weight_BL, chunks=shape.chunks)
        return out.total / out.weight

    @partial(jax.jit, donate_argnums=0)
    def update(state: Any, ids_BL: jax.Array, targets_BL: jax.Array) -> Any:
        masters, moments = state
        value, slopes = jax.value_and_grad(loss)(masters, ids_BL, targets_BL)
        changes, moments = adamw.update(slopes, moments, masters)
        return (optax.apply_updates(masters, changes), moments), value

    masters = params(shape, weights)
    state = [(masters, adamw.init(masters))]

    def step(ids: np.ndarray, targets: np.ndarray) -> float:
        state[0], value = update(state[0], ids, targets)
        return float(value)

    return step
