"""The programs that the net of a folder offers: what it computes in one call, and those
of `generation_programs`."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from transformer.interchange import generation_programs
from transformer.interchange.architectures import encoders
from transformer.interchange.folder import PretrainedFolder
from transformer.interchange.generation_programs import (
    document,
    length_limits,
    source_inputs,
    speech_frames,
    speech_input,
)
from transformer.interchange.programs import Input, Program
from transformer.models import bert, clip, decoder, dit, encoder, pooling
from transformer.models.continuous_control import ContinuousDecisionTransformer
from transformer.models.decision_transformer import TOKENS_PER_STEP
from transformer.models.encoder_decoder import EncoderDecoder
from transformer.models.shared_encoder_decoder import SharedEncoderDecoder
from transformer.network import embeddings
from transformer.network.masks import TokenPositions
from transformer.network.moe import routing

# Timesteps of a noising process (DiT).
TIMESTEPS = 1000


def programs(opened: PretrainedFolder, *, prompt: int, new: int) -> list[Program]:
    """The programs of a folder: the logits of a decoder or of an encoder-decoder, and
    greedy generation of up to `new` tokens after a prompt of up to `prompt`; a
    decoder's next token; an encoder's features, classes or token logits; both encoders
    of CLIP; the predictions of a Decision Transformer; one step of denoising.
    ValueError for another net."""
    net, sizes = opened.net, opened.sizes
    if isinstance(net, decoder.Decoder):
        made = _decoder_programs(opened, prompt, new)
        mixture = opened.architecture.mixture
        if mixture is None:
            return made
        # Blocks of the chosen experts are as many as the tokens need.
        plain = opened._replace(net=mixture(sizes, routing.dense_dispatch))
        pairs = zip(made, _decoder_programs(plain, prompt, new), strict=True)
        return [one._replace(plain=same.apply, loop=same.loop) for one, same in pairs]
    if isinstance(net, SharedEncoderDecoder):
        return [_text_logits(opened), *generation_programs.text_generation(opened, new)]
    if isinstance(net, EncoderDecoder):
        generation = generation_programs.speech_generation(opened, prompt, new)
        return [_speech_logits(opened), *generation]
    if isinstance(net, ContinuousDecisionTransformer):
        return [_trajectory(opened)]
    if isinstance(net, dit.DiT):
        return [_denoising(opened)]
    if isinstance(net, clip.ScoredDualEncoder):
        method: Any = {"method": clip.ScoredDualEncoder.encode_image}
        image = _of_pixels(opened, "image", ("image_embeds",), **method)
        method = {"method": clip.ScoredDualEncoder.encode_text}
        return [image, _of_tokens(opened, "text", ("text_embeds",), **method)]
    if isinstance(
        net,
        (encoder.Encoder, encoder.Classifier, pooling.PooledEncoder, bert.TiedMaskedLM),
    ):
        outputs, method = _encoder_outputs(net)
        if hasattr(sizes, "image"):
            return [_of_pixels(opened, "forward", outputs, method=method)]
        if hasattr(sizes, "vocab_size"):
            return [_of_tokens(opened, "forward", outputs, method=method)]
    raise ValueError(
        f"{opened.folder}: expected a net that has programs, got "
        f"{opened.architecture.name(sizes)}"
    )


def _decoder_programs(opened: PretrainedFolder, prompt: int, new: int) -> list[Program]:
    step = generation_programs.decoder_step(opened, prompt, new)
    generation = generation_programs.decoder_generation(opened, step, new)
    return [_logits(opened), generation, step]


def _logits(opened: PretrainedFolder) -> Program:
    def apply(params: Any, ids_BL: jax.Array) -> tuple[jax.Array, ...]:
        tokens = document(ids_BL)
        return (decoder.logits(opened.net.apply({"params": params}, ids_BL, tokens)),)

    ids = Input("input_ids", ("B", "L"), opened.sizes.vocab_size)
    return Program("forward", apply, (ids,), ("logits",), (_limit(opened),))


def _limit(opened: PretrainedFolder) -> str:
    # The positions of RoBERTa begin behind its padding.
    return f"L <= {opened.sizes.length - getattr(opened.sizes, 'offset', 0)}"


def _text_logits(opened: PretrainedFolder) -> Program:
    """decoder_input_ids: a target, with its start."""

    def apply(
        params: Any, source_BL: jax.Array, segment_BL: jax.Array, ids_BL: jax.Array
    ) -> tuple[jax.Array, ...]:
        source, target = document(source_BL, segment_BL), document(ids_BL)
        inputs = source_BL, source, ids_BL, target
        readout: Any = opened.net.apply({"params": params}, *inputs)
        return (decoder.logits(readout),)

    size = opened.sizes.vocab_size
    inputs = (
        *source_inputs(size),
        Input("decoder_input_ids", ("B", "L"), size),
    )
    limits = length_limits(opened, "S", "L")
    return Program("forward", apply, inputs, ("logits",), limits)


def _speech_logits(opened: PretrainedFolder) -> Program:
    def apply(
        params: Any, frames: jax.Array, ids_BL: jax.Array
    ) -> tuple[jax.Array, ...]:
        inputs = (
            *speech_frames(opened, frames),
            ids_BL,
            document(ids_BL),
        )
        readout: Any = opened.net.apply({"params": params}, *inputs)
        return (decoder.logits(readout),)

    ids = Input("decoder_input_ids", ("B", "L"), opened.sizes.vocab_size)
    limit = f"L <= {opened.sizes.target_length}"
    return Program(
        "forward",
        apply,
        (speech_input(opened), ids),
        ("logits",),
        (limit,),
    )


def _trajectory(opened: PretrainedFolder) -> Program:
    """Of L steps; rows are padded where attention_mask is 0."""
    sizes = opened.sizes

    def apply(
        params: Any,
        observation_BTP: jax.Array,
        action_BTP: jax.Array,
        return_BT1: jax.Array,
        time_BT: jax.Array,
        segment_BT: jax.Array,
    ) -> tuple[jax.Array, ...]:
        steps = document(time_BT, segment_BT)._replace(position_BL=time_BT)
        inputs = return_BT1[..., 0], observation_BTP, action_BTP, steps
        found: Any = opened.net.apply({"params": params}, *inputs)
        return found.observation_BTP, found.action_BTP, found.return_BTP

    inputs = (
        Input("states", ("B", "L", sizes.observation_features)),
        Input("actions", ("B", "L", sizes.action_features)),
        Input("returns_to_go", ("B", "L", 1)),
        Input("timesteps", ("B", "L"), sizes.episode_length),
        Input("attention_mask", ("B", "L"), 2),
    )
    outputs = "state_preds", "action_preds", "return_preds"
    limit = f"L <= {sizes.length // TOKENS_PER_STEP}"
    return Program("forward", apply, inputs, outputs, (limit,))


def _denoising(opened: PretrainedFolder) -> Program:
    """One step: what the net predicts of noised latents."""
    sizes, image = opened.sizes, opened.sizes.image

    def apply(
        params: Any, latents: jax.Array, time_B: jax.Array, label_B: jax.Array
    ) -> tuple[jax.Array, ...]:
        raw_BLP = _cut(latents[:, None], 1, image.patch)
        tokens = document(jnp.ones((1, raw_BLP.shape[1]), jnp.int32))
        inputs = raw_BLP, time_B, label_B, tokens
        out_BLP: Any = opened.net.apply({"params": params}, *inputs)
        count = image.side // image.patch
        shape = count, count, image.patch, image.patch, sizes.output_channels
        grid = out_BLP.reshape(-1, *shape).transpose(0, 5, 1, 3, 2, 4)
        return (grid.reshape(-1, sizes.output_channels, image.side, image.side),)

    inputs = (
        Input("hidden_states", ("B", image.channels, image.side, image.side)),
        Input("timestep", ("B",), TIMESTEPS),
        Input("class_labels", ("B",), sizes.classes + 1),
    )
    return Program("forward", apply, inputs, ("sample",))


def _encoder_outputs(net: Any) -> tuple[tuple[str, ...], Any]:
    """The outputs' names and the method, (module, inputs, tokens) -> them."""
    if isinstance(net, bert.TiedMaskedLM):
        return ("logits",), lambda module, *inputs: decoder.logits(module(*inputs))
    if isinstance(net, encoder.Classifier):
        return ("logits",), encoder.Classifier.__call__
    if isinstance(net, encoder.Encoder):
        return ("last_hidden_state",), encoder.Encoder.__call__

    def both(module: Any, inputs: Any, tokens: TokenPositions) -> Any:
        x_BLD = module.features(inputs, tokens)
        return x_BLD, module.pool(x_BLD, tokens)

    return ("last_hidden_state", "pooler_output"), both


def _tuple(outputs: Any) -> tuple[jax.Array, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _of_tokens(
    opened: PretrainedFolder, name: str, outputs: tuple[str, ...], *, method: Any
) -> Program:
    kinds = getattr(opened.sizes, "kinds", 0)

    def apply(
        params: Any, ids_BL: jax.Array, segment_BL: jax.Array, *kind_BL: jax.Array
    ) -> tuple[jax.Array, ...]:
        tokens = document(ids_BL, segment_BL)
        inputs: Any = embeddings.TypedTokens(ids_BL, *kind_BL) if kinds else ids_BL
        apply_ = partial(opened.net.apply, {"params": params}, method=method)
        return _tuple(apply_(inputs, tokens))

    names = {"input_ids": opened.sizes.vocab_size, "attention_mask": 2}
    names |= {"token_type_ids": kinds} if kinds else {}
    inputs = tuple(Input(name, ("B", "L"), below) for name, below in names.items())
    return Program(name, apply, inputs, outputs, (_limit(opened),))


def _of_pixels(
    opened: PretrainedFolder, name: str, outputs: tuple[str, ...], *, method: Any
) -> Program:
    """pixel_values: (B, channels, height, width), or (B, frames, channels, height,
    width) of videos, normalized as the weights expect."""
    image, frames = opened.sizes.image, getattr(opened.sizes, "frames", None)
    made: Any = opened.net
    while not isinstance(made, encoder.Encoder):
        pick = getattr(made, "make_image_encoder", None) or made.make_encoder
        made = pick()
    tokens_of_image = encoders.image_length(made)

    def apply(params: Any, pixels: jax.Array) -> tuple[jax.Array, ...]:
        videos = pixels[:, None] if frames is None else pixels
        raw_BLP = _cut(videos, getattr(opened.sizes, "tubelet", 1), image.patch)
        tokens = document(jnp.ones((1, tokens_of_image), jnp.int32))
        apply_ = partial(opened.net.apply, {"params": params}, method=method)
        return _tuple(apply_(raw_BLP, tokens))

    shape = image.channels, image.side, image.side
    shape = ("B", *shape) if frames is None else ("B", frames, *shape)
    return Program(name, apply, (Input("pixel_values", shape),), outputs)


def _cut(videos: jax.Array, frames: int, patch: int) -> jax.Array:
    """Raw patches (B, L, P) of videos (B, frames, channels, height, width): blocks of
    `frames` frames and `patch` x `patch` pixels, channels last. Pixels that fill no
    patch are left out."""
    rows, length, channels, height, width = videos.shape
    grid = length // frames, height // patch, width // patch
    videos = videos[..., : grid[1] * patch, : grid[2] * patch]
    shape = grid[0], frames, channels, grid[1], patch, grid[2], patch
    cut = videos.reshape(rows, *shape).transpose(0, 1, 4, 6, 2, 5, 7, 3)
    return cut.reshape(rows, grid[0] * grid[1] * grid[2], -1)
