"""Texts for a masked language model of another library: rows that begin and end as its
tokenizer says, and the loss of masked tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from transformer.data.shuffling import Batch, EvaluationSplit, TrainingSplit
from transformer.data.text import windows
from transformer.data.text.tokenizers import Tokenizer
from transformer.interchange import byte_level_bpe, tasks, text_rows, tokenizer
from transformer.models import bert
from transformer.network import masks
from transformer.network.precision import cast_weights
from transformer.objectives import cross_entropy, denoising
from transformer.objectives.loss import Loss
from transformer.processes import masked_diffusion

# What the mask of a folder is where no file says it.
MASKS = "[MASK]", "<mask>"
# Of the held-out text, looked at for tokens that can be masked.
CHECKED_TOKENS = 1 << 20


class MaskedTokens(NamedTuple):
    """The tokenizer of a masked language model.

    plain: without the special tokens around a text; its `end` is in no row, and it does
    not decode. starts, ends: the special tokens around a row. special: the ids that are
    never masked, those of unknown words among them. padding: the id after a row.
    length: of a row.
    """

    plain: Tokenizer
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    special: tuple[int, ...]
    mask_id: int
    padding: int
    length: int

    @property
    def window(self) -> int:
        """Tokens of a text in a row."""
        return self.length - len(self.starts) - len(self.ends)


def require_masked_lm(model: tasks.Model) -> None:
    """ValueError for another kind of model."""
    if not isinstance(model.net, bert.TiedMaskedLM):
        raise ValueError(
            f"{model.folder}: expected a masked language model (BERT, RoBERTa, "
            f"XLM-RoBERTa, DistilBERT, ModernBERT), got {model.name}"
        )


def read(model: tasks.Model, sequence_length: int) -> MaskedTokens:
    """The tokenizer of a folder. sequence_length: of a row, at most. ValueError for
    another kind of model, without a mask, and where rows have no place for a text."""
    require_masked_lm(model)
    rows = tasks.rows_of(model, sequence_length)
    library, text = tokenizer.read_library(model.folder)
    library.no_padding()
    library.no_truncation()
    mask_id = _mask_id(model.folder, library)
    starts, ends = map(tuple, byte_level_bpe.template_tokens(library))
    added = library.get_added_tokens_decoder()
    special = {number for number, token in added.items() if token.special}

    def encode(pieces: Sequence[str]) -> list[np.ndarray]:
        found = library.encode_batch_fast(list(pieces), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in found]

    plain = Tokenizer(
        kind="masked",
        vocab_size=model.sizes.vocab_size,
        end=rows.padding,
        bytes_V=np.zeros(0, np.int32),
        table=(),
        encode_pieces=encode,
        data={"text": text},
    )
    made = MaskedTokens(
        plain,
        starts=starts,
        ends=ends,
        special=tuple(sorted(special | {*starts, *ends, mask_id, rows.padding})),
        mask_id=mask_id,
        padding=rows.padding,
        length=rows.length,
    )
    if made.window < 1:
        raise ValueError(
            f"--sequence_length: expected more than {len(starts) + len(ends)}, the "
            f"special tokens of a row, got {rows.length}"
        )
    return made


def _mask_id(folder: Path, library: Any) -> int:
    for name in [*text_rows.read_special_tokens(folder, "mask_token"), *MASKS]:
        found = library.token_to_id(name)
        if found is not None:
            return found
    raise ValueError(
        f"{folder}: expected a mask_token in the tokenizer, got none of "
        f"{', '.join(MASKS)}"
    )


def row(codec: MaskedTokens, ids: np.ndarray, rng: np.random.Generator) -> Batch:
    """The ids of a window as a row: `ids_BL`, the special tokens around them, and
    padding; `segment_BL`, 1 for a token and 0 for padding; `maskable_BL`, 1 for a token
    that is not special. int32."""
    whole = np.concatenate([codec.starts, ids, codec.ends]).astype(np.int32)
    padded = np.full(codec.length, codec.padding, np.int32)
    padded[: len(whole)] = whole
    segment = windows.pad(np.ones(len(whole), np.int32), codec.length)
    maskable = segment * ~np.isin(padded, codec.special)
    return {"ids_BL": padded, "segment_BL": segment, "maskable_BL": maskable}


def splits(
    parts: windows.TextSplits,
    codec: MaskedTokens,
    *,
    batch_size: int,
    seed: int,
    name: str,
) -> tuple[TrainingSplit, EvaluationSplit]:
    """The rows of `windows.window_splits`, as `row` makes them. name: of the text.
    ValueError where the windows are fewer than a batch, and where the held-out text has
    special tokens alone."""
    held_out = np.asarray(parts.validation.ids[:CHECKED_TOKENS])
    if np.isin(held_out, codec.special).all():
        raise ValueError(
            f"{name}: expected words that the tokenizer knows, got special and unknown "
            "tokens alone"
        )
    how: Any = {"length": codec.window, "batch_size": batch_size, "seed": seed}
    return windows.window_splits(parts, **how, prepare=partial(row, codec), name=name)


def loss(
    net: Any, dtype: Any, codec: MaskedTokens, *, ratio: float
) -> Callable[[Any, Any, jax.Array], Loss]:
    """(params, batch, key) -> cross-entropy of the fraction `ratio` of the tokens that
    are not special, each of which the mask stands for."""
    count = masked_diffusion.max_masked(ratio, codec.window)
    sparse = partial(cross_entropy.masked_cross_entropy, count=count)

    def apply(params: Any, batch: Any, key: jax.Array) -> Loss:
        index_BL = masks.indices(codec.length)[None]
        tokens = masks.packed(batch["segment_BL"], index_BL)
        weights = {"params": cast_weights(params, dtype)}
        return denoising.denoising_loss(
            masked_diffusion.fixed_ratio_process(
                ratio, mask_id=codec.mask_id, real_BL=batch["maskable_BL"] > 0
            ),
            lambda readout, *targets: sparse(*readout, *targets),
            lambda ids_BL, t_B: net.apply(weights, ids_BL, tokens),
            batch["ids_BL"],
            key,
            weight_B=batch["weight_B"],
        )

    return apply
