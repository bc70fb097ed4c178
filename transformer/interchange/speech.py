"""Sound files to text by Whisper: what a folder says of its tokens, windows of sound,
and the text of a file."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from transformer.data.audio import log_mel
from transformer.data.readers import audio_files
from transformer.data.text.tokenizers import Tokenizer
from transformer.generation import transcription
from transformer.generation.transcription import SpeechTokens
from transformer.interchange import generation_settings, tensor_files
from transformer.interchange import tokenizer as tokenizer_

FEATURES = "preprocessor_config.json"
SpeechTask = Literal["transcribe", "translate"]
# Text that zlib makes smaller by more than this repeats itself (Whisper, section 4.5).
COMPRESSION = 2.4
# What the features of a folder must be, where it says so.
EXPECTED_FEATURES = {
    "sampling_rate": log_mel.RATE,
    "n_fft": log_mel.FRAME,
    "hop_length": log_mel.HOP,
    "padding_value": 0.0,
    "dither": 0.0,
    "do_normalize": False,
}


class Transcript(NamedTuple):
    """The text of a file. language: its code, None for a model of one language.
    seconds: of sound."""

    text: str
    language: str | None
    seconds: float


def read_speech_tokens(
    folder: Path, tokenizer: Tokenizer, vocab_size: int
) -> SpeechTokens:
    """The tokens of a folder's generation_config.json; languages, tasks and the token
    without timestamps are those of tokenizer.json, where it does not name them.

    ValueError where there is no such token, or one outside the vocabulary.
    """
    values = generation_settings.read(folder)
    content = json.loads(tokenizer.data["text"])
    added = {t["content"]: t["id"] for t in content.get("added_tokens", [])}
    named = {k: v for k, v in added.items() if re.fullmatch(r"<\|[a-z]{2,3}\|>", k)}
    languages = values.get("lang_to_id") or named
    tasks = values.get("task_to_id") or {
        task: added[f"<|{task}|>"]
        for task in ("transcribe", "translate")
        if f"<|{task}|>" in added
    }
    # An English-only model has one token less, and no use for these.
    if not values.get("is_multilingual", bool(languages and tasks)):
        languages, tasks = {}, {}
    without: Any = values.get("no_timestamps_token_id", added.get("<|notimestamps|>"))
    start: Any = values.get("decoder_start_token_id")
    ends = tuple(tokenizer.stops)
    suppressed = values.get("suppress_tokens") or []
    found = SpeechTokens(
        start=start,
        languages={name.strip("<|>"): one for name, one in languages.items()},
        tasks=dict(tasks),
        without_timestamps=without,
        ends=ends,
        excluded=tuple(suppressed),
        excluded_first=tuple(values.get("begin_suppress_tokens") or []),
    )
    _check_tokens(folder, found, vocab_size)
    times = range(found.without_timestamps, vocab_size)
    return found._replace(
        excluded=tuple(sorted({*found.excluded, *times} - {*ends})),
    )


def _check_tokens(folder: Path, tokens: SpeechTokens, vocab_size: int) -> None:
    groups = tokens._asdict() | {
        "languages": tokens.languages.values(),
        "tasks": tokens.tasks.values(),
    }
    for name, group in groups.items():
        ids = group if hasattr(group, "__iter__") else [group]
        for one in ids:
            if type(one) is not int or not 0 <= one < vocab_size:
                raise ValueError(
                    f"{folder}: {name}: expected tokens of a Whisper below "
                    f"{vocab_size}, got {str(one)[:60]}"
                )


def check_features(folder: Path, *, mels: int) -> None:
    """ValueError where a folder's features are not those of `log_mel`."""
    if not (folder / FEATURES).is_file():
        return
    values = tensor_files.read_json_file(folder / FEATURES)
    for key, expected in {**EXPECTED_FEATURES, "feature_size": mels}.items():
        if values.get(key, expected) != expected:
            raise ValueError(
                f"{folder / FEATURES}: {key}: expected {expected}, got "
                f"{str(values[key])[:60]}"
            )


def transcribe(
    folder: Path,
    net: Any,
    sizes: Any,
    params: Any,
    files: Sequence[Path | str],
    *,
    language: str | None = None,
    task: SpeechTask = "transcribe",
) -> list[Transcript]:
    """The text of each file. net, sizes, params: of a Whisper. language: a code such as
    en; that of the first window if None.

    ValueError for a folder without tokenizer, for a language or task that the model has
    not, and as `audio_files.read_audio`.
    """
    if not files:
        raise ValueError("audio: expected files of sound, got none")
    check_features(folder, mels=sizes.mels)
    tokenizer = tokenizer_.read_tokenizer(folder)
    tokens = read_speech_tokens(folder, tokenizer, sizes.vocab_size)
    check_options(tokens, language, task)
    sounds = [audio_files.read_audio(file) for file in files]
    transcriber = transcription.make_transcriber(
        net, tokens, length=sizes.target_length
    )
    codes = {token: code for code, token in tokens.languages.items()}
    found = []
    for file, samples in zip(files, sounds, strict=True):
        length = 2 * sizes.source_length * log_mel.HOP
        windows = log_mel.cut_windows(samples, length)
        token, texts_ids = transcription.transcribe_windows(
            transcriber,
            params,
            tokens,
            [log_mel.log_mel(window, mels=sizes.mels) for window in windows],
            language=language,
            task=task,
        )
        texts = [tokenizer.decode(ids) for ids in texts_ids]
        room = sizes.target_length - len(tokens.prompt(token, task))
        for number, (text, ids) in enumerate(zip(texts, texts_ids, strict=True), 1):
            _report(f"{file}, window {number} of {len(windows)}", text, len(ids), room)
        spoken = None if token is None else codes[token]
        seconds = len(samples) / log_mel.RATE
        found.append(Transcript("".join(texts).strip(), spoken, seconds))
    return found


def check_options(tokens: SpeechTokens, language: str | None, task: str) -> None:
    """ValueError for a language, a code or None for any, and a task that a model with
    these tokens has not."""
    if not tokens.languages:
        if language not in (None, "en") or task != "transcribe":
            raise ValueError(
                "expected language en and task transcribe, for the model is of English "
                f"only, got {language} and {task}"
            )
    elif language is not None and language not in tokens.languages:
        raise ValueError(
            f"language: expected one of {', '.join(sorted(tokens.languages))}, got "
            f"{language}"
        )
    elif task not in tokens.tasks:
        raise ValueError(f"task: expected one of {list(tokens.tasks)}, got {task}")


def _report(where: str, text: str, count: int, room: int) -> None:
    """Say in one line where a transcript was cut off, or repeats itself."""
    content = text.strip().encode()
    if count >= room:
        print(f"{where}: the transcript was cut off at {room} tokens")
    if content and len(content) > COMPRESSION * len(zlib.compress(content)):
        print(f"{where}: the transcript repeats itself; it may be wrong")
