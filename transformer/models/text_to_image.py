"""A diffusion transformer conditioned on text: every block cross-attends to it
(Rombach et al. 2021, arXiv 2112.10752, section 3.3), and its mean joins the timestep
embedding (GLIDE, Nichol et al. 2021, arXiv 2112.10741, section 2.2)."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.models import defaults, dit, encoder
from transformer.network import block, embeddings, masks, positions
from transformer.network.block import Make
from transformer.network.kv_cache import Memory
from transformer.processes import flow_matching


class TextTimeConditioning(nn.Module):
    """Conditioning on time and text, (ids_BL, segment_BL) with segment 0 for padding:
    the text's features D as memory, their mean with the time as condition, J = D."""

    make_encoder: Make

    @nn.compact
    def __call__(
        self, t_B: jax.Array, text: tuple[jax.Array, jax.Array]
    ) -> block.Conditioning:
        ids_BL, segment_BL = text
        tokens = masks.packed(segment_BL, jnp.arange(ids_BL.shape[1])[None])
        x_BLD = self.make_encoder()(ids_BL, tokens)
        mean_BLJ = encoder.mean_pooling(x_BLD, tokens)[:, None]
        condition_BLJ = dit.add_time_embedding(mean_BLJ, t_B)
        return block.Conditioning(Memory(x_BLD, tokens), condition_BLJ)


def text_to_image(
    *,
    grid: tuple[int, ...],
    patch_features: int,
    vocab_size: int,
    depth: int,
    text_depth: int,
    width: int,
    make_attention: defaults.MakeOfWidth | None = None,
    make_cross_attention: defaults.MakeOfWidth | None = None,
    make_mlp: defaults.MakeOfWidth | None = None,
    examples: int = 0,
) -> dit.DiT:
    """A DiT of raw patches (B, L, P), P `patch_features`, on a `grid`, conditioned on
    texts: `depth` adaptive blocks attend to the output of a text encoder of
    `text_depth` blocks. examples: the number of example images beside the noisy one,
    as of `predict`.

    The slots of the adaptive blocks are called with the keyword `width`; those of `dit`
    if None. ValueError where the default heads do not fill the width.
    """
    make_attention = make_attention or dit.attention(
        width=width, mask=masks.full(), rotate=positions.axial(grid)
    )
    make_cross_attention = make_cross_attention or dit.attention(
        width=width, mask=masks.padding()
    )
    make_encoder = encoder.text_encoder(
        depth=text_depth, width=width, vocab_size=vocab_size
    )
    return dit.DiT(
        output_features=patch_features + 1 + examples,
        width=width,
        make_condition=partial(TextTimeConditioning, make_encoder),
        make_embed=partial(
            embeddings.PatchEmbedding,
            features=patch_features * (1 + examples),
            width=width,
        ),
        make_stack=dit.stack(
            depth=depth,
            width=width,
            make_attention=make_attention,
            make_mlp=make_mlp,
            make_cross_attention=make_cross_attention,
        ),
    )


def init_params(net: dit.DiT, key: jax.Array, *, like: Any) -> Any:
    """The parameters for rows of the shape and dtype of `like`."""
    *shape, features = like.shape
    # A net without weights of images sees the noisy one alone.
    images = max(1, net.output_features - features)
    x = jnp.zeros((*shape, features * images), like.dtype)
    one_BL = jnp.ones((like.shape[0], 1), jnp.int32)
    t_B, tokens = jnp.zeros(like.shape[0]), masks.single_document(like.shape[1])
    return net.init(key, x, t_B, (one_BL, one_BL), tokens)["params"]


def predict(
    net: dit.DiT,
    params: Any,
    condition: tuple[jax.Array, ...],
    x_BLP: jax.Array,
    t_B: jax.Array,
    *,
    compute_dtype: Any = jnp.float32,
) -> jax.Array:
    """The velocity (B, L, P) at x_BLP, given texts and examples (ids_BL, segment_BL,
    example_BLP).

    The model sees each noisy patch beside those of the examples at its place
    (InstructPix2Pix, Brooks et al. 2022, arXiv 2211.09800, section 3.2). It returns the
    weights of these and what to add to their sum: what is right in an example is copied
    (as in See et al. 2017, arXiv 1704.04368), and noise need not pass the model.
    """
    *text, example_BLP = condition
    seen_BLP = jnp.concatenate([x_BLP, example_BLP.astype(x_BLP.dtype)], -1)
    out_BLP = dit.predict(
        net, params, tuple(text), seen_BLP, t_B, compute_dtype=compute_dtype
    )
    added_BLP, weight_BLI = jnp.split(out_BLP, [x_BLP.shape[-1]], -1)
    seen_BLIP = seen_BLP.reshape(*weight_BLI.shape, x_BLP.shape[-1])
    residual_BLP = added_BLP + jnp.einsum("BLI,BLIP->BLP", weight_BLI, seen_BLIP)
    return flow_matching.precondition(residual_BLP, x_BLP, t_B)
