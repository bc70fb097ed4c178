"""What does a small transformer learn of Jane Austen's English in five minutes?

    python -m experiments.language_model
    python -m experiments.language_model generate --prompt="It is a truth"

Five novels are read, *Emma* is held out. On two cores of an AVX-512 CPU it took 2 min
57 s from start to end, compilation included (314 s of CPU time), and reached 1.631 bits
per byte on the whole of *Emma*. Baseline to beat: `xz -9`, 2.31;
a pretrained model of 135 M parameters reaches 1.22. What was tried: LOG.md.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax

from transformer import cpu_tuning, main
from transformer.data import sources
from transformer.data.text import packing, tokenizers
from transformer.evaluation import decode_speed
from transformer.generation import decoding, text_model
from transformer.models import decoder
from transformer.network import (
    attention,
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
from transformer.objectives import cross_entropy, fused_cross_entropy
from transformer.objectives.loss import Loss
from transformer.training import benchmark, optimizers
from transformer.training.experiment import Evaluation, Experiment

HEAD_FEATURES = 64
MASK = masks.causal()
CHUNKS = 2


def model(*, depth: int, vocabulary: int) -> decoder.Decoder:
    """A decoder of one dial: width 64 * depth, so heads = depth and the aspect ratio is
    nanochat's; rotary positions, QK-norm, RMS norms, ReLU^2, untied readout.

    Maps into the stream start at zero and the rest uniform with deviation
    1 / sqrt(inputs), so that at first every layer is the identity.
    """
    width = HEAD_FEATURES * depth
    scaled: Any = partial(nn.initializers.variance_scaling, 1.0, "fan_in", "normal")
    zero = nn.initializers.zeros
    make_norm = partial(norms.RMSNorm, compute=fast_norms.rms_norm)
    return decoder.Decoder(
        vocabulary=vocabulary,
        width=width,
        make_stack=partial(
            stack.Unrolled,
            depth=depth,
            make_block=lambda block, layer: block(
                make_attention=partial(
                    attention.Attention,
                    width=width,
                    heads=depth,
                    groups=depth,
                    head_features=HEAD_FEATURES,
                    mask=MASK,
                    rotate=positions.rotary(),
                    attend=partial(fast_attention.rows, block=128),
                    head_norm=partial(norms.HeadRMSNorm, compute=fast_norms.rms_norm),
                    weight_init=scaled(in_axis=0, out_axis=(1, 2)),
                    output_init=zero,
                ),
                make_mlp=partial(
                    mlp.MLP,
                    width=width,
                    hidden=4 * width,
                    activation=fast_activations.relu_squared,
                    weight_init=scaled(),
                    output_init=zero,
                ),
                make_norm=make_norm,
            ),
        ),
        make_norm=make_norm,
        make_embedding_norm=make_norm,
        unembed=decoder.untied,
        weight_init=nn.initializers.normal(1.0),
    )


def language_of(net: Any, dtype: Any) -> decoding.Language:
    """What generation asks of the model, in the compute dtype."""
    return decoding.Language(
        extend=lambda weights, *arguments: net.apply(
            {"params": weights}, *arguments, method="extend"
        ),
        empty_cache=lambda *sizes: net.empty_cache(*sizes, dtype),
        weights=lambda params: precision.cast(params, dtype),
    )


def report(loss: Loss) -> dict[str, float]:
    """The numbers that a person reads, out of the sums."""
    return {
        "loss": float(loss.total) / float(loss.weight),
        "bits_per_byte": cross_entropy.bits_per_byte(loss),
        "accuracy": float(loss.sums["correct"]) / float(loss.sums["tokens"]),
    }


def generate(
    speech: text_model.Speech,
    params: Any,
    key: jax.Array,
    *,
    prompt: str = "It is a truth universally acknowledged",
    new_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = 0.95,
    min_p: float | None = None,
    draw: int = 0,
) -> None:
    """Continue a prompt on the terminal, token by token.

    Args:
        prompt: the text to continue.
        new_tokens: how many tokens to add, at most.
        temperature: below 1 sharper, above 1 flatter; 0 always takes the likeliest.
        top_k: draw from so many likeliest tokens only.
        top_p: draw from the fewest tokens that hold this probability.
        min_p: draw from tokens at least this share as likely as the likeliest.
        draw: which draw; another number says something else.
    """
    key = jax.random.fold_in(key, draw)
    choose = text_model.choice(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
    )
    pieces = text_model.streamed(
        speech, params, [prompt], key, choose=choose, new_tokens=new_tokens
    )
    print(prompt, end="", flush=True)
    for (piece,) in pieces:
        print(piece, end="", flush=True)
    print()


def show(speech: text_model.Speech, params: Any, key: jax.Array) -> dict[str, str]:
    """Continuations of a few openings, for the run folder."""
    openings = ["It is a truth", "Emma ", "The ball", '"My dear Mr. Bennet,"']
    choose = text_model.choice(temperature=0.8, top_p=0.95)
    tokens = min(150, speech.length // 2)
    room = speech.length - tokens
    openings = [o for o in openings if len(speech.encode(o)) <= room]
    said = text_model.continued(
        speech, params, openings, key, choose=choose, new_tokens=tokens
    )
    return {"samples.txt": "\n\n----\n\n".join(said) + "\n"}


def experiment(
    *,
    depth: int = 3,
    text: str = "austen",
    tokenizer: Literal["bpe", "characters", "bytes"] = "bpe",
    vocabulary: int = 2048,
    length: int = 256,
    batch_size: int = 8,
    steps: int = 1300,
    matrix_rate: float = 0.02,
    vector_rate: float = 0.01,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    seed: int = 0,
    workdir: Path | None = None,
) -> Experiment:
    """A decoder language model of a text.

    Args:
        depth: blocks, and heads; the width is 64 times as much.
        text: a shipped text, a TFDS name, or the path of a UTF-8 file or folder.
        tokenizer: byte-level pairs learned from the text, its characters, or bytes.
        vocabulary: symbols of the bpe tokenizer.
        length: tokens in a row.
        batch_size: rows in a step.
        steps: of training.
        matrix_rate: peak learning rate of the blocks' matrices, by Muon.
        vector_rate: peak learning rate of all else, by Adam.
        dtype: of the products; auto is bfloat16 where the machine multiplies it fast.
        seed: of the parameters, the order of the rows and the samples.
        workdir: where the tokenizer is kept; None keeps it in the user's cache only.
    """
    source = sources.text(text)
    make = {
        "bpe": partial(tokenizers.bpe, source, vocabulary=vocabulary),
        "characters": partial(tokenizers.characters, source),
        "bytes": tokenizers.bytes_,
    }[tokenizer]
    size = vocabulary if tokenizer == "bpe" else None
    symbols = tokenizers.kept(workdir, make, kind=tokenizer, vocabulary=size)
    compute = cpu_tuning.compute_dtype() if dtype == "auto" else dtype
    net: Any = model(depth=depth, vocabulary=symbols.vocabulary)
    train = packing.language(
        source, symbols, length=length, batch_size=batch_size, seed=seed
    )
    held_out = packing.validation(source, symbols, length=length, batch_size=batch_size)

    def loss(params: Any, batch: dict[str, jax.Array], key: jax.Array) -> Loss:
        tokens = masks.packed(batch["segment_BL"], batch["position_BL"])
        narrow = precision.cast(params, compute)
        x_BLD, w_VD = net.apply({"params": narrow}, batch["ids_BL"], tokens)
        targets = batch["targets_BL"], batch["weight_BL"]
        entropy = fused_cross_entropy.cross_entropy(
            x_BLD, w_VD, *targets, chunks=CHUNKS
        )
        return cross_entropy.with_bytes(entropy, *targets, symbols.bytes_V)

    shapes = jax.eval_shape(partial(decoder.initial, net), jax.random.key(0))
    # One token's products are bound by memory, where CPUs have no good bfloat16 path.
    spoken = "float32" if cpu_tuning.on_cpu() else compute
    speech = text_model.Speech(
        language=language_of(net, spoken),
        encode=symbols.encode,
        stream=symbols.stream,
        end=symbols.end,
        length=length,
    )
    return Experiment(
        name="austen",
        architecture=(
            f"decoder: {depth} blocks of {depth} heads of {HEAD_FEATURES}, "
            f"{symbols.vocabulary} symbols, {MASK!r}, rotary"
        ),
        init=partial(decoder.initial, net),
        loss=loss,
        batch=train.batch,
        batch_size=batch_size,
        optimizer=optimizers.stable_muon(
            steps, matrix_rate=matrix_rate, vector_rate=vector_rate
        ),
        steps=steps,
        seed=seed,
        report=report,
        evaluations={
            "validation": Evaluation(
                batch=held_out.batch,
                batch_size=batch_size,
                batches=held_out.batches,
                loss=loss,
                report=report,
            )
        },
        show=partial(show, speech),
        generate=partial(generate, speech),
        benchmark={
            "decode": partial(
                decode_speed.decoded,
                speech.language,
                length=length,
                bandwidth=benchmark.memory_bandwidth,
            )
        },
        files={"tokenizer.json": symbols.to_bytes()},
        tokens_per_row=length,
        flops_per_row=decoder.training_flops(
            shapes,
            mask=MASK,
            length=length,
            heads=depth,
            head_features=HEAD_FEATURES,
            depth=depth,
        ),
    )


if __name__ == "__main__":
    main.run(experiment, generate=generate)
