"""The models of other kinds of sequences than the token rows of `cases.MODELS`. A new
one is one line in `KINDS`; the theorems about any model are tested for it too."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from cases import DEPTH, FEATURES, HEADS, ROWS, WIDTH, Case

from transformer.models import decoder, dit, encoder, encoder_decoder, text_to_image
from transformer.models import vit as models_vit
from transformer.network import (
    attention,
    block,
    embeddings,
    factorized_attention,
    masks,
    mlp,
    norms,
    positions,
    stack,
)
from transformer.objectives import cross_entropy, denoising
from transformer.objectives.loss import Loss

GRID, PIXELS, CLASSES, CONDITION, VOCAB_SIZE = (2, 4), 6, 4, 5, 16
EVERYTHING = masks.full() & masks.segments()


def make_attention(
    *, mask: masks.Mask = EVERYTHING, kernel: attention.Kernel, **arguments: Any
) -> Any:
    return partial(
        attention.Attention,
        width=WIDTH,
        heads=HEADS,
        kv_heads=HEADS,
        head_features=FEATURES,
        mask=mask,
        make_mixer=partial(attention.SoftmaxAttention, kernel=kernel),
        **arguments,
    )


make_mlp = partial(mlp.MLP, width=WIDTH, hidden_features=2 * WIDTH)


def make_stack(
    make_attention: Any,
    *,
    stack: Any = stack.UnrolledStack,
    remat: Any = stack.REMAT["none"],
    depth: int = DEPTH,
    kind: Any = block.Block,
    **slots: Any,
) -> Any:
    def make_block(make: Any, layer: int) -> Any:
        return make(make_attention=make_attention, make_mlp=make_mlp, **slots)

    return partial(stack, depth=depth, make_block=make_block, remat=remat, block=kind)


def random_patches(seed: int, length: int = GRID[0] * GRID[1]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(ROWS, length, PIXELS)).astype(np.float32)


def random_labels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed + 1).integers(0, CLASSES, ROWS).astype(np.int32)


# A ViT: patches behind a class token, two-dimensional rotary positions.


def vit(
    *, kernel: attention.Kernel = attention.dot_product_attention, **how: Any
) -> nn.Module:
    make = make_attention(kernel=kernel, rotate=positions.axial(GRID))
    return encoder.Classifier(
        classes=CLASSES,
        width=WIDTH,
        pool=encoder.first_token,
        make_encoder=partial(
            encoder.Encoder,
            make_embed=partial(
                embeddings.ClassToken,
                width=WIDTH,
                make_embed=partial(
                    embeddings.PatchEmbedding, features=PIXELS, width=WIDTH
                ),
            ),
            make_stack=make_stack(make, **how),
        ),
    )


def labeled_images(seed: int) -> dict[str, np.ndarray]:
    return {"raw_BLP": random_patches(seed), "label_B": random_labels(seed)}


def class_loss(module: nn.Module, params: Any, batch: dict[str, Any]) -> Loss:
    tokens = models_vit.token_positions(GRID, models_vit.CLASS_TOKEN)
    logits_BV = module.apply({"params": params}, batch["raw_BLP"], tokens)
    ones_B = jnp.ones(logits_BV.shape[0])
    return cross_entropy.classification(logits_BV, batch["label_B"], ones_B)


def init_vit(module: nn.Module, key: jax.Array) -> Any:
    inputs = jnp.zeros((1, 8, PIXELS)), masks.single_document(9)
    return module.init(key, *inputs)["params"]


# An encoder-decoder of ragged rows.


def seq2seq(
    *, kernel: attention.Kernel = attention.dot_product_attention, **how: Any
) -> nn.Module:
    make_cross_attention = make_attention(mask=masks.padding(), kernel=kernel)
    rotated = {"kernel": kernel, "rotate": positions.rotary()}
    symbols = partial(embeddings.TokenEmbedding, vocab_size=VOCAB_SIZE, width=WIDTH)
    causal = masks.causal() & masks.segments()
    return encoder_decoder.EncoderDecoder(
        make_encoder=partial(
            encoder.Encoder,
            make_embed=symbols,
            make_stack=make_stack(make_attention(**rotated), **how),
        ),
        make_decoder=partial(
            decoder.Decoder,
            vocab_size=VOCAB_SIZE,
            width=WIDTH,
            make_stack=make_stack(
                make_attention(mask=causal, **rotated),
                kind=block.DecoderBlock,
                make_cross_attention=make_cross_attention,
                **how,
            ),
        ),
    )


def sentences(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    source_BL = np.arange(12)[None] < rng.integers(5, 13, ROWS)[:, None]
    target_BL = np.arange(9)[None] < rng.integers(4, 9, ROWS)[:, None]
    return {
        "source_BL": rng.integers(0, VOCAB_SIZE, (ROWS, 12)).astype(np.int32),
        "source_segment_BL": source_BL.astype(np.int32),
        "ids_BL": rng.integers(0, VOCAB_SIZE, (ROWS, 9)).astype(np.int32),
        "targets_BL": rng.integers(0, VOCAB_SIZE, (ROWS, 9)).astype(np.int32),
        "target_segment_BL": target_BL.astype(np.int32),
    }


def seq2seq_loss(module: nn.Module, params: Any, batch: dict[str, Any]) -> Loss:
    segments = batch["source_segment_BL"], batch["target_segment_BL"]
    source, target = (
        masks.packed(segment_BL, jnp.arange(segment_BL.shape[1])[None])
        for segment_BL in segments
    )
    inputs = batch["source_BL"], source, batch["ids_BL"], target
    readout = module.apply({"params": params}, *inputs)
    weight_BL = (batch["target_segment_BL"] > 0).astype(jnp.float32)
    return cross_entropy.cross_entropy(
        decoder.logits(readout), batch["targets_BL"], weight_BL
    )


def init_seq2seq(module: nn.Module, key: jax.Array) -> Any:
    return encoder_decoder.init_params(module, key)


# A flow of patches: adaptive norms conditioned on time and class.


def flow(
    *, kernel: attention.Kernel = attention.dot_product_attention, **how: Any
) -> nn.Module:
    make = make_attention(kernel=kernel, rotate=positions.axial(GRID, periodic=[1]))
    norm = partial(norms.AdaLNZero, width=WIDTH, condition_features=CONDITION)
    return encoder.TokenRegressor(
        output_features=PIXELS,
        width=WIDTH,
        make_encoder=partial(
            encoder.Encoder,
            make_embed=partial(embeddings.PatchEmbedding, features=PIXELS, width=WIDTH),
            make_stack=make_stack(
                make, make_norm=norm, residual=block.adaln_zero, **how
            ),
        ),
    )


def class_time_condition(label_B: Any, t_B: Any) -> jax.Array:
    one_BV = jax.nn.one_hot(label_B, CLASSES)
    return jnp.concatenate([one_BV, t_B[:, None]], axis=-1)[:, None]


def flow_loss(module: nn.Module, params: Any, batch: dict[str, Any]) -> Loss:
    """Time and noise are functions of the row, so that parts of a batch add."""
    raw_BLP = batch["raw_BLP"]
    t_B = jax.nn.sigmoid(raw_BLP[:, 0, 0])
    t_BLP, noise_BLP = t_B[:, None, None], raw_BLP[:, ::-1]
    x_t_BLP = (1 - t_BLP) * noise_BLP + t_BLP * raw_BLP
    condition_BLJ = class_time_condition(batch["label_B"], t_B)
    conditioning = block.Conditioning(condition_BLJ=condition_BLJ)
    tokens = masks.single_document(x_t_BLP.shape[1])
    out_BLP = module.apply({"params": params}, x_t_BLP, tokens, conditioning)
    ones_BL = jnp.ones(out_BLP.shape[:2])
    return denoising.squared_error(out_BLP, raw_BLP - noise_BLP, ones_BL)


def init_flow(module: nn.Module, key: jax.Array) -> Any:
    conditioning = block.Conditioning(condition_BLJ=jnp.zeros((1, 1, CONDITION)))
    inputs = jnp.zeros((1, 8, PIXELS)), masks.single_document(8)
    return module.init(key, *inputs, conditioning)["params"]


# A flow of patches conditioned on text: adaptive norms and cross-attention.


def text_conditioned_dit(
    *, kernel: attention.Kernel = attention.dot_product_attention, **how: Any
) -> nn.Module:
    # QK-norm: adaptive gains of 32 features would saturate the softmax.
    make = partial(make_attention, kernel=kernel, head_norm=norms.HeadRMSNorm)
    make_encoder = partial(
        encoder.Encoder,
        make_embed=partial(
            embeddings.TokenEmbedding, vocab_size=VOCAB_SIZE, width=WIDTH
        ),
        make_stack=make_stack(make(), **how),
    )
    return dit.DiT(
        output_features=PIXELS,
        width=WIDTH,
        make_condition=partial(text_to_image.TextTimeConditioning, make_encoder),
        make_embed=partial(embeddings.PatchEmbedding, features=PIXELS, width=WIDTH),
        make_stack=make_stack(
            make(rotate=positions.axial(GRID)),
            kind=block.DecoderBlock,
            make_cross_attention=make(mask=masks.padding()),
            make_norm=partial(norms.AdaLNZero, WIDTH, WIDTH),
            residual=block.adaln_zero,
            **how,
        ),
    )


def texts_and_images(seed: int) -> dict[str, np.ndarray]:
    text = sentences(seed)
    return {
        "raw_BLP": random_patches(seed),
        **{n: text[n] for n in ("source_BL", "source_segment_BL")},
    }


def text_to_image_loss(module: nn.Module, params: Any, batch: dict[str, Any]) -> Loss:
    raw_BLP = batch["raw_BLP"]
    # Exact in float32: the timestep embedding multiplies it by 1000.
    t_B = (raw_BLP[:, 0, 0] > 0) / 2
    text, tokens = (
        (batch["source_BL"], batch["source_segment_BL"]),
        masks.single_document(raw_BLP.shape[1]),
    )
    out_BLP = module.apply({"params": params}, raw_BLP[:, ::-1], t_B, text, tokens)
    return denoising.squared_error(out_BLP, raw_BLP, jnp.ones(out_BLP.shape[:2]))


def init_text_to_image(module: nn.Module, key: jax.Array) -> Any:
    like = jax.ShapeDtypeStruct((1, 8, PIXELS), jnp.float32)
    return text_to_image.init_params(module, key, like=like)


# A video of 2 frames of 4 tubelets: attention along time.


def video(
    *, kernel: attention.Kernel = attention.dot_product_attention, **how: Any
) -> nn.Module:
    make = make_attention(kernel=kernel, rotate=positions.rotary())
    along = partial(
        factorized_attention.FactorizedAttention,
        make,
        factorized_attention.along_time(2),
        2,
    )
    return encoder.TokenRegressor(
        output_features=PIXELS,
        width=WIDTH,
        make_encoder=partial(
            encoder.Encoder,
            make_embed=partial(embeddings.PatchEmbedding, features=PIXELS, width=WIDTH),
            make_stack=make_stack(along, **how),
        ),
    )


def video_loss(module: nn.Module, params: Any, batch: dict[str, Any]) -> Loss:
    raw_BLP = batch["raw_BLP"]
    out_BLP = module.apply(
        {"params": params}, raw_BLP[:, ::-1], masks.single_document(8)
    )
    return denoising.squared_error(out_BLP, raw_BLP, jnp.ones((len(raw_BLP), 8)))


def init_video(module: nn.Module, key: jax.Array) -> Any:
    inputs = jnp.zeros((1, 8, PIXELS)), masks.single_document(8)
    return module.init(key, *inputs)["params"]


KINDS = [
    Case("vit", vit, labeled_images, class_loss, EVERYTHING, init_vit),
    Case("encoder-decoder", seq2seq, sentences, seq2seq_loss, EVERYTHING, init_seq2seq),
    Case("video", video, labeled_images, video_loss, EVERYTHING, init_video),
    Case("flow", flow, labeled_images, flow_loss, EVERYTHING, init_flow),
    Case(
        "text-to-image",
        text_conditioned_dit,
        texts_and_images,
        text_to_image_loss,
        EVERYTHING,
        init_text_to_image,
    ),
]
