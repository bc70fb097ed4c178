"""Recordings with their texts for Whisper (Radford et al. 2022, arXiv 2212.04356): rows
of one recording each, and the loss of its text by teacher forcing.

The decoder is given the prompt that `generation.transcription` begins with (start of
transcript, language, task, no timestamps) and the text; it is trained on the text and
its end. Tokens of the prompt have weight 0: they are the same in every row and given in
transcription. The paper trains them too and leaves out the text before a window alone,
which there is none of here (section 2.3).

A recording that is longer than the encoder's window is left out, for no one knows which
part of its text is spoken in it, and so is a text that is longer than a row: its end
would be learned at the wrong word. A line counts both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from transformer.data import records
from transformer.data.audio import log_mel
from transformer.data.notices import print_once
from transformer.data.readers import audio_files
from transformer.data.records import Arrays, Records
from transformer.data.shuffling import EvaluationSplit, TrainingSplit
from transformer.data.text.tokenizers import Tokenizer
from transformer.generation.transcription import SpeechTokens
from transformer.interchange import speech, tasks
from transformer.interchange import tokenizer as tokenizer_
from transformer.network import masks
from transformer.network.precision import cast_weights
from transformer.objectives import cross_entropy
from transformer.objectives.loss import Loss

# Languages that are written without spaces, as in Whisper's own timing of words.
UNSPACED = ("zh", "ja", "th", "lo", "my", "yue")
SPLITS = "training", "held-out"
# Chunks of the readout, and a divisor of rows' lengths where the model allows it.
CHUNKS = 8


class SpeechCodec(NamedTuple):
    """What a folder says of recordings and of texts.

    language: of the recordings, None for a model of one language. window: samples of a
    recording, at most. mels: features of a frame. length: of a row, the prompt among
    its tokens, at most.
    """

    tokenizer: Tokenizer
    tokens: SpeechTokens
    language: str | None
    task: str
    window: int
    mels: int
    length: int

    @property
    def prompt(self) -> list[int]:
        """The tokens before a text."""
        spoken = None if self.language is None else self.tokens.languages[self.language]
        return self.tokens.prompt(spoken, self.task)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The tokens of each text, without prompt and end. A text begins with a space,
        as those that Whisper writes do, unless its language has none."""
        is_spaced = self.task == "translate" or self.language not in UNSPACED
        written = [f" {text}" if is_spaced else text for text in texts]
        return self.tokenizer.encode_pieces(written)

    def frames(self, file: str) -> np.ndarray:
        """The log-mel frames of a recording, padded with silence to a window."""
        samples = audio_files.decode(file).mono()
        if len(samples) > self.window:
            raise ValueError(
                f"{file}: expected at most {self.window} samples, got {len(samples)}: "
                "it changed"
            )
        padded = np.pad(samples, (0, self.window - len(samples)))
        return log_mel.log_mel(padded, mels=self.mels)


def read(
    model: tasks.Model, language: str | None, task: speech.SpeechTask, length: int
) -> SpeechCodec:
    """The tokenizer and the features of a folder. language: of the recordings, a code
    such as pt; None for a model of English only. length: of a row, at most.

    ValueError for another kind of model, a language or task that it has not, a model of
    several languages without `language`, and rows without a place for a text.
    """
    if not tasks.transcribes(model):
        raise ValueError(f"{model.folder}: expected Whisper, got {model.name}")
    sizes = model.sizes
    speech.check_features(model.folder, mels=sizes.mels)
    tokenizer = tokenizer_.read_tokenizer(model.folder)
    tokens = speech.read_speech_tokens(model.folder, tokenizer, sizes.vocab_size)
    if tokens.languages and language is None:
        raise ValueError(
            "--language: expected that of the recordings, one of "
            f"{', '.join(sorted(tokens.languages))}, got none"
        )
    speech.check_options(tokens, language, task)
    codec = SpeechCodec(
        tokenizer,
        tokens,
        language if tokens.languages else None,
        task,
        window=2 * sizes.source_length * log_mel.HOP,
        mels=sizes.mels,
        length=min(length, sizes.target_length),
    )
    if codec.length <= len(codec.prompt):
        raise ValueError(
            f"--sequence_length: expected more than {len(codec.prompt)}, the tokens of "
            f"the prompt, got {codec.length}"
        )
    return codec


def text_rows(
    codec: SpeechCodec, texts: Sequence[np.ndarray], *, length: int
) -> dict[str, np.ndarray]:
    """`ids_BL`, the prompt and a text; `targets_BL`, each next token, the last one the
    end; `segment_BL`, 1 for a token and 0 for padding, int32; `weight_BL`, float32, 1
    where the target is of the text or its end."""
    end, given = codec.tokens.ends[0], len(codec.prompt)
    shape = len(texts), length
    ids_BL, targets_BL = (np.full(shape, end, np.int32) for _ in range(2))
    segment_BL, weight_BL = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    for row, text in enumerate(texts):
        whole = [*codec.prompt, *text, end]
        size = len(whole) - 1
        ids_BL[row, :size], targets_BL[row, :size] = whole[:-1], whole[1:]
        segment_BL[row, :size], weight_BL[row, given - 1 : size] = 1, 1
    return {
        "ids_BL": ids_BL,
        "targets_BL": targets_BL,
        "segment_BL": segment_BL,
        "weight_BL": weight_BL,
    }


def _encode(codec: SpeechCodec, arrays: Arrays, name: str) -> list[np.ndarray]:
    """The tokens of each text; ValueError for a text with a token that is none."""
    found = codec.encode(list(arrays["text"]))
    tokens = codec.tokens
    special = [tokens.start, *tokens.languages.values(), *tokens.tasks.values()]
    special += [tokens.without_timestamps, *tokens.ends]
    for text, ids in zip(arrays["text"], found, strict=True):
        if np.isin(ids, special).any():
            raise ValueError(
                f"{name}: expected texts without tokens of Whisper's prompt or its "
                f"end, got {text[:60]!r}"
            )
    return found


def drop_long(data: Records, codec: SpeechCodec) -> Records:
    """`data` of `sources.recordings`, with `ids`, the tokens of each text, and without
    the recordings that are longer than a window or whose texts are longer than a row,
    which are counted in a line. ValueError where a split has no other, and for a text
    with a token of the prompt or of an end."""
    parts, counts = [], []
    for arrays in (data.train, data.validation):
        texts = _encode(codec, arrays, data.name)
        too_long = arrays["samples"] > codec.window
        room = codec.length - len(codec.prompt)
        wordy = ~too_long & np.array([len(ids) > room for ids in texts])
        counts.append((int(too_long.sum()), int(wordy.sum()), len(texts)))
        ids = np.empty(len(texts), object)
        ids[:] = texts
        keep = ~(too_long | wordy)
        arrays = {**arrays, "ids": ids}
        parts.append({name: array[keep] for name, array in arrays.items()})
    _report_long(data.name, codec, counts)
    return data._replace(train=parts[0], validation=parts[1])


def _report_long(
    name: str, codec: SpeechCodec, counts: Sequence[tuple[int, int, int]]
) -> None:
    """Print what is left out: of each split the long recordings, those with long texts,
    and all. ValueError where nothing is left."""
    seconds = f"{codec.window / log_mel.RATE:g} s"
    room = codec.length - len(codec.prompt)
    for split, (long, wordy, count) in zip(SPLITS, counts, strict=True):
        if long + wordy == count:
            raise ValueError(
                f"{name}: expected {split} recordings of at most {seconds} and {room} "
                f"tokens, got {count}, of which {long} are longer and {wordy} have "
                "longer texts"
            )
    (long, wordy, _), (others, other_wordy, _) = counts
    if any((long, wordy, others, other_wordy)):
        of = [
            f"{a + b} of {c} {s}" for s, (a, b, c) in zip(SPLITS, counts, strict=True)
        ]
        print_once(
            f"{name}: {' and '.join(of)} recordings are left out: {long + others} are "
            f"longer than {seconds}, {wordy + other_wordy} have texts of more than "
            f"{room} tokens"
        )


def row_length(data: Records, codec: SpeechCodec) -> int:
    """Tokens of a row: those of the longest text of `drop_long` with the prompt,
    rounded up."""
    longest = max(
        len(ids) for part in (data.train, data.validation) for ids in part["ids"]
    )
    length = len(codec.prompt) + longest
    return min(length + -length % CHUNKS, codec.length)


def splits(
    data: Records, codec: SpeechCodec, *, length: int, batch_size: int, seed: int
) -> tuple[TrainingSplit, EvaluationSplit]:
    """Shuffled training recordings, and all held-out ones in order, with `weight_B`:
    `text_rows` of `length` tokens and `raw_BLP`, the frames, which are computed when a
    batch is. data: of `drop_long`. ValueError where they are fewer than a batch."""

    def prepare(row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        rest = {name: value for name, value in row.items() if name != "file"}
        return {**rest, "raw_BLP": codec.frames(row["file"])}

    train, held_out = (
        {"file": part["file"], **text_rows(codec, list(part["ids"]), length=length)}
        for part in (data.train, data.validation)
    )
    how: Any = {"batch_size": batch_size, "prepare": prepare}
    return (
        records.training(train, **how, seed=seed, name=data.name),
        records.evaluation(held_out, **how),
    )


def loss(net: Any, dtype: Any) -> Callable[[Any, Any, jax.Array], Loss]:
    """(params, batch, key) -> cross-entropy of the tokens of weight 1."""

    def apply(params: Any, batch: Any, key: jax.Array) -> Loss:
        raw_BLP, ids_BL = batch["raw_BLP"], batch["ids_BL"]
        length = ids_BL.shape[1]
        source = masks.single_document(raw_BLP.shape[1] // 2)
        target = masks.packed(batch["segment_BL"], masks.indices(length)[None])
        weights = {"params": cast_weights(params, dtype)}
        x_BLD, w_VD = net.apply(weights, raw_BLP, source, ids_BL, target)
        return cross_entropy.chunked_loss(
            cross_entropy.cross_entropy,
            x_BLD,
            w_VD,
            batch["targets_BL"],
            batch["weight_BL"] * batch["weight_B"][:, None],
            chunks=math.gcd(length, CHUNKS),
        )

    return apply
