"""Pairs of texts for an encoder-decoder of another library: rows of one pair each, and
the loss of the target's tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from transformer.data import records
from transformer.data.notices import print_once
from transformer.data.records import Arrays, Records
from transformer.data.shuffling import EvaluationSplit, TrainingSplit
from transformer.interchange.text_to_text import TextCodec
from transformer.network import masks
from transformer.network.precision import cast_weights
from transformer.objectives import cross_entropy
from transformer.objectives.loss import Loss


def _pad(texts: Sequence[np.ndarray], length: int, padding: int) -> np.ndarray:
    ids_BL = np.full((len(texts), length), padding, np.int32)
    for row, ids in zip(ids_BL, texts, strict=True):
        row[: len(ids)] = ids
    return ids_BL


def _segments(texts: Sequence[np.ndarray], length: int) -> np.ndarray:
    sizes = np.array([len(ids) for ids in texts])
    return (np.arange(length) < sizes[:, None]).astype(np.int32)


def encode(
    codec: TextCodec, sources: Sequence[str], targets: Sequence[str], *, length: int
) -> tuple[Arrays, int]:
    """Rows of `length` tokens, and how many pairs are cut: a source before its end, a
    target with it. `source_BL` and `source_segment_BL`; `ids_BL`, the target behind its
    start, `targets_BL`, each next token, and `segment_BL`, 1 where there is one."""
    start, ends, *_ = codec.targets
    encoded = codec.rows.encode_pieces(sources)
    wanted = [
        ids if ids.size and int(ids[-1]) in ends else np.append(ids, ends[0])
        for ids in codec.encode_targets(targets)
    ]
    sizes = zip(encoded, wanted, strict=True)
    cut = sum(max(len(source), len(target)) > length for source, target in sizes)
    encoded = [
        ids if len(ids) <= length else np.append(ids[: length - 1], ids[-1])
        for ids in encoded
    ]
    wanted = [ids[:length] for ids in wanted]
    given = [np.insert(ids[:-1], 0, start) for ids in wanted]
    padding = codec.rows.padding
    rows = {
        "source_BL": _pad(encoded, length, padding),
        "source_segment_BL": _segments(encoded, length),
        "ids_BL": _pad(given, length, padding),
        "targets_BL": _pad(wanted, length, padding),
        "segment_BL": _segments(wanted, length),
    }
    return rows, cut


def splits(
    data: Records,
    sides: tuple[str, str],
    codec: TextCodec,
    *,
    length: int,
    batch_size: int,
    seed: int,
) -> tuple[TrainingSplit, EvaluationSplit]:
    """Shuffled training pairs, and all held-out ones in order, as `encode` makes them,
    with `weight_B`. data: of `sources.pairs`; sides: the arrays of sources and of
    targets. Pairs that are cut are counted in a line. ValueError where the targets have
    no end, and where the pairs are fewer than a batch."""
    if not codec.targets.ends:
        raise ValueError("expected an eos_token_id, the end of a target, got none")
    (train, cut), (held_out, held_out_cut) = (
        encode(codec, *(list(arrays[side]) for side in sides), length=length)
        for arrays in (data.train, data.validation)
    )
    if cut or held_out_cut:
        print_once(
            f"{data.name}: {cut} of {records.size(train)} training pairs and "
            f"{held_out_cut} of {records.size(held_out)} held-out ones are longer than "
            f"{length} tokens, of which the first are used"
        )
    how: Any = {"batch_size": batch_size, "seed": seed}
    return (
        records.training(train, **how, name=data.name),
        records.evaluation(held_out, batch_size=batch_size),
    )


def loss(
    net: Any, dtype: Any, *, objective: cross_entropy.Objective
) -> Callable[[Any, Any, jax.Array], Loss]:
    """(params, batch, key) -> `objective` of the target's tokens."""
    chunked_loss = partial(cross_entropy.chunked_loss, objective)

    def apply(params: Any, batch: Any, key: jax.Array) -> Loss:
        index_BL = masks.indices(batch["ids_BL"].shape[1])[None]
        source, target = (
            masks.packed(batch[segment_BL], index_BL)
            for segment_BL in ("source_segment_BL", "segment_BL")
        )
        inputs = batch["source_BL"], source, batch["ids_BL"], target
        weights = {"params": cast_weights(params, dtype)}
        x_BLD, w_VD = net.apply(weights, *inputs)
        weight_BL = batch["segment_BL"] * batch["weight_B"][:, None]
        return chunked_loss(x_BLD, w_VD, batch["targets_BL"], weight_BL)

    return apply
