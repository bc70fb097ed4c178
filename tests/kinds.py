"""The models of every other kind of sequence than `cases.MODELS`' words. A later one
joins by one line in `KINDS`; the theorems that hold for any model hold for it too."""

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
    reading,
    stack,
)
from transformer.objectives import cross_entropy, denoising
from transformer.objectives.loss import Loss

GRID, PIXELS, CLASSES, CONDITION, SYMBOLS = (2, 4), 6, 4, 5, 16
EVERYTHING = masks.everything() & masks.segments()


def make_attention(
    *, mask: masks.Mask = EVERYTHING, attend: attention.Attend, **arguments: Any
) -> Any:
    return partial(
        attention.Attention,
        width=WIDTH,
        heads=HEADS,
        groups=HEADS,
        head_features=FEATURES,
        mask=mask,
        attend=attend,
        **arguments,
    )


make_mlp = partial(mlp.MLP, width=WIDTH, hidden=2 * WIDTH)


def layers(
    make_attention: Any,
    *,
    stack: Any = stack.Unrolled,
    remat: Any = stack.REMAT["none"],
    depth: int = DEPTH,
    kind: Any = block.Block,
    **slots: Any,
) -> Any:
    def make_block(make: Any, layer: int) -> Any:
        return make(make_attention=make_attention, make_mlp=make_mlp, **slots)

    return partial(stack, depth=depth, make_block=make_block, remat=remat, block=kind)


def raw(seed: int, length: int = GRID[0] * GRID[1]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(ROWS, length, PIXELS)).astype(np.float32)


def classes(seed: int) -> np.ndarray:
    return np.random.default_rng(seed + 1).integers(0, CLASSES, ROWS).astype(np.int32)


# A ViT: patches behind a class token, two-dimensional rotary positions.


def vit(*, attend: attention.Attend = attention.plain, **how: Any) -> nn.Module:
    make = make_attention(attend=attend, rotate=positions.axial(GRID))
    return encoder.Classifier(
        classes=CLASSES,
        width=WIDTH,
        pool=encoder.first,
        make_encoder=partial(
            encoder.Encoder,
            make_embed=partial(
                embeddings.ClassToken,
                width=WIDTH,
                make_embed=partial(embeddings.Patches, features=PIXELS, width=WIDTH),
            ),
            make_stack=layers(make, **how),
        ),
    )


def pictures(seed: int) -> dict[str, np.ndarray]:
    return {"raw_BLP": raw(seed), "label_B": classes(seed)}


def class_loss(module: nn.Module, params: Any, batch: dict[str, Any]) -> Loss:
    tokens = models_vit.tokens(GRID, models_vit.CLASS_TOKEN)
    logits_BV = module.apply({"params": params}, batch["raw_BLP"], tokens)
    one_BL = jnp.ones((logits_BV.shape[0], 1))
    return cross_entropy.cross_entropy(
        logits_BV[:, None], batch["label_B"][:, None], one_BL
    )


def vit_initial(module: nn.Module, key: jax.Array) -> Any:
    return module.init(key, jnp.zeros((1, 8, PIXELS)), masks.row(9))["params"]


# An encoder-decoder that reads ragged rows.


def writer(*, attend: attention.Attend = attention.plain, **how: Any) -> nn.Module:
    make_reading = make_attention(mask=masks.padding(), attend=attend)
    rotated = {"attend": attend, "rotate": positions.rotary()}
    symbols = partial(embeddings.Symbols, vocabulary=SYMBOLS, width=WIDTH)
    causal = masks.causal() & masks.segments()
    return encoder_decoder.EncoderDecoder(
        make_encoder=partial(
            encoder.Encoder,
            make_embed=symbols,
            make_stack=layers(make_attention(**rotated), **how),
        ),
        make_decoder=partial(
            decoder.Decoder,
            vocabulary=SYMBOLS,
            width=WIDTH,
            make_stack=layers(
                make_attention(mask=causal, **rotated),
                kind=reading.ReadingBlock,
                make_reading=make_reading,
                **how,
            ),
        ),
    )


def sentences(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    read_BL = np.arange(12)[None] < rng.integers(5, 13, ROWS)[:, None]
    written_BL = np.arange(9)[None] < rng.integers(4, 9, ROWS)[:, None]
    return {
        "source_BL": rng.integers(0, SYMBOLS, (ROWS, 12)).astype(np.int32),
        "source_segment_BL": read_BL.astype(np.int32),
        "ids_BL": rng.integers(0, SYMBOLS, (ROWS, 9)).astype(np.int32),
        "targets_BL": rng.integers(0, SYMBOLS, (ROWS, 9)).astype(np.int32),
        "written_BL": written_BL.astype(np.int32),
    }


def written_loss(module: nn.Module, params: Any, batch: dict[str, Any]) -> Loss:
    places = (
        jnp.arange(batch[n].shape[1])[None] for n in ("source_segment_BL", "written_BL")
    )
    read = masks.packed(batch["source_segment_BL"], next(places))
    written = masks.packed(batch["written_BL"], next(places))
    inputs = batch["source_BL"], read, batch["ids_BL"], written
    readout = module.apply({"params": params}, *inputs)
    weight_BL = (batch["written_BL"] > 0).astype(jnp.float32)
    return cross_entropy.cross_entropy(
        decoder.logits(readout), batch["targets_BL"], weight_BL
    )


def writer_initial(module: nn.Module, key: jax.Array) -> Any:
    ids = jnp.zeros((1, 1), jnp.int32)
    return module.init(key, ids, masks.row(1), ids, masks.row(1))["params"]


# A flow of patches: adaptive norms that follow the time and the class.


def flowing(*, attend: attention.Attend = attention.plain, **how: Any) -> nn.Module:
    make = make_attention(attend=attend, rotate=positions.axial(GRID, periodic=[1]))
    norm = partial(norms.GatedAdaptiveNorm, width=WIDTH, condition=CONDITION)
    return encoder.Tagger(
        features=PIXELS,
        width=WIDTH,
        make_encoder=partial(
            encoder.Encoder,
            make_embed=partial(embeddings.Patches, features=PIXELS, width=WIDTH),
            make_stack=layers(make, make_norm=norm, residual=block.adaptive, **how),
        ),
    )


def condition(label_B: Any, t_B: Any) -> jax.Array:
    one_BV = jax.nn.one_hot(label_B, CLASSES)
    return jnp.concatenate([one_BV, t_B[:, None]], axis=-1)[:, None]


def flow_loss(module: nn.Module, params: Any, batch: dict[str, Any]) -> Loss:
    """At a time and with a noise that follow from the row, so rows can be parted."""
    raw_BLP = batch["raw_BLP"]
    t_B = jax.nn.sigmoid(raw_BLP[:, 0, 0])
    t_BLP, noise_BLP = t_B[:, None, None], raw_BLP[:, ::-1]
    seen_BLP = (1 - t_BLP) * noise_BLP + t_BLP * raw_BLP
    given = block.Given(condition_BLJ=condition(batch["label_B"], t_B))
    tokens = masks.row(seen_BLP.shape[1])
    out_BLP = module.apply({"params": params}, seen_BLP, tokens, given)
    ones_BL = jnp.ones(out_BLP.shape[:2])
    return denoising.squared_error(out_BLP, raw_BLP - noise_BLP, ones_BL)


def flow_initial(module: nn.Module, key: jax.Array) -> Any:
    given = block.Given(condition_BLJ=jnp.zeros((1, 1, CONDITION)))
    return module.init(key, jnp.zeros((1, 8, PIXELS)), masks.row(8), given)["params"]


# A flow of patches that reads a text: adaptive norms and cross-attention in one block.


def drawing(*, attend: attention.Attend = attention.plain, **how: Any) -> nn.Module:
    # Heads of one size: gains that 32 features drive would make the softmax hard.
    attend_ = partial(make_attention, attend=attend, head_norm=norms.HeadRMSNorm)
    reads = partial(
        encoder.Encoder,
        make_embed=partial(embeddings.Symbols, vocabulary=SYMBOLS, width=WIDTH),
        make_stack=layers(attend_(), **how),
    )
    return dit.Denoiser(
        features=PIXELS,
        width=WIDTH,
        make_condition=partial(text_to_image.Told, reads),
        make_embed=partial(embeddings.Patches, features=PIXELS, width=WIDTH),
        make_stack=layers(
            attend_(rotate=positions.axial(GRID)),
            kind=reading.ReadingBlock,
            make_reading=attend_(mask=masks.padding()),
            make_norm=partial(norms.GatedAdaptiveNorm, WIDTH, WIDTH),
            residual=block.adaptive,
            **how,
        ),
    )


def told(seed: int) -> dict[str, np.ndarray]:
    text = sentences(seed)
    return {
        "raw_BLP": raw(seed),
        **{n: text[n] for n in ("source_BL", "source_segment_BL")},
    }


def drawn_loss(module: nn.Module, params: Any, batch: dict[str, Any]) -> Loss:
    raw_BLP = batch["raw_BLP"]
    # A number without rounding: the wave sees 1000 times of it.
    t_B = (raw_BLP[:, 0, 0] > 0) / 2
    text, tokens = (
        (batch["source_BL"], batch["source_segment_BL"]),
        masks.row(raw_BLP.shape[1]),
    )
    out_BLP = module.apply({"params": params}, raw_BLP[:, ::-1], t_B, text, tokens)
    return denoising.squared_error(out_BLP, raw_BLP, jnp.ones(out_BLP.shape[:2]))


def drawing_initial(module: nn.Module, key: jax.Array) -> Any:
    like = jax.ShapeDtypeStruct((1, 8, PIXELS), jnp.float32)
    return text_to_image.initial(module, key, like=like)


# A film of 2 frames of 4 tubelets: attention folded along time.


def film(*, attend: attention.Attend = attention.plain, **how: Any) -> nn.Module:
    make = make_attention(attend=attend, rotate=positions.rotary())
    along = partial(
        factorized_attention.Folded, make, factorized_attention.along_time(2), 2
    )
    return encoder.Tagger(
        features=PIXELS,
        width=WIDTH,
        make_encoder=partial(
            encoder.Encoder,
            make_embed=partial(embeddings.Patches, features=PIXELS, width=WIDTH),
            make_stack=layers(along, **how),
        ),
    )


def film_loss(module: nn.Module, params: Any, batch: dict[str, Any]) -> Loss:
    raw_BLP = batch["raw_BLP"]
    out_BLP = module.apply({"params": params}, raw_BLP[:, ::-1], masks.row(8))
    return denoising.squared_error(out_BLP, raw_BLP, jnp.ones((len(raw_BLP), 8)))


def film_initial(module: nn.Module, key: jax.Array) -> Any:
    return module.init(key, jnp.zeros((1, 8, PIXELS)), masks.row(8))["params"]


KINDS = [
    Case("vit", vit, pictures, class_loss, EVERYTHING, vit_initial),
    Case(
        "encoder-decoder", writer, sentences, written_loss, EVERYTHING, writer_initial
    ),
    Case("film", film, pictures, film_loss, EVERYTHING, film_initial),
    Case("flow", flowing, pictures, flow_loss, EVERYTHING, flow_initial),
    Case("flow that reads", drawing, told, drawn_loss, EVERYTHING, drawing_initial),
]
