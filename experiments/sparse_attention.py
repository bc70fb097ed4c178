"""What does a pattern of attention save, and what can it no longer see?

    python -m experiments.sparse_attention

Five decoders of two layers read one text with a needle in it and are asked 48 times in
512 tokens what it was, one of 8 values. **Answered** within 64 tokens, at 65 to 128,
and beyond 256: full 99.8, 99.9, 99.8 %; a window of 64 100, 85, 14 %, which is chance;
blocks of 64 (own, last, first, one at random) 100, 95, 59; that window with every 32nd
token before it 100, 100, 98, by way of what another has seen; linear 100, 100, 100.
Time grows with the length to the 1.92 (full), 1.06 (window), 1.20 (blocks), 1.95
(strided), 0.93 (linear), memory to the 2.0 with the whole matrix, 0.94 without. Text
takes 1.81 bits per byte (window), 1.93 (blocks, strided), 2.12 (full), 2.13 (linear). 8
min 5 s on two cores.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer import cpu_tuning, main
from transformer.data import records
from transformer.data.sources import text as text_source
from transformer.data.text import associative_recall, tokenizers, windows
from transformer.evaluation import attention_cost, recall_by_distance
from transformer.models import decoder, defaults
from transformer.network import attention, linear_attention, masks, positions, precision
from transformer.objectives import cross_entropy
from transformer.objectives.loss import Loss
from transformer.plots import attention_patterns
from transformer.training import optimizers
from transformer.training.experiment import Evaluation, Experiment

KEYS, VALUES, QUESTIONS = 1, 8, 48
# How much an answer counts beside a token of the text.
ASKED = 64.0
BLOCK, NEAR, STRIDE, GLOBAL = 64, 64, 32, 8
BINS = (1, 33, 65, 129, 257, 513)
LENGTHS = (512, 1024, 2048, 4096, 8192)
CHUNKED = defaults.flash_kernel(128)


def blocks(length: int) -> masks.Mask:
    """Its own block of 64 tokens, the one before, the first, and one at random
    (BigBird, Zaheer et al. 2020, arXiv 2007.14062, section 2)."""
    count, rng = -(-length // BLOCK), np.random.default_rng(0)
    layout = np.eye(count, dtype=int) + np.eye(count, k=-1, dtype=int)
    layout[:, 0] = 1
    layout[np.arange(count), rng.integers(0, np.arange(count) + 1)] = 1
    return masks.block_sparse(np.minimum(layout, 1).tolist(), BLOCK)


class Pattern(NamedTuple):
    """mask(length): who may see whom, besides the order of time. make_mixer: the attention of
    training; long: how, of long rows."""

    mask: Callable[[int], masks.Mask]
    make_mixer: attention.MakeMixer = defaults.row_blocked(128)
    long: attention.Kernel = CHUNKED


PATTERNS = {
    "full": Pattern(lambda length: masks.full()),
    "window": Pattern(lambda length: masks.window(NEAR - 1)),
    "blocks": Pattern(blocks),
    "strided": Pattern(
        lambda length: (
            masks.window(NEAR - 1) | masks.strided(STRIDE) | masks.global_tokens(GLOBAL)
        )
    ),
    "linear": Pattern(
        lambda length: masks.full(),
        linear_attention.LinearAttention,
        linear_attention.linear_attention,
    ),
}


def mask_of(pattern: Pattern, length: int) -> masks.Mask:
    """With the order of time."""
    rule = pattern.mask(length)
    alone = rule == masks.full()
    return masks.causal() if alone else masks.causal() & rule


def net_of(
    pattern: Pattern, *, vocab_size: int, length: int, depth: int, width: int
) -> decoder.Decoder:
    """A decoder whose every layer attends by the pattern."""
    make_attention = defaults.attention(
        width=width,
        mask=mask_of(pattern, length),
        rotate=positions.rotary(),
        make_mixer=pattern.make_mixer,
    )
    return decoder.Decoder(
        vocab_size=vocab_size,
        width=width,
        make_stack=defaults.stack(
            depth=depth, width=width, make_attention=make_attention
        ),
        make_norm=defaults.make_norm,
        make_embedding_norm=defaults.make_norm,
        unembed=decoder.untied_embedding,
        weight_init=jax.nn.initializers.normal(1.0),
    )


def told(
    nets: dict[str, Any], dtype: Any, params: Any, batch: dict[str, Any]
) -> dict[str, jax.Array]:
    """Logits (B, L, V) of each model."""
    tokens = masks.single_document(batch["ids_BL"].shape[1])
    narrow = precision.cast_weights(params, dtype)
    return {
        name: decoder.logits(
            net.apply({"params": narrow[name]}, batch["ids_BL"], tokens)
        )
        for name, net in nets.items()
    }


def costs() -> dict[str, dict[int, attention_cost.Cost]]:
    """Of each pattern at each length, and of the whole matrix in memory."""
    found = {
        name: {
            length: attention_cost.cost(pattern.long, mask_of(pattern, length), length)
            for length in LENGTHS
        }
        for name, pattern in PATTERNS.items()
    }
    whole = {
        length: attention_cost.cost(attention.dot_product_attention, masks.causal(), length)
        for length in LENGTHS[:-1]
    }
    return {"full, whole matrix": whole, **found}


def show(
    nets: dict[str, Any],
    dtype: Any,
    held_out: Evaluation,
    params: Any,
    key: jax.Array,
) -> dict[str, Any]:
    """Answers by distance, and time and memory by length with their exponents."""
    read = partial(told, nets, dtype)
    answered = recall_by_distance.accuracy_by_distance(read, held_out, params, bins=BINS)
    found = costs()
    results: dict[str, float] = {}
    for name, shares in answered.items():
        for low, high, share in zip(BINS, BINS[1:], shares, strict=False):
            results[f"{name}, answered at {low} to {high - 1}"] = share
    for name, by_length in found.items():
        # Short rows cost little but the start.
        last = dict(list(by_length.items())[1:])
        for what in ("seconds", "bytes"):
            values = [getattr(one, what) for one in last.values()]
            power = attention_cost.scaling_exponent(list(last), values)
            results[f"{name}, {what} grow with length to the"] = power
        longest = max(by_length)
        results[f"{name}, ms at {longest}"] = 1000 * by_length[longest].seconds
    drawn = {name: mask_of(one, 256) for name, one in PATTERNS.items()}
    del drawn["linear"]
    figure = attention_patterns.plot_attention_patterns(
        drawn, answered, found, bins=BINS, chance=1 / VALUES
    )
    return {"results.json": results, "patterns.png": figure}


def report(loss: Loss) -> dict[str, float]:
    """Bits per byte of the text, and the share of questions answered, by pattern."""
    sums = {name: float(value) for name, value in loss.sums.items()}
    numbers = {"loss": float(loss.total) / float(loss.weight)}
    for name in PATTERNS:
        bits = sums[f"nats_{name}"] / math.log(2) / sums["bytes"]
        numbers[f"{name}_bits"] = bits
        numbers[f"{name}_answered"] = sums[f"right_{name}"] / sums["asked"]
    return numbers


def experiment(
    *,
    text: str = "austen",
    vocab_size: int = 1024,
    length: int = 512,
    depth: int = 2,
    width: int = 128,
    batch_size: int = 8,
    steps: int = 700,
    matrix_rate: float = 0.02,
    vector_rate: float = 0.01,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    seed: int = 0,
    workdir: Path | None = None,
) -> Experiment:
    """Five decoders that differ in who sees whom, on the same text with needles in it.

    Args:
        text: a shipped text, a TFDS name, or the path of a UTF-8 file or folder.
        vocab_size: symbols of the bpe tokenizer.
        length: tokens in a row.
        depth: blocks of each.
        width: features of a token, 32 for each head.
        batch_size: rows in a step.
        steps: of training.
        matrix_rate: peak learning rate of the blocks' matrices, by Muon.
        vector_rate: peak learning rate of all else, by Adam.
        dtype: of the products; auto is bfloat16 where the machine multiplies it fast.
        seed: of the parameters, the order of the rows and what is hidden where.
        workdir: where the tokenizer is kept; None keeps it in the user's cache only.
    """
    source = text_source.load(text)
    make = partial(tokenizers.bpe, source, vocab_size=vocab_size)
    symbols = tokenizers.load_or_train(workdir, make, kind="bpe", vocab_size=vocab_size)
    compute = cpu_tuning.compute_dtype() if dtype == "auto" else dtype
    code = associative_recall.NeedleVocabulary(symbols.vocab_size, KEYS, VALUES, QUESTIONS)
    parts = windows.split_text(source, symbols.encode, tail_fraction=0.0)
    rows, held_rows = (
        windows.cut_windows(ids, length=associative_recall.text_length(code, length))
        for ids in (parts.train, parts.validation)
    )
    sizes = {"vocab_size": code.vocab_size, "length": length}
    shape = {"depth": depth, "width": width}
    nets = {name: net_of(one, **sizes, **shape) for name, one in PATTERNS.items()}
    extra = code.vocab_size - symbols.vocab_size
    bytes_V = np.concatenate([symbols.bytes_V, np.zeros(extra, symbols.bytes_V.dtype)])

    def init(key: jax.Array) -> Any:
        keys = jax.random.split(key, len(nets))
        pairs = zip(nets.items(), keys, strict=True)
        return {name: decoder.init_params(net, one) for (name, net), one in pairs}

    def loss(params: Any, batch: dict[str, Any], key: jax.Array) -> Loss:
        row_B = jnp.asarray(batch.get("weight_B", 1.0)).reshape(-1, 1)
        targets_BL, question_BL = batch["targets_BL"], batch["question_BL"] * row_B
        text_weight_BL = batch["text_weight_BL"] * row_B
        spelt = jnp.sum(jnp.asarray(bytes_V, jnp.float32)[targets_BL] * text_weight_BL)
        sums, total = {"asked": question_BL.sum(), "bytes": spelt}, jnp.zeros(())
        for name, logits_BLV in told(nets, compute, params, batch).items():
            words = cross_entropy.cross_entropy(logits_BLV, targets_BL, text_weight_BL)
            answers = cross_entropy.cross_entropy(logits_BLV, targets_BL, question_BL)
            total += words.total + ASKED * answers.total
            sums[f"nats_{name}"] = words.total
            sums[f"right_{name}"] = answers.sums["correct"]
        return Loss(total, len(nets) * text_weight_BL.sum(), sums)

    train = records.shuffled(
        rows.rows,
        batch_size=batch_size,
        seed=seed,
        prepare=lambda row, rng: associative_recall.insert_needles(
            rows.random_window(row, rng), rng, code
        ),
        name=source.name,
    )
    held_out = records.ordered(
        held_rows.rows,
        batch_size=16,
        prepare=lambda row, rng: associative_recall.insert_needles(
            held_rows.at(int(row["start"])), rng, code
        ),
    )
    measured = Evaluation(held_out.batch, 16, held_out.batches, loss, report)
    return Experiment(
        name="sparse",
        fingerprint=(
            f"decoders of {depth} blocks of width {width} that attend in "
            f"{len(nets)} patterns, rows of {length}"
        ),
        init=init,
        loss=loss,
        batch=train.batch,
        batch_size=batch_size,
        optimizer=optimizers.muon_wsd(
            steps, matrix_rate=matrix_rate, vector_rate=vector_rate
        ),
        steps=steps,
        metrics=report,
        seed=seed,
        evaluations={"validation": measured},
        report=partial(show, nets, compute, measured),
        extra_files={"tokenizer.json": symbols.to_bytes()},
        tokens_per_row=len(nets) * length,
    )


if __name__ == "__main__":
    main.main(experiment)
