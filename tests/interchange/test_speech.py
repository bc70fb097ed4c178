"""Transcripts: the most likely tokens after the prompt, but those that are excluded;
whatever the folder says of its tokens is checked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from scipy.io import wavfile
from tokenizers import AddedToken, Tokenizer, decoders, models

from transformer.data.audio import log_mel
from transformer.data.readers import audio_files
from transformer.generation import transcription
from transformer.interchange import (
    folder,
    generation_settings,
    speech,
    tasks,
    tokenizer,
)
from transformer.models import decoder
from transformer.network import masks

FIXTURE = Path(__file__).parent / "fixtures" / "whisper"
SPECIAL = ("endoftext", "start", "en", "pt", "translate", "transcribe", "notimestamps")
FIRST = 50
GENERATION: dict[str, Any] = {
    "eos_token_id": FIRST,
    "decoder_start_token_id": FIRST + 1,
    "suppress_tokens": [1, 2, 3],
    "begin_suppress_tokens": [4, 35],
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The fixture, with a tokenizer of 50 letters and the special tokens; the 10 tokens
    behind are of time."""
    made = tmp_path / "whisper"
    shutil.copytree(FIXTURE, made)
    (made / generation_settings.FILE).write_text(json.dumps(GENERATION))
    letters = sorted({chr(c) for c in range(65, 65 + FIRST)})
    library = Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, []))
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(
        [AddedToken(f"<|{name}|>", special=True) for name in SPECIAL]
    )
    library.save(str(made / "tokenizer.json"))
    return made


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A second of sound, three windows of the fixture."""
    samples = 0.3 * np.random.default_rng(0).standard_normal(log_mel.RATE)
    wavfile.write(tmp_path / "sound.wav", log_mel.RATE, samples.astype(np.float32))
    return tmp_path / "sound.wav"


def make_logits(net: Any, params: Any, length: int) -> Any:
    """(window, prompt) -> float32 logits [V] of the next token, without a cache."""

    @jax.jit
    def logits_of(raw_BLP: jax.Array, ids_BL: jax.Array) -> jax.Array:
        source, target = masks.single_document(20), masks.single_document(length)
        inputs = raw_BLP, source, ids_BL, target
        return decoder.logits(net.apply({"params": params}, *inputs))

    def logits(window: np.ndarray, prompt: list[int]) -> np.ndarray:
        raw_BLP = log_mel.log_mel(window, mels=5)[None]
        ids_BL = np.array([prompt + [0] * (length - len(prompt))], np.int32)
        return np.array(logits_of(raw_BLP, ids_BL)[0, len(prompt) - 1])

    return logits


def transcribe(place: Path, files: list[Path], **options: Any) -> Any:
    """The model and the transcripts. Positions count for more than in the fixture,
    which would repeat one token."""
    opened = folder.open_folder(place, scanned=True)
    params = opened.read_params()
    params["decoder"]["position"]["position_LD"] *= 10
    made = opened.net, opened.sizes, params
    return made, speech.transcribe(place, *made, files, **options)


def tokens_of(place: Path) -> transcription.SpeechTokens:
    return speech.read_speech_tokens(place, tokenizer.read_tokenizer(place), 67)


def test_a_transcript_has_the_most_likely_tokens(place: Path, sound: Path) -> None:
    """In the most likely language of the first window; of all windows."""
    (net, sizes, params), (found,) = transcribe(place, [sound])
    windows = log_mel.cut_windows(audio_files.read_audio(sound), 40 * log_mel.HOP)
    assert len(windows) == 3
    start, english, _, _, task, silent = range(FIRST + 1, FIRST + 7)
    logits = make_logits(net, params, sizes.target_length)
    logits_V = logits(windows[0], [start])
    language = int(logits_V[english : english + 2].argmax())
    assert found.language == ("en", "pt")[language] and found.seconds == 1.0
    text, choices = "", []
    for window in windows:
        ids = [start, english + language, task, silent]
        excluded = GENERATION["begin_suppress_tokens"]
        choices.append(int(logits(window, ids).argmax()))
        while len(ids) < sizes.target_length:
            logits_V = logits(window, ids)
            logits_V[[1, 2, 3, *range(silent, 67), *excluded]] = -np.inf
            excluded = []
            if logits_V.argmax() == FIRST:
                break
            ids.append(int(logits_V.argmax()))
        text += "".join(chr(65 + i) for i in ids[4:] if i < FIRST)
    # The first token would be another without the exclusion.
    assert {*choices} & {*GENERATION["begin_suppress_tokens"]}, choices
    assert found.text == text.strip() and len(set(text)) > 5


def test_the_prompt_says_language_and_task(place: Path) -> None:
    tokens = tokens_of(place)
    assert tokens.languages == {"en": 52, "pt": 53}
    assert tokens.prompt(53, "translate") == [51, 53, 54, 56]


def test_a_language_that_the_model_has_not_is_refused(place: Path, sound: Path) -> None:
    with pytest.raises(ValueError, match="language: expected one of en, pt, got fr"):
        transcribe(place, [sound], language="fr")
    with pytest.raises(ValueError, match="expected files of sound, got none"):
        transcribe(place, [])


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            generation_settings.FILE,
            {"suppress_tokens": [67]},
            "excluded: expected tokens",
        ),
        (
            generation_settings.FILE,
            {"decoder_start_token_id": "x"},
            "start: expected tokens",
        ),
        (
            generation_settings.FILE,
            {"lang_to_id": {"<|en|>": -1}},
            "languages: expected",
        ),
        (speech.FEATURES, {"hop_length": 80}, "hop_length: expected 160, got 80"),
        (speech.FEATURES, {"feature_size": 80}, "feature_size: expected 5, got 80"),
    ],
)
def test_tokens_and_features_are_checked(
    file: str, change: dict[str, Any], message: str, place: Path, sound: Path
) -> None:
    values = GENERATION if file == generation_settings.FILE else {}
    (place / file).write_text(json.dumps({**values, **change}))
    with pytest.raises(ValueError, match=message):
        transcribe(place, [sound])


def test_a_model_of_english_only_has_a_short_prompt(place: Path, sound: Path) -> None:
    values = {**GENERATION, "is_multilingual": False}
    (place / generation_settings.FILE).write_text(json.dumps(values))
    assert tokens_of(place).prompt(None, "transcribe") == [51, 56]
    with pytest.raises(ValueError, match="the model is of English only, got pt"):
        transcribe(place, [sound], language="pt")
    # English may be said by name.
    echo = transcription.Transcriber(
        lambda params, raw_BLP: None,
        None,
        lambda params, memory, ids_BL: (ids_BL, np.array([ids_BL.shape[1]])),
    )
    spoken, texts = transcription.transcribe_windows(
        echo, None, tokens_of(place), [np.zeros(1)], language="en", task="transcribe"
    )
    assert spoken is None and texts == [[]]


def test_a_transcript_that_repeats_itself_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    speech._report("a.wav", "You. " * 40, 80, 100)
    speech._report("b.wav", "It is a truth universally acknowledged", 9, 9)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "a.wav: the transcript repeats itself; it may be wrong",
        "b.wav: the transcript was cut off at 9 tokens",
    ]


def test_only_whisper_offers_the_verb(place: Path) -> None:
    opened = folder.open_folder(place)
    model = tasks.Model(place, opened.architecture, opened.sizes, opened.net)
    assert list(tasks.verbs_of(model)) == ["transcribe"]
    with pytest.raises(ValueError, match="--audio: expected sound files, got none"):
        tasks.transcribe(model, None, place)
    other = folder.open_folder(FIXTURE.parent / "t5")
    model = tasks.Model(other.folder, other.architecture, other.sizes, other.net)
    assert "transcribe" not in tasks.verbs_of(model)
