"""The encoder-decoder: a source sequence encoded, a target text generated from it
(Vaswani et al. 2017, arXiv 1706.03762)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.models import defaults, encoder, vit
from transformer.models.decoder import Decoder, Readout, language_model
from transformer.network import masks, positions
from transformer.network.block import Conditioning, Make
from transformer.network.kv_cache import Memory
from transformer.network.masks import TokenPositions


class EncoderDecoder(nn.Module):
    """An `Encoder` of tokens, patches or anything else that can be embedded, and a
    `Decoder` whose stack is of `block.DecoderBlock`."""

    make_encoder: Make
    make_decoder: Make

    def setup(self) -> None:
        self.encoder = self.make_encoder()
        self.decoder = self.make_decoder()

    def __call__(
        self,
        inputs: jax.Array,
        source: TokenPositions,
        ids_BL: jax.Array,
        target: TokenPositions,
    ) -> Readout:
        """The pair (features, unembedding) that predicts the target's next tokens.

        inputs, source: encoder inputs and their positions; ids_BL, target: decoder
        inputs and theirs.
        """
        memory = Memory(self.encoder(inputs, source), source)
        return self.decoder(ids_BL, target, Conditioning(memory=memory))

    def cache_memory(self, inputs: jax.Array, source: TokenPositions) -> Any:
        """The source's keys and values in every decoder layer, computed once for the
        whole generation: `block.join_caches` joins them to `empty_cache`."""
        return self.decoder.cache_memory(Memory(self.encoder(inputs, source), source))

    @nn.nowrap
    def empty_cache(self, *sizes: Any) -> Any:
        """As `Decoder.empty_cache`: for the target rows."""
        return self.make_decoder().empty_cache(*sizes)

    def decode(self, ids_BL: jax.Array, cache: Any, tokens: TokenPositions) -> Any:
        """As `Decoder.decode`, with caches that `block.join_caches` made."""
        return self.decoder.decode(ids_BL, cache, tokens)


def text_decoder(
    *,
    depth: int,
    width: int,
    vocab_size: int,
    head_features: int = defaults.TEXT_HEAD_FEATURES,
    rotate_cross: positions.Rotate = positions.identity,
    make_attention: defaults.MakeOfWidth | None = None,
    make_cross_attention: defaults.MakeOfWidth | None = None,
    make_mlp: defaults.MakeOfWidth | None = None,
) -> Callable[[], Decoder]:
    """A `decoder.language_model` that cross-attends to a memory; both attentions stay
    within a segment, so rows may be packed.

    rotate_cross: positions in the cross-attention. The slots are called with the
    keyword `width`; the defaults if None. ValueError where the default heads do not
    fill the width.
    """
    attention = partial(defaults.attention, width=width, head_features=head_features)
    make_attention = make_attention or attention(
        mask=masks.causal() & masks.segments(), rotate=positions.rotary()
    )
    make_cross_attention = make_cross_attention or attention(
        mask=masks.segments(), rotate=rotate_cross
    )
    return partial(
        language_model,
        depth=depth,
        width=width,
        vocab_size=vocab_size,
        make_attention=make_attention,
        make_cross_attention=make_cross_attention,
        make_mlp=make_mlp,
    )


def text_to_text(
    *,
    depth: int,
    width: int,
    vocab_size: int,
    head_features: int = defaults.TEXT_HEAD_FEATURES,
    rotate_cross: positions.Rotate = positions.identity,
    make_encoder: Make | None = None,
    make_decoder: Make | None = None,
) -> EncoderDecoder:
    """An `EncoderDecoder` from text to text of one vocabulary, each of `depth` blocks.

    rotate_cross: positions in the cross-attention; none where positions in source and
    target are unrelated. make_encoder, make_decoder: `encoder.text_encoder` and
    `text_decoder` of these sizes if None. ValueError where the default heads do not
    fill the width.
    """
    sizes: Any = {
        "depth": depth,
        "width": width,
        "vocab_size": vocab_size,
        "head_features": head_features,
    }
    return EncoderDecoder(
        make_encoder=make_encoder or encoder.text_encoder(**sizes),
        make_decoder=make_decoder or text_decoder(**sizes, rotate_cross=rotate_cross),
    )


def image_to_text(
    *,
    grid: tuple[int, ...],
    patch_features: int,
    depth: int,
    decoder_depth: int,
    width: int,
    vocab_size: int,
    make_encoder: Make | None = None,
    make_decoder: Make | None = None,
) -> EncoderDecoder:
    """An `EncoderDecoder` from raw patches (B, L, P), P `patch_features`, on a `grid`
    to text.

    make_encoder, make_decoder: `vit.patch_encoder` of `depth` blocks and `text_decoder`
    of `decoder_depth` blocks if None. ValueError where the default heads do not fill
    the width.
    """
    make_encoder = make_encoder or vit.patch_encoder(
        grid=grid, patch_features=patch_features, depth=depth, width=width
    )
    make_decoder = make_decoder or text_decoder(
        depth=decoder_depth,
        width=width,
        vocab_size=vocab_size,
        head_features=defaults.HEAD_FEATURES,
    )
    return EncoderDecoder(make_encoder=make_encoder, make_decoder=make_decoder)


def init_params(net: nn.Module, key: jax.Array) -> Any:
    """The parameters of a text-to-text model, a nested dictionary of float32 arrays."""
    ids_BL, tokens = jnp.zeros((1, 1), jnp.int32), masks.single_document(1)
    return net.init(key, ids_BL, tokens, ids_BL, tokens)["params"]


def init_image_to_text(net: EncoderDecoder, key: jax.Array, *, like: Any) -> Any:
    """The parameters; like: shape and dtype of a row of raw patches (1, L, P)."""
    raw_BLP, patches = jnp.zeros(like.shape), masks.single_document(like.shape[1])
    ids_BL, tokens = jnp.zeros((1, 1), jnp.int32), masks.single_document(1)
    return net.init(key, raw_BLP, patches, ids_BL, tokens)["params"]


def apply_image_to_text(
    net: EncoderDecoder, params: Any, batch: Mapping[str, Any], **options: Any
) -> Any:
    """The readout of the batch's texts (`ids_BL`, `segment_BL`, one document per row)
    given its images (`raw_BLP`). options: of `net.apply`."""
    patches = masks.single_document(batch["raw_BLP"].shape[1])
    segment_BL = batch["segment_BL"]
    tokens = masks.packed(segment_BL, jnp.arange(segment_BL.shape[1])[None])
    inputs = batch["raw_BLP"], patches, batch["ids_BL"], tokens
    return net.apply({"params": params}, *inputs, **options)
