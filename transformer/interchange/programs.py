"""What the net of a folder computes, as functions that a program without this library
calls: `stablehlo`, `onnx` and `savedmodel` write them in formats of others.

Inputs and outputs have the names of transformers. The sizes B (rows) and L (tokens) are
open where the format has open sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer.generation import decoding, logit_filters
from transformer.interchange import layout, table, tokenizer
from transformer.interchange.folder import PretrainedFolder
from transformer.models import bert, clip, decoder, encoder, pooling
from transformer.network import embeddings
from transformer.network.masks import TokenPositions

# A difference of two programs, over the spread of the output, that may be rounding: it
# is 5e-5 for SmolLM2, of 30 layers, and 3e-3 where an epsilon is 1e-6 for 1e-5.
TOLERANCE = 1e-3
# The sizes of B and L with which a program is called before it is said to work.
SIZES = ((2, 7), (3, 1))


class Input(NamedTuple):
    """shape: sizes, or the letter of an open one. below: ids are less; 0 for floats."""

    name: str
    shape: tuple[str | int, ...]
    below: int = 0

    @property
    def dtype(self) -> Any:
        """int32 or float32."""
        return jnp.int32 if self.below else jnp.float32

    def sizes(self, **open_sizes: Any) -> tuple[Any, ...]:
        """The shape, with a size for each letter."""
        return tuple(open_sizes.get(str(size), size) for size in self.shape)


class Program(NamedTuple):
    """apply(params, *inputs) -> a tuple of `outputs`. limits: of open sizes, such as
    "L <= 64"."""

    name: str
    apply: Callable[..., tuple[jax.Array, ...]]
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    limits: tuple[str, ...] = ()

    def open_sizes(self) -> str:
        """The open sizes in words."""
        words = {"B": "number of rows", "L": "of tokens"}
        open_ = " and ".join(words[letter] for letter in open_letters(self))
        return f"{open_}{', ' if self.limits else ''}{', '.join(self.limits)}"

    def example(self, rows: int = 2, tokens: int = 7) -> list[np.ndarray]:
        """Inputs of these sizes, the last row padded where there is a mask."""
        rng = np.random.default_rng(0)
        arrays = []
        for one in self.inputs:
            shape = one.sizes(B=rows, L=tokens)
            if one.name == "attention_mask":
                array = np.ones(shape, np.int32)
                array[-1, (tokens + 1) // 2 :] = 0
            elif one.name == "lengths":
                array = np.maximum(1, np.arange(one.below - rows, one.below))
            elif one.below:
                array = rng.integers(0, one.below, shape)
            else:
                array = rng.standard_normal(shape)
            arrays.append(array.astype(one.dtype))
        return arrays


class WrittenProgram(NamedTuple):
    """file: or folder. difference: from the net, over the spread. sizes: those that are
    open, in words."""

    file: Path
    difference: float
    sizes: str


def open_letters(program: Program) -> list[str]:
    """The letters of open sizes, each once, in the order of the inputs."""
    sizes = [size for one in program.inputs for size in one.shape]
    return list(dict.fromkeys(size for size in sizes if isinstance(size, str)))


def params_of(bindings: Sequence[table.Binding], tensors: Mapping[str, Any]) -> Any:
    """The parameters of tensors by name, as operations of JAX; layers and experts that
    are an axis of one parameter are stacked."""
    parts: dict[str, dict[tuple[int, ...], Any]] = {}
    for binding in bindings:
        places = layout.placements(binding.layout, binding.arrays)
        for part, place in zip(binding.parts, places, strict=True):
            value = layout.unpack(tensors[binding.name], place)
            parts.setdefault(part.path, {})[part.index] = value
    params: dict[str, Any] = {}
    for path, values in parts.items():
        *modules, name = path.split("/")
        inner = params
        for module in modules:
            inner = inner.setdefault(module, {})
        lead = tuple(size + 1 for size in max(values))
        stacked = jnp.stack([values[index] for index in sorted(values)])
        inner[name] = stacked.reshape(*lead, *stacked.shape[1:])
    return params


def spread_difference(outputs: Any, expected: Any) -> float:
    """The largest difference of the outputs, over the spread of each; infinite where
    whole numbers differ, and NaN where one is."""
    worst = [0.0]
    for got, want in zip(outputs, expected, strict=True):
        got, want = np.asarray(got), np.asarray(want)
        if np.issubdtype(want.dtype, np.integer):
            worst.append(0.0 if np.array_equal(got, want) else np.inf)
        else:
            worst.append(float(np.abs(got - want).max() / want.std()))
    return float(np.max(worst))


def check(program: Program, call: Callable[..., Any], params: Any, what: str) -> float:
    """`spread_difference` of call(*inputs) from the net, on examples of `SIZES`.
    RuntimeError where that is no rounding."""
    apply, worst = jax.jit(program.apply), 0.0
    for sizes in SIZES:
        inputs = program.example(*sizes)
        expected = apply(params, *map(jnp.asarray, inputs))
        difference = spread_difference(call(*inputs), expected)
        if not difference < TOLERANCE:
            raise RuntimeError(
                f"{what}: expected the {' and '.join(program.outputs)} of the net, got "
                f"a difference of {difference:.1e} of their spread"
            )
        worst = max(worst, difference)
    return worst


def programs(opened: PretrainedFolder, *, prompt: int, new: int) -> list[Program]:
    """The programs of a folder: a decoder's logits, and its greedy generation of up to
    `new` tokens after a prompt of up to `prompt`; an encoder's features, classes or
    token logits; both encoders of CLIP. ValueError for another net."""
    net, sizes = opened.net, opened.sizes
    if isinstance(net, decoder.Decoder):
        return [_logits(opened), _generation(opened, prompt, new)]
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
        f"{opened.folder}: expected a decoder, an encoder of tokens or of images, or "
        f"CLIP, got {opened.architecture.name(sizes)}"
    )


def _index(ids_BL: jax.Array) -> jax.Array:
    # Not an arange, whose length ONNX cannot leave open.
    return jnp.cumsum(jnp.ones_like(ids_BL[:1]), axis=1) - 1


def _logits(opened: PretrainedFolder) -> Program:
    def apply(params: Any, ids_BL: jax.Array) -> tuple[jax.Array, ...]:
        index_BL = _index(ids_BL)
        tokens = TokenPositions(index_BL, index_BL, jnp.ones_like(index_BL))
        return (decoder.logits(opened.net.apply({"params": params}, ids_BL, tokens)),)

    ids = Input("input_ids", ("B", "L"), opened.sizes.vocab_size)
    return Program("forward", apply, (ids,), ("logits",), (_limit(opened),))


def _limit(opened: PretrainedFolder) -> str:
    # The positions of RoBERTa begin behind its padding.
    return f"L <= {opened.sizes.length - getattr(opened.sizes, 'offset', 0)}"


def _generation(opened: PretrainedFolder, prompt: int, new: int) -> Program:
    """input_ids: prompts, padded on the right to `prompt` tokens; lengths: how many of
    them are there. sequences: with the new tokens, 0 beyond; new_lengths: of those."""
    if prompt + new > opened.sizes.length:
        raise ValueError(
            f"--prompt_tokens: expected at most {opened.sizes.length} with the {new} "
            f"of --new_tokens, got {prompt}"
        )
    fns = decoding.decode_fns(opened.net, "float32")
    stop = tokenizer.configured_ends(opened.folder)

    def apply(
        params: Any, ids_BL: jax.Array, length_B: jax.Array
    ) -> tuple[jax.Array, ...]:
        key = jax.random.key(0)
        state = decoding.prefill(
            fns, params, ids_BL, length_B, key, new_tokens=new, chunk=prompt
        )
        greedy: Any = {"choose": logit_filters.greedy, "tokens": new, "stop": stop}
        state = decoding.decode(fns, params, state, **greedy)
        # Without the padding of the prompts.
        is_token_BL = jnp.arange(prompt + new)[None] < state.length_B[:, None]
        return jnp.where(is_token_BL, state.ids_BL, 0), state.length_B

    ids = Input("input_ids", ("B", prompt), opened.sizes.vocab_size)
    lengths = Input("lengths", ("B",), prompt + 1)
    outputs = "sequences", "new_lengths"
    return Program("generate", apply, (ids, lengths), outputs)


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
        index_BL = _index(ids_BL)
        tokens = TokenPositions(index_BL, index_BL, segment_BL)
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
    """pixel_values: (B, channels, height, width), normalized as the weights expect."""
    image = opened.sizes.image
    made: Any = opened.net
    while not isinstance(made, encoder.Encoder):
        pick = getattr(made, "make_image_encoder", None) or made.make_encoder
        made = pick()
    tokens_of_image = made.make_embed().make_position().length

    def apply(params: Any, pixels: jax.Array) -> tuple[jax.Array, ...]:
        rows, patch, count = pixels.shape[0], image.patch, image.side // image.patch
        cut = pixels.reshape(rows, image.channels, count, patch, count, patch)
        raw_BLP = cut.transpose(0, 2, 4, 3, 5, 1).reshape(rows, count**2, -1)
        index_BL = jnp.arange(tokens_of_image, dtype=jnp.int32)[None]
        tokens = TokenPositions(index_BL, index_BL, jnp.ones_like(index_BL))
        apply_ = partial(opened.net.apply, {"params": params}, method=method)
        return _tuple(apply_(raw_BLP, tokens))

    shape = "B", image.channels, image.side, image.side
    return Program(name, apply, (Input("pixel_values", shape),), outputs)
