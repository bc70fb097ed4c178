"""Depth as the dial: the sizes of a language model's run that follow from its depth.

Every formula passes through `BASE`, the default run, which was tuned by hand on two CPU
cores (experiments/LOG.md), and holds from there up: below it, of the run's sizes, those
of `BASE` stay. Where a source gives an exponent, the value is that of `BASE` times a
ratio to this power; where it gives a value, the formula ends in it. docs/scaling.md has
a table of depths, and says what is a choice of this project.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class Scale(NamedTuple):
    """The sizes of a run. depth: blocks. tokens: of the whole run, repeated ones
    counted each time. Other fields as in `scale`."""

    depth: int
    width: int
    heads: int
    kv_heads: int
    sequence_length: int
    batch_size: int
    steps: int
    muon_learning_rate: float
    adam_learning_rate: float
    chunks: int
    tokens: int

    @property
    def parameters(self) -> int:
        """Of the matrices of the default net's blocks, without the tables of the
        vocabulary (N of Kaplan et al. 2020, arXiv 2001.08361, equation 2.1)."""
        return _parameters(self.depth, self.width, self.heads, self.kv_heads)


def _parameters(depth: int, width: int, heads: int, kv_heads: int) -> int:
    return depth * width**2 * (10 * heads + 2 * kv_heads) // heads


BASE_VOCABULARY = 2048
BASE = Scale(
    depth=3,
    width=192,
    heads=3,
    kv_heads=3,
    sequence_length=256,
    batch_size=8,
    steps=900,
    muon_learning_rate=0.02,
    adam_learning_rate=0.01,
    chunks=2,
    tokens=900 * 8 * 256,
)
# Features of a block, for each block.
ASPECT = 64
# Of a head, and of one in nets of the width WIDE on.
HEAD_FEATURES, WIDE_HEAD_FEATURES, WIDE = 64, 128, 2048
# The least number of heads of keys and values, where there are as many.
GROUPS = 8
TOKENS_PER_PARAMETER = 20.0
BATCH_EXPONENT = 0.3271


def scale(
    depth: int,
    *,
    vocab_size: int = BASE_VOCABULARY,
    width: int | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    sequence_length: int | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
    muon_learning_rate: float | None = None,
    adam_learning_rate: float | None = None,
    chunks: int | None = None,
) -> Scale:
    """The sizes of a run of `depth` blocks. Each that is None is derived, in this
    order, from the depth and from those before it; the others are as given.

    ValueError for a width that whole heads do not fill, for groups that do not divide
    the heads, and for chunks that do not divide a row.

    Args:
        width: features of a token; derived: 64 a block (the aspect ratio of nanochat,
            Karpathy 2025), rounded up to whole heads.
        heads: of queries; derived: of 64 features, from a width of 2048 on an even
            number of 128 features, the lanes of a TPU.
        kv_heads: of keys and values; derived: the least divisor of the heads from 8 on
            (GQA-8, Ainslie et al. 2023, arXiv 2305.13245, section 3.3), all of fewer.
        sequence_length: tokens of a row; derived: 256 at 3 blocks, in proportion to the
            depth, so that attention keeps its share of the FLOPs (Kaplan et al. 2020,
            arXiv 2001.08361, equation 2.2), down to a power of two.
        batch_size: rows of a step; derived: 2048 tokens at 3 blocks, with the compute
            of the run to the power 0.3271 (DeepSeek 2024, arXiv 2401.02954, equation
            1), to the nearest power of two.
        steps: of training; derived: 25/18 tokens a parameter of the blocks at 3 of
            them, with the square of the depth up to 20 from 12 on (Hoffmann et al.
            2022, arXiv 2203.15556, table 3).
        muon_learning_rate: peak learning rate of the blocks' matrices, by Muon;
            derived: 0.02, as an orthogonal update changes features by as much at every
            width (Yang et al. 2023, arXiv 2310.17813).
        adam_learning_rate: peak learning rate of all other parameters, by Adam;
            derived: 0.01 at a width of 192, with the width to the power -1/2, between
            the 1 of embeddings and the 1 / width of readouts (Yang et al. 2022, arXiv
            2203.03466, table 3).
        chunks: parts of a row whose logits are computed one after another; derived: 2
            at 3 blocks, with vocabulary over width, to the nearest power of two.
    """
    width, heads, kv_heads = _attention_sizes(depth, width, heads, kv_heads)
    parameters = _parameters(depth, width, heads, kv_heads)
    deeper = max(depth, BASE.depth) / BASE.depth
    length = sequence_length or BASE.sequence_length << int(math.log2(deeper))
    share = min(TOKENS_PER_PARAMETER, BASE.tokens / BASE.parameters * deeper**2)
    tokens = max(share * parameters, BASE.tokens)
    compute = max(parameters / BASE.parameters, 1) * tokens / BASE.tokens
    base = BASE.batch_size * BASE.sequence_length
    rows = max(_power_of_two(base * compute**BATCH_EXPONENT) // length, 1)
    batch_size = batch_size or rows
    steps = steps or max(round(tokens / (batch_size * length)), 1)
    if adam_learning_rate is None:
        wider = max(width / BASE.width, 1)
        adam_learning_rate = float(f"{BASE.adam_learning_rate * wider**-0.5:.3g}")
    if chunks is None:
        larger = vocab_size / BASE_VOCABULARY / max(width / BASE.width, 1)
        chunks = min(_power_of_two(BASE.chunks * larger), length & -length)
    elif length % chunks:
        raise ValueError(
            f"--chunks: expected a divisor of the sequence length, {length}, got "
            f"{chunks}"
        )
    return Scale(
        depth=depth,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        sequence_length=length,
        batch_size=batch_size,
        steps=steps,
        muon_learning_rate=muon_learning_rate or BASE.muon_learning_rate,
        adam_learning_rate=adam_learning_rate,
        chunks=chunks,
        tokens=steps * batch_size * length,
    )


def earlier_flags(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The values that flags of `scale`, and of the compilation of layers, had in runs
    whose record does not name them: from before there were such flags."""
    width = recorded.get("width", ASPECT * recorded["depth"])
    heads = width // HEAD_FEATURES
    sizes = {"width": width, "heads": heads, "kv_heads": heads, "chunks": 2}
    return {**sizes, "layers": "unrolled", "remat": "none"}


def _attention_sizes(
    depth: int, width: int | None, heads: int | None, kv_heads: int | None
) -> tuple[int, int, int]:
    features = WIDE_HEAD_FEATURES
    if (width or ASPECT * depth) < WIDE:
        features = HEAD_FEATURES
    if width is None:
        unit = heads or (features if features == HEAD_FEATURES else 2 * features)
        width = -(-ASPECT * depth // unit) * unit
    if heads is None and width % features:
        raise ValueError(
            f"--width: expected a multiple of {features}, the features of a head, or "
            f"--heads too, got {width}"
        )
    heads = heads or width // features
    if width % (2 * heads):
        raise ValueError(
            f"--heads: expected heads of an even number of features, got {heads} for a "
            f"width of {width}"
        )
    if kv_heads is None:
        kv_heads = next(
            g for g in range(min(heads, GROUPS), heads + 1) if not heads % g
        )
    elif heads % kv_heads:
        raise ValueError(
            f"--kv_heads: expected a divisor of the heads, {heads}, got {kv_heads}"
        )
    return width, heads, kv_heads


def _power_of_two(number: float) -> int:
    """The nearest to `number`, by its ratio; at least 1."""
    return 1 << max(round(math.log2(number)), 0)
